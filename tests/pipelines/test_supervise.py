"""The process around a driver: how it ends is told, and neither outlives the other."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines import supervise as supervise_module
from pipelines.job import EncodeJob
from pipelines.supervise import explain_loss, supervise
from t5enc.errors import DriverError
from tests.pipelines.conftest import WriteCaptions

REPOSITORY = Path(__file__).resolve().parents[2]


def start(inputs: Path, output: Path) -> subprocess.Popen[bytes]:
    arguments = [str(inputs), "-o", str(output), "--model", "builtin:tiny", "--overwrite"]
    command = [sys.executable, "-m", "t5enc", "encode", *arguments]
    return subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def await_truth(question: Callable[[], bool]) -> None:
    """Poll until it holds; a minute is a failure."""
    deadline = time.monotonic() + 60
    while not question():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def find_child(pid: int) -> int:
    """The driver, once it is there."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    await_truth(lambda: bool(children.read_text().split()))
    return int(children.read_text().split()[0])


def test_an_error_of_the_driver_is_its_message_and_code(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    job = EncodeJob(inputs=[str(tmp_path / "nowhere")], output=str(tmp_path / "out"), model="builtin:tiny")
    assert supervise(job) == 4
    said = capfd.readouterr().err
    assert "nowhere: expected a file, a folder or a glob" in said
    assert "Traceback" not in said


def test_a_killed_driver_is_told_with_the_command_that_goes_on(write_captions: WriteCaptions, tmp_path: Path) -> None:
    process = start(write_captions(["a red bird"]), tmp_path / "out")
    os.kill(find_child(process.pid), signal.SIGKILL)
    _, said = process.communicate(timeout=60)
    assert process.returncode == DriverError.exit_code
    assert b"was killed by SIGKILL without a word" in said
    assert b"encode" in said.splitlines()[-1]
    assert b"--overwrite" not in said, "the command resumes, it does not start anew"


def test_a_driver_ends_with_the_process_that_watches_it(write_captions: WriteCaptions, tmp_path: Path) -> None:
    process = start(write_captions(["a red bird"]), tmp_path / "out")
    driver = find_child(process.pid)
    process.kill()
    process.communicate(timeout=60)
    await_truth(lambda: not Path(f"/proc/{driver}").exists())


def test_a_polite_end_is_passed_on_to_the_driver(write_captions: WriteCaptions, tmp_path: Path) -> None:
    process = start(write_captions(["a red bird"]), tmp_path / "out")
    driver = find_child(process.pid)
    await_truth(lambda: b"supervise" in Path(f"/proc/{driver}/cmdline").read_bytes())
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode != 0
    await_truth(lambda: not Path(f"/proc/{driver}").exists())


def test_an_interrupt_is_130_and_says_that_the_job_can_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pipelines.encode.encode_parquet", interrupt)
    assert supervise_module._run(EncodeJob(inputs=["in"], output="out", model="builtin:tiny")) == 130
    assert "the same command goes on from there" in capsys.readouterr().err


def test_an_interrupt_before_the_driver_can_speak_is_130(write_captions: WriteCaptions, tmp_path: Path) -> None:
    process = start(write_captions(["a red bird"]), tmp_path / "out")
    os.kill(find_child(process.pid), signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130


def test_a_job_that_began_anew_is_resumed_whatever_its_file_says() -> None:
    said = explain_loss(-9, ["t5enc", "encode", "--config", "job.yaml"], is_overwriting=True)
    assert said.endswith("t5enc encode --config job.yaml --resume")


def test_the_explanation_names_the_signal_or_the_code() -> None:
    command = ["/usr/bin/t5enc", "encode", "my captions", "--overwrite", "-o", "out"]
    assert "was killed by SIGABRT" in explain_loss(-signal.SIGABRT, command)
    assert explain_loss(15, command).endswith("t5enc encode 'my captions' -o out")
