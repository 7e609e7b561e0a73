"""A Ray that is started again: only where a further try may help, and from nothing."""

from __future__ import annotations

import contextlib
import errno
import os

import pytest

from t5enc.errors import ConfigError, ServiceError
from t5enc.machine.starting import TRIES, ending_half_started, start_again

SLOW = Exception("The current node timed out during startup.\nThis could ...")


def start(*errors: Exception) -> list[str]:
    """What is done where the first tries end with these errors."""
    done: list[str] = []
    left = list(errors)

    def try_once() -> None:
        done.append("start")
        if left:
            raise left.pop(0)

    try:
        start_again(try_once, lambda: done.append("stop"), folder="/tmp/ray", failure=ServiceError)
    except (ConfigError, ServiceError) as error:
        done.append(f"{type(error).__name__}: {error}")
    return done


@pytest.mark.parametrize("failures", range(TRIES))
def test_what_took_too_long_is_tried_again_from_nothing(failures: int) -> None:
    assert start(*[SLOW] * failures) == ["start", "stop"] * failures + ["start"]


@pytest.mark.parametrize(
    "error", [SLOW, TimeoutError("Timed out"), RuntimeError("Failed to start GCS."), ConnectionError()]
)
def test_what_never_starts_in_time_is_the_callers_error(error: Exception) -> None:
    *done, said = start(*[error] * TRIES)
    assert done == ["start", "stop"] * TRIES
    assert said.startswith(f"ServiceError: expected a Ray of its own to start on this machine, got in each of {TRIES}")
    assert said.endswith("; what its processes said is in /tmp/ray/session_latest/logs")
    assert "\n" not in said


@pytest.mark.parametrize(
    "error",
    [
        ValueError("RAY_GCS_SERVER_PORT: invalid literal for int()"),
        TypeError("expected str"),
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)),
        RuntimeError("can't start new thread"),
        RuntimeError("Failed to start GCS. Last 1 lines of error files: write: No space left on device"),
    ],
)
def test_what_no_further_try_mends_is_told_at_once(error: Exception) -> None:
    start_, stop, said = start(error)
    assert (start_, stop) == ("start", "stop")
    assert said.startswith("ConfigError: expected a Ray of its own to start on this machine, got: ")
    assert " ".join(str(error).split()) in said


class HalfStarted:
    """A node that is given up when it has begun."""

    def __init__(self, ended: list[str], *, is_begun: bool) -> None:
        self.ended = ended
        if is_begun:
            self.all_processes = self.removal_lock = None
        raise SLOW

    def kill_all_processes(self, **_: bool) -> None:
        self.ended.append("ended")


def test_what_was_begun_ends_with_what_failed() -> None:
    ended: list[str] = []
    begin = HalfStarted.__init__
    for is_begun in (True, False):
        with pytest.raises(Exception, match="timed out"), ending_half_started(HalfStarted):
            HalfStarted(ended, is_begun=is_begun)
    assert ended == ["ended"]
    assert HalfStarted.__init__ is begin


@pytest.mark.parametrize("fails", [False, True])
def test_rays_processes_have_their_docstrings(monkeypatch: pytest.MonkeyPatch, fails: bool) -> None:
    monkeypatch.setenv("PYTHONOPTIMIZE", "2")
    seen: list[str | None] = []

    def start() -> None:
        seen.append(os.environ.get("PYTHONOPTIMIZE"))
        if fails:
            raise ValueError("no such option")

    with contextlib.suppress(ConfigError):
        start_again(start, lambda: None, folder="/tmp/ray", failure=ServiceError)
    assert seen == [None]
    assert os.environ["PYTHONOPTIMIZE"] == "2"
