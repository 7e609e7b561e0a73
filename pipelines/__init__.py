"""Batch pipelines of t5enc on Ray Data: captions in Parquet to embeddings in Parquet."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipelines.encode import encode_parquet
    from pipelines.job import EncodeJob
    from pipelines.progress.report import EncodeReport

__all__ = ["EncodeJob", "EncodeReport", "encode_parquet"]

_HOMES = {
    "EncodeJob": "pipelines.job",
    "EncodeReport": "pipelines.progress.report",
    "encode_parquet": "pipelines.encode",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'pipelines' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
