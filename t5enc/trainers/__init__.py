"""Caches of trainers, written from an output: `export_embeddings`, and a format a trainer in `formats`.

A format says which recipes it takes, what the file of a caption is called and what is in it (`format.py`). All else is
here: rows are read and named (`rows.py`, `naming.py`), files are written whole or not at all (`files.py`), and what
an earlier run of the same export wrote is known again (`record.py`).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from t5enc.trainers.export import export_embeddings
    from t5enc.trainers.progress import ExportReport
    from t5enc.trainers.registry import FORMATS, build_format

__all__ = ["FORMATS", "ExportReport", "build_format", "export_embeddings"]

_HOMES = {"FORMATS": "registry", "build_format": "registry", "ExportReport": "progress", "export_embeddings": "export"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 't5enc.trainers' has no attribute {name!r}")
    return getattr(import_module(f"t5enc.trainers.{_HOMES[name]}"), name)
