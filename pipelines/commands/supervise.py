"""Runs a job's driver as a child process, so that its sudden end is told, with what to do about it.

When Ray's head dies, the driver dies with it in one line of C++; a kill leaves no line at all. The child says how
it ended on a pipe of its own; silence means that it was lost. It ends itself when its standard input closes, so
that it never outlives this process.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import re
import shlex
import signal
import subprocess
import sys
import threading
import traceback
from typing import IO, Any

from pipelines.job import EncodeJob
from pipelines.nodes.cluster import knock
from t5enc.errors import DriverError, ExitCode, T5encError
from t5enc.machine.starting import keeping_docstrings
from t5enc.machine.streams import explain_lost_output, open_lossy, open_streams
from t5enc.storage.filesystems import hide_credentials

INTERRUPTED = 130
# The child: while it imports, Ctrl-C ends it without a traceback.
BEGIN = """
import signal
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
from pipelines.commands.supervise import begin
begin()
"""
# What Ray's C++ parts write to stderr at every start of a pool of actors; everything else passes.
RAY_CHATTER = re.compile(rb"core_worker\.cc:\d+: Actor .* has constructor arguments in the object store")


def supervise(job: EncodeJob, command: list[str] | None = None) -> int:
    """Run the job in a child process and return its exit code; DriverError where the child was lost."""
    interrupts: list[int] = []
    handlers = {signal.SIGINT: signal.signal(signal.SIGINT, lambda number, _: interrupts.append(number))}
    try:
        said, code = _run_child(job, handlers)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if not said and (interrupts or code == -signal.SIGINT):
        return INTERRUPTED  # before the child could say so
    if not said:
        lost = explain_loss(code, command or sys.argv, is_overwriting=job.overwrite)
        raise DriverError(_explain_head(job.ray_address) + lost)
    return int(said)


def _run_child(job: EncodeJob, handlers: dict[signal.Signals, Any]) -> tuple[bytes, int]:
    """Start the child and wait for it; what it said when it ended, and its exit code.

    Ctrl-C reaches the child by itself; a SIGTERM that is sent to this process alone is passed on.
    """
    ours, theirs = os.pipe()
    terminal = os.dup(2)
    with keeping_docstrings(os.environ):  # Ray Data, as it is imported, adds to docstrings, too
        child = subprocess.Popen(
            [sys.executable, "-P", "-c", BEGIN, str(theirs), str(terminal)],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=[theirs, terminal],
        )
    handlers[signal.SIGTERM] = signal.signal(signal.SIGTERM, lambda number, _: child.send_signal(number))
    os.close(theirs)
    os.close(terminal)
    filtering = threading.Thread(target=_pass_on, args=(child.stderr,), daemon=True)
    filtering.start()
    said, code = _talk(child, job, ours)
    filtering.join(timeout=1.0)
    return said, code


def _talk(child: subprocess.Popen[bytes], job: EncodeJob, status: int) -> tuple[bytes, int]:
    """Hand the job over; what the child said when it ended, and its exit code."""
    assert child.stdin is not None
    try:
        with os.fdopen(status, "rb") as pipe:
            pickle.dump(job, child.stdin)
            child.stdin.flush()
            return pipe.read(), child.wait()
    except BrokenPipeError:
        return b"", child.wait()
    finally:
        with contextlib.suppress(BrokenPipeError):
            child.stdin.close()


def _pass_on(stderr: IO[bytes]) -> None:
    """Everything the child's libraries write to stderr, but for Ray's chatter."""
    with stderr:
        for line in stderr:
            if not RAY_CHATTER.search(line):
                sys.stderr.write(line.decode(errors="replace"))
                sys.stderr.flush()


def _explain_head(address: str | None) -> str:
    """A sentence for a Ray cluster whose head does not answer; it takes its drivers along."""
    if address is None:
        return ""
    try:
        knock(address)
    except OSError as error:
        return f"the Ray cluster at {address} has lost its head ({error}), and "
    return ""


def explain_loss(code: int, command: list[str], *, is_overwriting: bool = False) -> str:
    """What happened as far as an exit code tells, and the command that goes on, also where it began anew.

    A token and keys in its URIs are left out: what is told here is kept in logs.
    """
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    program = os.path.basename(command[0])
    start = [os.path.basename(sys.executable), "-m", "t5enc"] if program == "__main__.py" else [program]
    options = [hide_credentials(part) for part in _leave_out_token(command[1:]) if part != "--overwrite"]
    again = shlex.join([*start, *options, *(["--resume"] if is_overwriting else [])])
    return f"the driver {how} without a word; what it committed is kept. To go on, run:\n  {again}"


def _leave_out_token(options: list[str]) -> list[str]:
    """Options but for `--token VALUE` and `--token=VALUE`."""
    pairs = zip(["", *options], options, strict=False)
    return [part for before, part in pairs if before != "--token" and not re.match(r"--token(=|$)", part)]


def begin() -> None:
    """The child: Python's own stderr is the terminal, file descriptor 2 goes through the parent."""
    status, terminal = map(int, sys.argv[1:])
    open_streams()
    sys.stderr = open_lossy(terminal, sys.stderr.encoding)
    job = pickle.load(sys.stdin.buffer)
    threading.Thread(target=_end_with_parent, args=(sys.stdin.fileno(),), daemon=True).start()
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        code = _run(job)
    except Exception:
        traceback.print_exc()
        code = T5encError.exit_code
    sys.stderr.flush()
    os.write(status, str(code).encode())
    os._exit(code)


def _end_with_parent(lifeline: int) -> None:
    os.read(lifeline, 1)
    os._exit(DriverError.exit_code)


def _run(job: EncodeJob) -> int:
    from pipelines.commands.display import show_columns, show_progress
    from pipelines.encode import encode_parquet
    from t5enc.cli import report_error

    try:
        with show_progress() as on_progress:
            report = encode_parquet(job, on_progress, show_columns)
    except T5encError as error:
        report_error(error)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted; what is committed is kept, and the same command goes on from there", file=sys.stderr)
        return INTERRUPTED
    try:
        print(report, flush=True)
    except BrokenPipeError:
        pass  # nobody reads it, and the job is done
    except OSError as error:
        report_error(explain_lost_output(error))
        return ExitCode.FAILED
    return report.exit_code
