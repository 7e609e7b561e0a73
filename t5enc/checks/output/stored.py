"""Rows of an output as they are stored: their columns by row group, and their embeddings as a training loop reads them.

Where that refuses a row, its row group is read by Arrow, so that what is wrong with it can be told. T tokens, M model
dim.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from torch import Tensor

from t5enc.checks.output.captions import read_list, read_text
from t5enc.checks.output.findings import Findings
from t5enc.checks.output.shards import Shards
from t5enc.dataset import EmbeddingDataset
from t5enc.errors import OutputError
from t5enc.storage import KEY, PREFIX, SCHEMA, SHARED_ROW, from_bytes

BYTES = f"{PREFIX}bytes"
COLUMNS = (*(name for name in SCHEMA.names if name != BYTES), KEY.name, SHARED_ROW.name)
TEXTS = ("source", "dtype", "error")
# Of rows in the output.
Numbers = Sequence[int] | NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRow:
    """A row: `columns` without their prefix, its caption if it was kept, and its embedding (T, M) if there is one.

    It is row `file_row` of a shard, and row `number` of the output.
    """

    shard: str
    file_row: int
    number: int
    columns: dict[str, Any]
    caption: str | None
    values: Tensor | None = None

    @property
    def where(self) -> str:
        """The row, for people."""
        return f"{self.shard}, row {self.file_row}"

    @property
    def place(self) -> tuple[str, int, int]:
        """Where its caption stands in the input: source, row, and which of the row's captions it is."""
        return self.columns["source"], self.columns["row"], self.columns["caption_index"]


class StoredRows:
    """Rows by number, those without an embedding included. What cannot be read is found, and left out."""

    def __init__(self, path: str, shards: Shards, findings: Findings) -> None:
        self.shards = shards
        self.findings = findings
        self._unreadable: set[tuple[int, int]] = set()
        self._decoded: tuple[tuple[int, int], Any] | None = None
        self._dataset = _open_dataset(path)

    def read(self, numbers: Numbers) -> list[StoredRow]:
        """Rows with their embeddings, in the order of their numbers."""
        rows = self.read_columns(numbers)
        for row in rows:
            self.shards.check_source(row.number, row.where, row.columns["source"])
        wanted = [row for row in rows if row.columns.get("error") is None]
        values = dict(zip([row.number for row in wanted], self._read_values(wanted), strict=True))
        return [replace(row, values=values.get(row.number)) for row in rows]

    def read_columns(self, numbers: Numbers) -> list[StoredRow]:
        """The same without their embeddings."""
        places = np.unique(np.asarray(numbers, np.int64))
        shards = np.searchsorted(self.shards.offsets, places, "right") - 1
        return [
            row
            for shard in np.unique(shards).tolist()
            for row in self._read_shard(shard, places[shards == shard] - self.shards.offsets[shard])
        ]

    def _read_shard(self, shard: int, places: NDArray[np.int64]) -> Iterator[StoredRow]:
        file = self.shards.open(shard)
        if file is None:
            return
        starts = _list_starts(file)
        groups = np.searchsorted(starts, places, "right") - 1
        for group in np.unique(groups[places < starts[-1]]).tolist():
            inside = places[groups == group] - starts[group]
            if (shard, group) in self._unreadable:
                continue
            try:
                table = file.read_row_group(group, columns=self._choose_columns(file)).take(pa.array(inside))
            except (OSError, pa.ArrowException) as error:
                self.findings.add("readable", False, f"{self.shards.name(shard)}: row group {group}: {error}")
                self._unreadable.add((shard, group))
                continue
            yield from self._make_rows(shard, table, inside + starts[group])

    def _choose_columns(self, file: Any) -> list[str]:
        wanted = (*COLUMNS, self.shards.claims.text_column)
        return [name for name in file.schema_arrow.names if name in wanted]

    def _make_rows(self, shard: int, table: Any, places: NDArray[np.int64]) -> Iterator[StoredRow]:
        columns = {name: read_list(table[name]) for name in table.column_names}
        texts = columns.get(str(self.shards.claims.text_column), [None] * len(places))
        for at, place in enumerate(places.tolist()):
            values = {name.removeprefix(PREFIX): columns[name][at] for name in columns if name.startswith(PREFIX)}
            values |= {name: _to_text(values.get(name)) for name in TEXTS}
            yield StoredRow(
                shard=self.shards.name(shard),
                file_row=place,
                number=int(self.shards.offsets[shard]) + place,
                columns=values,
                caption=read_text(texts[at], int(values["caption_index"])),
            )

    def _read_values(self, rows: Sequence[StoredRow]) -> list[Tensor | None]:
        """Embeddings, None for what cannot be read."""
        if self._dataset is not None and rows:
            try:
                batch = self._dataset.__getitems__([row.number for row in rows])
            except OutputError:
                return [self._read_value(row) for row in rows]
            found = zip(batch.embeddings, batch.lengths.tolist(), strict=True)
            return [self._note(row, values[:length]) for row, (values, length) in zip(rows, found, strict=True)]
        return [self._read_value(row) for row in rows]

    def _note(self, row: StoredRow, values: Tensor) -> Tensor:
        self.findings.add("readable", True, row.where)
        return values

    def _read_value(self, row: StoredRow) -> Tensor | None:
        """One row's: by the dataset, or by Arrow."""
        told = ""
        if self._dataset is not None:
            try:
                return self._note(row, self._dataset[row.number].embedding)
            except OutputError as error:
                told = str(error)
        try:
            return self._note(row, self._decode(row))
        except (OutputError, OSError, pa.ArrowException, ValueError, RuntimeError) as error:
            self.findings.add("readable", False, f"{row.where}: {told or error}")
            return None

    def _decode(self, row: StoredRow) -> Tensor:
        """A row's bytes by its row group; OutputError where there are none, or no whole tokens."""
        shard = self.shards.find(row.number)
        place = row.number - int(self.shards.offsets[shard])
        file, claims = self.shards.open(shard), self.shards.claims
        starts = _list_starts(file)
        group = int(np.searchsorted(starts, place, "right")) - 1
        if self._decoded is None or self._decoded[0] != (shard, group):
            self._decoded = (shard, group), file.read_row_group(group, columns=[BYTES])[BYTES]
        value = self._decoded[1][place - int(starts[group])].as_py()
        if value is None:
            raise OutputError("expected an embedding, got none")
        return from_bytes(np.frombuffer(bytearray(value), np.uint8), claims.storage, claims.dim)


def _open_dataset(path: str) -> EmbeddingDataset | None:
    """None where shards are not even alike: then each row is read by itself, and what is wrong is found there."""
    try:
        return EmbeddingDataset(path, missing="zeros", partial=True)
    except OutputError:
        return None


def _list_starts(file: Any) -> NDArray[np.int64]:
    rows = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    return np.concatenate([[0], np.cumsum(rows)]).astype(np.int64)


def _to_text(value: Any) -> Any:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
