"""Ray's errors in our words."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

from t5enc.errors import DriverError, T5encError


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Ray's errors as ours: the cause where it is one of ours, else what it says, or Ray where it knows none.

    DriverError where Ray has lost what the same command finds again. Imports nothing of Ray: none of its errors comes
    before somebody has.
    """
    try:
        yield
    except Exception as error:
        if "ray" in sys.modules and isinstance(error, sys.modules["ray"].exceptions.RayError):
            raise explain(error) from error
        raise


def explain(error: Exception) -> T5encError:
    """What an error of Ray means."""
    from ray import exceptions
    from ray.data.exceptions import SystemException

    causes = list(_trace_causes(error))
    for cause in causes:
        if isinstance(cause, T5encError):
            return cause
    told = [cause for cause in causes if not isinstance(cause, (exceptions.RayError, SystemException))]
    if told:
        first_line, _, _ = str(told[-1]).strip().partition("\n")
        return T5encError(f"an actor failed: {type(told[-1]).__name__}: {first_line}")
    said = (str(error).strip().splitlines() or [type(error).__name__])[-1]
    if isinstance(error, (exceptions.RpcError, exceptions.NodeDiedError, exceptions.WorkerCrashedError)):
        return DriverError(f"Ray lost a process or an answer that the run cannot do without: {said}; run it again")
    return T5encError(f"an actor failed: {said}")


def _trace_causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what caused it, the first cause last."""
    while error is not None:
        yield error
        error = getattr(error, "cause", None) or error.__cause__
