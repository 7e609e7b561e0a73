"""What Ray's errors become."""

from __future__ import annotations

import pytest

from pipelines.nodes.ray_errors import explained
from t5enc.errors import DriverError, SourceError, T5encError

ray = pytest.importorskip("ray", reason="needs ray[data]")


def as_task_error(cause: Exception) -> Exception:
    error: Exception = ray.exceptions.RayTaskError("read", "traceback", cause)
    return error


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (as_task_error(SourceError("a.parquet: damaged")), SourceError, "a.parquet: damaged"),
        (
            as_task_error(ZeroDivisionError("by nothing\nat all")),
            T5encError,
            "failed: ZeroDivisionError: by nothing$",
        ),
        (ray.exceptions.RpcError("deadline exceeded"), DriverError, "deadline exceeded.*; run it again"),
        (ray.exceptions.NodeDiedError("its node was terminated"), DriverError, "its node was terminated; run it again"),
        (ValueError("not Ray's"), ValueError, "not Ray's"),
    ],
)
def test_errors_of_ray_become_ours_and_others_stay(error: Exception, kind: type[Exception], said: str) -> None:
    with pytest.raises(kind, match=said) as raised, explained():
        raise error
    assert type(raised.value) is kind
