"""How a Ray of one's own is started on a busy machine: where it took too long again from nothing, a few times."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

from t5enc.errors import ConfigError, T5encError

logger = logging.getLogger(__name__)

OPTIMIZE = "PYTHONOPTIMIZE"
# Ray gives its own processes 30 seconds, which a busy machine exceeds.
TRIES = 3
# What Ray raises for what it is told, and for what the machine does not give.
LASTING = (ValueError, TypeError, OSError)
PASSING = (TimeoutError, ConnectionError)
# The same within other errors of Ray's, which has read it in the log of one of its processes.
NUMBERS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EAGAIN, errno.EMFILE, errno.ENFILE)
LASTING_WORDS = (*map(os.strerror, NUMBERS), "can't start new thread")


def start_again(start: Callable[[], None], stop: Callable[[], None], *, folder: str, failure: type[T5encError]) -> None:
    """Start Ray; `stop` what there is of it and try again where it does not start in time. Ray's `folder` has its logs.

    ConfigError at once for what stays however often it is tried, `failure` where no try was enough.
    """
    expected = "expected a Ray of its own to start on this machine, got"
    where = f"what its processes said is in {folder}/session_latest/logs"
    for left in reversed(range(TRIES)):
        try:
            with keeping_docstrings(os.environ):
                start()
            return
        except Exception as error:  # Ray raises bare ones
            stop()
            said = " ".join(str(error).split()) or type(error).__name__
            if _is_lasting(error):
                raise ConfigError(f"{expected}: {said}; {where}") from error
            if not left:
                raise failure(f"{expected} in each of {TRIES} tries: {said}; {where}") from error
            logger.warning("Ray did not start, trying again: %s", said)


@contextmanager
def keeping_docstrings(environ: MutableMapping[str, str]) -> Iterator[None]:
    """Within it processes that are started know nothing of PYTHONOPTIMIZE.

    With 2 there are no docstrings (`python -OO`): Ray's agents, which add to some, end at once, and with them the node.
    """
    kept = environ.pop(OPTIMIZE, None)
    try:
        yield
    finally:
        if kept is not None:
            environ[OPTIMIZE] = kept


def _is_lasting(error: Exception) -> bool:
    is_told = any(words in str(error) for words in LASTING_WORDS)
    return is_told or (isinstance(error, LASTING) and not isinstance(error, PASSING))


@contextmanager
def ending_half_started(node: type[Any]) -> Iterator[None]:
    """Within it, where anything fails, all that Ray's `Node`s have started ends.

    ray.shutdown() knows nothing of a head that was given up half started.
    """
    begun: list[Any] = []
    plain = node.__init__

    def begin(self: Any, *arguments: Any, **options: Any) -> None:
        begun.append(self)
        plain(self, *arguments, **options)

    node.__init__ = begin
    try:
        yield
    except BaseException:
        for one in begun:
            if hasattr(one, "all_processes") and hasattr(one, "removal_lock"):
                one.kill_all_processes(check_alive=False, allow_graceful=False)
        raise
    finally:
        node.__init__ = plain
