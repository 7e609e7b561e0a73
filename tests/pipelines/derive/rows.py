"""What stands in outputs, for comparing them, and whether a folder was touched."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from pipelines.commands.fsck import check_output
from pipelines.stores.store import open_store
from t5enc.output import open_output
from t5enc.storage import PREFIX

BYTES, SOURCE = f"{PREFIX}bytes", f"{PREFIX}source"


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """All columns of all rows as they are stored, in order; of a sound output."""
    assert check_output(open_store(str(folder)), deep=True) == []
    return [row for name in open_output(folder).shards for row in pq.read_table(folder / name).to_pylist()]


def hash_files(folder: Path) -> dict[str, str]:
    """Every file of a folder, and what is in it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
