"""A run that is out of time ends as one that passed, and says what it did not reach."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
TESTS = """
def test_a_thing(): pass
def test_another(): assert False
"""


def run_within(seconds: str, folder: Path) -> tuple[int, str]:
    """The exit status of pytest in a process of its own, and what it printed."""
    (folder / "test_made_up.py").write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "-p", "tests.time_limit", "--time-limit", seconds, "test_made_up.py"]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout


def test_what_was_not_reached_is_named_and_is_no_failure(tmp_path: Path) -> None:
    code, printed = run_within("0", tmp_path)
    assert code == 0, printed
    assert "2 tests not reached in the time that was given, 0 s" in printed
    assert "test_made_up.py::test_another" in printed
    assert "2 skipped" in printed


def test_what_failed_in_time_is_a_failure(tmp_path: Path) -> None:
    code, printed = run_within("1000", tmp_path)
    assert code == 1
    assert "1 failed, 1 passed" in printed
    assert "not reached" not in printed
