"""Commands do their work whoever closed their streams, and say in a line what they could not show."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

# What a command opens while it works is not to get the number of a stream, for children inherit those.
OPENER = """
import os, subprocess, sys
from t5enc.machine.streams import open_streams
open_streams()
number = os.open(os.devnull, os.O_RDONLY)
child = subprocess.run([sys.executable, "-c", "import os; [os.fstat(n) for n in range(3)]"])
print("shown")
print("shown", file=sys.stderr)
os._exit(0 if number > 2 and not child.returncode else 1)
"""


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_lead_nowhere(closed: str) -> None:
    command = ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-c", OPENER]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0
    assert ended.stdout == ("" if ">&-" in closed.split() else "shown\n")
    assert ended.stderr == ("" if "2>&-" in closed else "shown\n")


def run(*arguments: str, shell: str = '"$@"', cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = ["sh", "-c", shell, "sh", sys.executable, "-m", "t5enc", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)


# As a command writes: the names of files that it was given.
WRITER = """
import sys
from t5enc.machine.streams import open_streams, speak_utf8
speak_utf8()
open_streams()
print(sys.argv[1].encode(), sys.argv[1])
print(sys.argv[1], file=sys.stderr)
"""
NO_UTF8 = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}


@pytest.mark.parametrize(
    ("environ", "shown"),
    [(NO_UTF8, "Fu\xdf"), ({"LC_ALL": "C"}, "Fu\xdf"), ({"PYTHONIOENCODING": "ascii"}, r"Fu\xdf")],
    ids=["no UTF-8", "C", "ASCII streams"],
)
def test_names_of_files_are_shown_in_every_locale(environ: dict[str, str], shown: str) -> None:
    name = "Fu\xdf"
    command = [sys.executable, "-c", WRITER, name]
    ended = subprocess.run(command, capture_output=True, encoding="utf-8", check=True, env=os.environ | environ)
    assert ended.stdout == f"{name.encode()!r} {shown}\n"
    assert ended.stderr == f"{shown}\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_an_output_that_is_full_is_one_line_and_exit_code_1() -> None:
    ended = run("recipes", shell='"$@" > /dev/full')
    assert ended.stderr == "error: standard output cannot be written: No space left on device\n"
    assert ended.returncode == 1


@pytest.mark.parametrize("lost", ["2> /dev/full", "2>&1 >/dev/null | true"])
def test_an_error_that_cannot_be_said_has_its_exit_code_all_the_same(lost: str, tmp_path: Path) -> None:
    ended = run("fsck", str(tmp_path / "nowhere"), shell=f'("$@"; echo $? > "{tmp_path}/code") {lost}')
    assert (tmp_path / "code").read_text() == "2\n"
    assert ended.stderr == ""


def test_a_reader_that_goes_away_early_is_no_error() -> None:
    ended = run("recipes", shell='"$@" | head -1')
    assert ended.stderr == ""
    assert len(ended.stdout.splitlines()) == 1


def test_a_working_folder_that_was_deleted_is_one_line(tmp_path: Path) -> None:
    ended = run("recipes", shell=f'mkdir "{tmp_path}/gone" && cd "{tmp_path}/gone" && rmdir "{tmp_path}/gone" && "$@"')
    assert ended.stderr.startswith("error: expected a working folder that exists, got No such file or directory")
    assert (ended.returncode, len(ended.stderr.splitlines())) == (2, 1)
