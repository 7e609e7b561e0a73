"""Runs a job's driver as a child process, so that its sudden end is told, with what to do about it.

When Ray's head dies, the driver dies with it in one line of C++; a kill leaves no line at all. The child says how
it ended on a pipe of its own; silence means that it was lost. It holds the read end of a second pipe and ends
itself when that closes, so that it never outlives this process.
"""

from __future__ import annotations

import os
import pickle
import shlex
import signal
import subprocess
import sys
import threading
import traceback
from typing import Any

from pipelines.job import EncodeJob
from t5enc.errors import DriverError, T5encError

INTERRUPTED = 130
# Ray's C++ parts warn on stderr about every pool of actors; what matters reaches the driver as an exception.
QUIET_RAY = {"RAY_BACKEND_LOG_LEVEL": "fatal"}


def supervise(job: EncodeJob, command: list[str] | None = None) -> int:
    """Run the job in a child process and return its exit code; DriverError where the child was lost."""
    ours, theirs = os.pipe()
    child = subprocess.Popen(
        [sys.executable, "-m", "pipelines.supervise", str(theirs)],
        stdin=subprocess.PIPE,
        pass_fds=[theirs],
        env=QUIET_RAY | os.environ,
    )
    os.close(theirs)
    handlers = _forward_signals(child)
    try:
        assert child.stdin is not None
        pickle.dump(job, child.stdin)
        child.stdin.flush()
        with os.fdopen(ours, "rb") as status:
            said = status.read()
        code = child.wait()
    except BrokenPipeError:
        said, code = b"", child.wait()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if not said:
        raise DriverError(explain_loss(code, command or sys.argv))
    return int(said)


def _forward_signals(child: subprocess.Popen[bytes]) -> dict[int, Any]:
    """Ctrl-C reaches the child by itself; what is sent to this process alone is passed on."""
    previous: dict[int, Any] = {signal.SIGINT: signal.signal(signal.SIGINT, signal.SIG_IGN)}
    previous[signal.SIGTERM] = signal.signal(signal.SIGTERM, lambda number, _: child.send_signal(number))
    return previous


def explain_loss(code: int, command: list[str]) -> str:
    """What happened as far as an exit code tells, and the command that goes on."""
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    again = shlex.join([os.path.basename(command[0]), *(part for part in command[1:] if part != "--overwrite")])
    return f"the driver {how} without a word; what it committed is kept. To go on, run:\n  {again}"


def _main(status: int) -> None:
    job = pickle.load(sys.stdin.buffer)
    threading.Thread(target=_end_with_parent, args=(sys.stdin.fileno(),), daemon=True).start()
    try:
        code = _run(job)
    except Exception:
        traceback.print_exc()
        code = T5encError.exit_code
    sys.stdout.flush()
    sys.stderr.flush()
    os.write(status, str(code).encode())
    os._exit(code)


def _end_with_parent(lifeline: int) -> None:
    os.read(lifeline, 1)
    os._exit(DriverError.exit_code)


def _run(job: EncodeJob) -> int:
    from pipelines.display import show_progress
    from pipelines.encode import encode_parquet
    from t5enc.cli import report_error

    try:
        with show_progress() as on_progress:
            report = encode_parquet(job, on_progress)
    except T5encError as error:
        report_error(error)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted; what is committed is kept, and the same command goes on from there", file=sys.stderr)
        return INTERRUPTED
    print(report)
    return report.exit_code


if __name__ == "__main__":
    _main(int(sys.argv[1]))
