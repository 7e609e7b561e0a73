"""The shards of an output: which are there, how many rows each has, what their footers say, and which rows are drawn.

S shards.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from numpy.typing import NDArray

from t5enc.checks.output.claims import Claims
from t5enc.checks.output.findings import Findings
from t5enc.output import OutputFolder
from t5enc.storage import METADATA_KEY, column_format
from t5enc.storage.layout import DATA

# One drawn row of so many is of the first shard, and as many of the last.
SHARE_OF_ENDS = 16


class Shards:
    """Shards by number; the one that was asked for last stays open. What is wrong with them is found."""

    def __init__(self, folder: OutputFolder, claims: Claims, findings: Findings) -> None:
        self.folder = folder
        self.claims = claims
        self.findings = findings
        self.is_there = self._find()
        self.counts = self._count()
        self.offsets = np.concatenate([[0], np.cumsum(self.counts)]).astype(np.int64)
        self._number = -1
        self._file: Any = None
        self._checked: set[int] = set()

    def __len__(self) -> int:
        return len(self.folder.shards)

    def name(self, shard: int) -> str:
        """A shard's name in the output."""
        return self.folder.shards[shard]

    def _path(self, shard: int) -> str:
        return f"{self.folder.root}/{self.name(shard)}"

    def _find(self) -> NDArray[np.bool_]:
        """(S,) which shards of the manifest are there: by one listing of all."""
        selector = pafs.FileSelector(f"{self.folder.root}/{DATA}", recursive=True, allow_not_found=True)
        there = {info.path for info in self.folder.filesystem.get_file_info(selector) if info.is_file}
        for shard in range(len(self)):
            self.findings.add("shards", self._path(shard) in there, f"{self.name(shard)}: it is not there")
        return np.array([self._path(shard) in there for shard in range(len(self))], np.bool_)

    def _count(self) -> NDArray[np.int64]:
        """(S,) rows: as the manifest has them, or as the footers of an unfinished output do."""
        manifest = self.folder.manifest
        if manifest is not None and "captions" in manifest.column_names:
            return np.asarray(manifest["captions"].to_numpy(), np.int64)
        return np.array([self._count_rows(shard) for shard in range(len(self))], np.int64)

    def _count_rows(self, shard: int) -> int:
        try:
            return int(pq.read_metadata(self._path(shard), filesystem=self.folder.filesystem).num_rows)
        except (OSError, pa.ArrowException) as error:
            self.findings.add("readable", False, f"{self.name(shard)}: {error}")
            return 0

    def open(self, shard: int) -> Any:
        """A shard's file; None where there is none, or none that can be opened."""
        if self._number != shard:
            self.close()
            self._file, self._number = self._open(shard), shard
        return self._file

    def close(self) -> None:
        """Close what is open."""
        if self._file is not None:
            self._file.close()
        self._file, self._number = None, -1

    def _open(self, shard: int) -> Any:
        if not self.is_there[shard]:
            return None
        try:
            file = pq.ParquetFile(self._path(shard), filesystem=self.folder.filesystem)
        except (OSError, pa.ArrowException) as error:
            self.findings.add("readable", False, f"{self.name(shard)}: {error}")
            self.is_there[shard] = False
            return None
        if shard not in self._checked:
            self._checked.add(shard)
            self._check_footer(shard, file)
        return file

    def _check_footer(self, shard: int, file: Any) -> None:
        name, findings = self.name(shard), self.findings
        found = file.metadata.num_rows
        findings.compare("row count", name, expected=f"{self.counts[shard]} rows", got=f"{found} rows")
        if METADATA_KEY in (file.schema_arrow.metadata or {}):
            form = column_format(file.schema_arrow)
            expected = f"{self.claims.storage} of width {self.claims.dim}"
            got = f"{form.get('storage_dtype')} of width {form.get('dim')}"
            findings.compare("labels", f"{name}: its footer", expected=expected, got=got)

    def keep_captions(self) -> bool:
        """Whether the first shard that can be opened has the column that was encoded."""
        files = (self.open(shard) for shard in range(len(self)))
        first = next((file for file in files if file is not None), None)
        return first is not None and self.claims.text_column in first.schema_arrow.names


def draw_rows(counts: NDArray[np.int64], rows: int | None, seed: int) -> NDArray[np.int64]:
    """Numbers of about `rows` rows in order, of shards that have `counts` (S,) rows; all of them where it is None."""
    total = int(counts.sum())
    if rows is None or rows >= total:
        return np.arange(total)
    random = np.random.default_rng(seed)
    share = max(1, rows // SHARE_OF_ENDS)
    filled = np.flatnonzero(counts)
    first, last = int(counts[filled[0]]), int(counts[filled[-1]])
    ends = [
        random.choice(first, min(share, first), replace=False),
        total - last + random.choice(last, min(share, last), replace=False),
    ]
    taken = np.unique(np.concatenate(ends))[:rows]
    others = random.choice(total, rows, replace=False)
    others = others[~np.isin(others, taken)][: rows - len(taken)]
    return np.sort(np.concatenate([taken, others])).astype(np.int64)
