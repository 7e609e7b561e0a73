"""The shards of an output: which are there, how many rows each has, what their footers say, and which rows are drawn.

S shards.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from numpy.typing import NDArray

from t5enc.checks.output.claims import Claims
from t5enc.checks.output.findings import Findings
from t5enc.output import OutputFolder, read_manifest
from t5enc.storage import METADATA_KEY, SCHEMA, column_format
from t5enc.storage.layout import DATA, RECORD_KEY, name_folder

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
        self._sources, self._contents = self._list("source"), self._list("content")
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

    def _list(self, column: str) -> Any:
        """A column of the manifest; None where there is none."""
        manifest = read_manifest(self.folder.filesystem, self.folder.root, (column,))
        return None if manifest is None or column not in manifest.column_names else manifest[column]

    def check_source(self, row: int, where: str, source: str) -> None:
        """Whether a row of the output is of the source that the manifest says of its shard."""
        if self._sources is not None:
            expected = self._sources[self.find(row)].as_py()
            self.findings.compare("manifest", f"{where}: its source", expected=expected, got=source)

    def find(self, row: int) -> int:
        """The number of the shard that holds a row of the output."""
        return int(np.searchsorted(self.offsets, row, "right")) - 1

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
            return self._give_up(shard, str(error))
        lacking = [name for name in SCHEMA.names if name not in file.schema_arrow.names]
        if lacking:
            file.close()
            return self._give_up(shard, f"expected the columns of a shard, got none named {', '.join(lacking)}")
        if shard not in self._checked:
            self._checked.add(shard)
            self._check_footer(shard, file)
        return file

    def _give_up(self, shard: int, why: str) -> None:
        self.findings.add("readable", False, f"{self.name(shard)}: {why}")
        self.is_there[shard] = False

    def _check_footer(self, shard: int, file: Any) -> None:
        name, findings = self.name(shard), self.findings
        found = file.metadata.num_rows
        findings.compare("row count", name, expected=f"{self.counts[shard]} rows", got=f"{found} rows")
        if METADATA_KEY in (file.schema_arrow.metadata or {}):
            form = column_format(file.schema_arrow)
            expected = f"{self.claims.storage} of width {self.claims.dim}"
            got = f"{form.get('storage_dtype')} of width {form.get('dim')}"
            findings.compare("labels", f"{name}: its footer", expected=expected, got=got)
        self._check_record(shard, file.metadata.metadata or {})

    def _check_record(self, shard: int, metadata: Mapping[bytes, bytes]) -> None:
        """What a footer says that its shard is: its place in the output, and the hash of its rows."""
        name = self.name(shard)
        try:
            record = json.loads(metadata[RECORD_KEY])
            # A shard that was moved over from format 1 keeps the name that it had: only its last part counts.
            called = f"{name_folder(record['source'])}/{record['name'].rpartition('/')[2]}"
            content = record["content"]
        except (AttributeError, KeyError, TypeError, ValueError):
            self.findings.add("manifest", False, f"{name}: its footer does not say which shard it is")
            return
        expected = content if self._contents is None else self._contents[shard].as_py()
        self.findings.compare(
            "manifest",
            f"{name}: its footer",
            expected=f"{name}, rows {str(expected)[:12]}",
            got=f"{called}, rows {str(content)[:12]}",
        )


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
