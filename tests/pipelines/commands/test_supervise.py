"""The process around a driver: how it ends is told, and neither outlives the other."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines.commands import supervise as supervise_module
from pipelines.commands.supervise import explain_loss, supervise
from pipelines.job import EncodeJob
from t5enc.errors import DriverError
from tests.pipelines.conftest import WriteCaptions
from tests.waiting import wait_until

REPOSITORY = Path(__file__).resolve().parents[3]
# Only for a test that would otherwise never end, in seconds.
PATIENCE = 600.0


def start(inputs: Path, output: Path) -> subprocess.Popen[bytes]:
    arguments = [str(inputs), "-o", str(output), "--model", "builtin:tiny", "--overwrite"]
    command = [sys.executable, "-m", "t5enc", "encode", *arguments]
    return subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def await_truth(question: Callable[[], bool]) -> None:
    """Poll until it holds; minutes are a failure."""
    wait_until(question, lambda: "nothing happens", seconds=PATIENCE, every=0.01)


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
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == DriverError.exit_code
    assert b"was killed by SIGKILL without a word" in said
    assert b"encode" in said.splitlines()[-1]
    assert b"--overwrite" not in said, "the command resumes, it does not start anew"


def test_a_driver_ends_with_the_process_that_watches_it(write_captions: WriteCaptions, tmp_path: Path) -> None:
    process = start(write_captions(["a red bird"]), tmp_path / "out")
    driver = find_child(process.pid)
    process.kill()
    process.communicate(timeout=PATIENCE)
    await_truth(lambda: not Path(f"/proc/{driver}").exists())


def test_a_polite_end_is_passed_on_to_the_driver(write_captions: WriteCaptions, tmp_path: Path) -> None:
    process = start(write_captions(["a red bird"]), tmp_path / "out")
    driver = find_child(process.pid)
    await_truth(lambda: b"supervise" in Path(f"/proc/{driver}/cmdline").read_bytes())
    process.terminate()
    process.communicate(timeout=PATIENCE)
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


JOB = EncodeJob(inputs=["in"], output="out", model="builtin:tiny")
RunAs = Callable[[str], int]


@pytest.fixture
def run_as(monkeypatch: pytest.MonkeyPatch) -> RunAs:
    """Supervise a few lines of Python in the driver's place; `status` is where it says how it ended."""
    real = subprocess.Popen

    def run(driver: str) -> int:
        code = f"import os, signal, sys; status = int(sys.argv[1]); {driver}"

        def start_instead(arguments: list[str], **options: Any) -> subprocess.Popen[bytes]:
            return real([sys.executable, "-c", code, *arguments[-2:]], **options)

        monkeypatch.setattr(subprocess, "Popen", start_instead)
        return supervise(JOB, ["t5enc", "encode", "in", "-o", "out"])

    return run


def test_what_the_driver_says_is_the_exit_code(run_as: RunAs) -> None:
    assert run_as("sys.stdin.buffer.read(1); os.write(status, b'3')") == 3


def test_the_driver_has_its_docstrings(run_as: RunAs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONOPTIMIZE", "2")
    assert run_as("sys.stdin.buffer.read(1); os.write(status, b'%d' % sys.flags.optimize)") == 0


def test_the_driver_is_given_the_job(run_as: RunAs) -> None:
    assert run_as("import pickle; job = pickle.load(sys.stdin.buffer); os.write(status, b'%d' % len(job.output))") == 3


@pytest.mark.parametrize(
    ("end", "how"), [("os._exit(7)", "ended with exit code 7"), ("os.kill(os.getpid(), 9)", "was killed by SIGKILL")]
)
@pytest.mark.parametrize("reads", ["", "sys.stdin.buffer.read(1); "])
def test_a_driver_that_ends_without_a_word_is_lost(run_as: RunAs, reads: str, end: str, how: str) -> None:
    with pytest.raises(DriverError, match=f"the driver {how} without a word") as caught:
        run_as(reads + end)
    assert str(caught.value).endswith("To go on, run:\n  t5enc encode in -o out")


def test_a_cluster_that_does_not_answer_any_more_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        assert supervise_module._explain_head(address) == ""
    assert f"the Ray cluster at {address} has lost its head" in supervise_module._explain_head(address)
    assert supervise_module._explain_head(None) == supervise_module._explain_head("auto") == ""


def test_an_interrupt_before_the_driver_can_speak_is_130(run_as: RunAs) -> None:
    interrupt = "os.kill(os.getppid(), signal.SIGINT); signal.signal(signal.SIGINT, signal.SIG_DFL); "
    assert run_as(f"sys.stdin.buffer.read(1); {interrupt} os.kill(os.getpid(), signal.SIGINT)") == 130
    assert run_as(f"sys.stdin.buffer.read(1); {interrupt} os._exit(1)") == 130


def test_an_interrupt_while_the_driver_imports_leaves_no_traceback(tmp_path: Path) -> None:
    slow = tmp_path / "pipelines"
    slow.mkdir()
    (slow / "__init__.py").write_text("print('importing', flush=True)\nimport time\ntime.sleep(600)\n")
    command = [sys.executable, "-P", "-c", supervise_module.BEGIN, "1", "2"]
    # Tests that a shell runs in its background would pass on that interrupts are ignored.
    begin = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
    command = [sys.executable, "-c", begin, *command]
    environ = os.environ | {"PYTHONPATH": str(tmp_path)}
    driver = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environ, text=True)
    assert driver.stdout is not None
    assert driver.stdout.readline() == "importing\n"
    driver.send_signal(signal.SIGINT)
    _, said = driver.communicate(timeout=PATIENCE)
    assert (driver.returncode, said) == (-signal.SIGINT, "")


def test_a_sigterm_reaches_the_driver(run_as: RunAs) -> None:
    answer = "signal.signal(signal.SIGTERM, lambda *_: (os.write(status, b'6'), os._exit(0)))"
    assert run_as(f"{answer}; sys.stdin.buffer.read(1); os.kill(os.getppid(), signal.SIGTERM); signal.pause()") == 6


def test_signals_are_handled_as_before_when_the_job_is_over(run_as: RunAs) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    run_as("os.write(status, b'0')")
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_rays_chatter_is_dropped_and_everything_else_is_shown(
    run_as: RunAs, capsys: pytest.CaptureFixture[str]
) -> None:
    chatter = "[core_worker.cc:12: Actor x has constructor arguments in the object store and more]"
    run_as(f"print('first\\n{chatter}\\nlast', file=sys.stderr, flush=True); os.write(status, b'0')")
    assert capsys.readouterr().err == "first\nlast\n"


def test_a_job_that_began_anew_is_resumed_whatever_its_file_says() -> None:
    said = explain_loss(-9, ["t5enc", "encode", "--config", "job.yaml"], is_overwriting=True)
    assert said.endswith("t5enc encode --config job.yaml --resume")


def test_the_explanation_names_the_signal_or_the_code() -> None:
    command = ["/usr/bin/t5enc", "encode", "my captions", "--overwrite", "-o", "out"]
    assert "was killed by SIGABRT" in explain_loss(-signal.SIGABRT, command)
    assert explain_loss(15, command).endswith("t5enc encode 'my captions' -o out")


def test_keys_of_the_command_are_not_told() -> None:
    said = explain_loss(-9, ["t5enc", "encode", "s3://key:secret@in/a", "--output=s3://key:secret@out"])
    assert said.endswith("t5enc encode s3://in/a --output=s3://out")


@pytest.mark.parametrize("token", [["--token", "hf_secret"], ["--token=hf_secret"]])
def test_the_token_of_the_command_is_not_told(token: list[str]) -> None:
    said = explain_loss(-9, ["t5enc", "encode", "in", *token, "-o", "out"])
    assert said.endswith("t5enc encode in -o out")
