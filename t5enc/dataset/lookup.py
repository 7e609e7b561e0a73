"""Rows by what they are: their key in the input, a value of a column, a caption; and rows that belong together.

N rows, K groups.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from t5enc.dataset.catalog import UNKNOWN
from t5enc.dataset.rows import Rows
from t5enc.errors import InputError, OutputError, UnknownRowError

MASK = (1 << 64) - 1
# Python's hash of a whole number is the number up to here, but for -1.
PLAIN_HASH = (1 << 61) - 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Groups:
    """Group k is `rows[offsets[k] : offsets[k + 1]]`: `offsets` (K + 1,) and `rows` (N,), int64."""

    offsets: NDArray[np.int64]
    rows: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class HashIndex:
    """Rows by the hash of a value, sorted by it: 16 bytes a row."""

    hashes: NDArray[np.uint64]
    rows: NDArray[np.int64]

    def find(self, value: Any) -> NDArray[np.int64]:
        """Rows that may have a value, in order."""
        wanted = np.uint64(hash(value) & MASK)
        first, last = (int(np.searchsorted(self.hashes, wanted, side)) for side in ("left", "right"))
        return np.sort(self.rows[first:last])


class Lookup:
    """Finds rows of a dataset. What it needs is made when it is first asked, and kept in this process."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self._forget()

    def _forget(self) -> None:
        self._indexes: dict[str, HashIndex] = {}
        self._starts: dict[tuple[int, str], tuple[NDArray[np.int64], NDArray[np.int64]]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.rows = state["rows"]
        self._forget()

    def find(self, source: str, row: int, caption_index: int) -> int:
        """The row of a key."""
        outputs = range(len(self.rows.catalog.outputs))
        found = [place for output in outputs for place in self._find_in(output, source, row, caption_index)]
        return _take_one(found, f"caption {caption_index} of row {row} of {source!r}")

    def _find_in(self, output: int, source: str, row: int, caption_index: int) -> list[int]:
        shards, first_rows = self._find_starts().get((output, source), (np.empty(0, np.int64),) * 2)
        place = int(np.searchsorted(first_rows, row, "right")) - 1
        if place < 0:
            return []
        shard = int(shards[place])
        found = self.rows.index(shard).find_place(row, caption_index)
        return [] if found is None else [int(self.rows.offsets[shard]) + found]

    def _find_starts(self) -> dict[tuple[int, str], tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """The shards of each output's sources, and their first rows, in order."""
        if self._starts is None:
            self._starts = _list_starts(self.rows)
        return self._starts

    def find_by(self, column: str, value: Any) -> int:
        """The row with a value in a column."""
        return _take_one(self._find_all(column, value), f"{column} = {value!r}")

    def find_caption(self, text: str) -> NDArray[np.int64]:
        """The rows of a caption in order."""
        found = [row for name in self._find_text_columns() for row in self._find_all(name, text)]
        if not found:
            raise UnknownRowError(f"expected a row of the caption {text!r}, got none")
        return np.array(sorted(set(found)), np.int64)

    def _find_text_columns(self) -> list[str]:
        """What the jobs encoded, which must have been kept."""
        names = []
        for output in self.rows.catalog.outputs:
            name = output.job["identity"].get("text_column")
            if name is None:
                raise InputError(f"find_caption: {output.shown}: expected a job that names its text column, got none")
            names.append(str(name))
        self.rows.check_columns(list(dict.fromkeys(names)))
        return list(dict.fromkeys(names))

    def _find_all(self, column: str, value: Any) -> list[int]:
        try:
            near = self._index(column).find(value)
        except TypeError as error:
            raise InputError(f"{column}: expected single values to look up, got: {error}") from error
        values = self.rows.read_values(column, near)
        return [row for row, found in zip(near.tolist(), values, strict=True) if found == value]

    def _index(self, column: str) -> HashIndex:
        if column not in self._indexes:
            self.rows.check_columns([column])
            self._indexes.setdefault(column, _make_index(self.rows.read_column(column)))
        return self._indexes[column]


def _take_one(found: list[int], what: str) -> int:
    if not found:
        raise UnknownRowError(f"expected a row with {what}, got none")
    if len(found) > 1:
        raise OutputError(f"expected one row with {what}, got {len(found)}: rows {', '.join(map(str, found[:3]))}")
    return found[0]


def _list_starts(rows: Rows) -> dict[tuple[int, str], tuple[NDArray[np.int64], NDArray[np.int64]]]:
    catalog = rows.catalog
    starts: dict[tuple[int, str], list[tuple[int, int]]] = {}
    for shard, first_row in enumerate(catalog.first_rows[: len(catalog)].tolist()):
        if first_row == UNKNOWN or not catalog.sources[shard]:
            if not len(rows.index(shard)):
                continue
            first_row = int(rows.index(shard).find_keys(np.zeros(1, np.int64))[0][0])
        key = int(catalog.output_of[shard]), rows.source(shard)
        starts.setdefault(key, []).append((first_row, shard))
    found = {key: np.array(sorted(entries), np.int64) for key, entries in starts.items()}
    return {key: (entries[:, 1], entries[:, 0]) for key, entries in found.items()}


def _make_index(column: pa.ChunkedArray) -> HashIndex:
    """Of all values but nulls."""
    hashes = np.concatenate([np.empty(0, np.uint64), *(_hash(chunk) for chunk in column.chunks)])
    rows = np.flatnonzero(pc.is_valid(column).to_numpy()) if column.null_count else np.arange(len(column))
    order = np.argsort(hashes, kind="stable")
    return HashIndex(hashes=hashes[order], rows=rows[order])


def _hash(chunk: pa.Array) -> NDArray[np.uint64]:
    """Python's hashes of an array's values without its nulls."""
    values = chunk.drop_null()
    if pa.types.is_signed_integer(values.type) and len(values):
        numbers = values.to_numpy().astype(np.int64)
        if int(numbers.min()) >= -PLAIN_HASH and int(numbers.max()) <= PLAIN_HASH:
            return np.where(numbers == -1, -2, numbers).view(np.uint64)
    return np.fromiter((hash(value) & MASK for value in values.to_pylist()), np.uint64, len(values))


def group_rows(rows: Rows, by: str) -> Groups:
    """Rows by the value of a column, a null alone; or by the row of the input that they are captions of."""
    if by == "row":
        return _group_captions(rows)
    rows.check_columns([by])
    column = rows.read_column(by)
    codes = _number_values(column)
    order = np.argsort(codes, kind="stable").astype(np.int64)
    is_first = np.diff(codes[order], prepend=-1) != 0
    return Groups(offsets=_close(np.flatnonzero(is_first), len(order)), rows=order)


def _number_values(column: pa.ChunkedArray) -> NDArray[np.int64]:
    """A number from 0 for each value, in the order in which they come first; a null has its own, and so has a NaN."""
    try:
        if pa.types.is_floating(column.type):
            column = pc.if_else(pc.is_nan(column), None, column)
        encoded = column.dictionary_encode().unify_dictionaries()
    except pa.ArrowException as error:
        raise InputError(f"groups: expected a column of single values, got {column.type}") from error
    count = len(encoded.chunk(0).dictionary) if encoded.num_chunks else 0
    codes = np.concatenate(
        [np.empty(0, np.int64), *(_read_codes(chunk.indices) for chunk in encoded.chunks)],
    )
    nulls = np.flatnonzero(codes < 0)
    codes[nulls] = count + np.arange(len(nulls))
    return codes


def _read_codes(indices: pa.Array) -> NDArray[np.int64]:
    return np.asarray(pc.fill_null(indices, -1).to_numpy(zero_copy_only=False), np.int64)


def _group_captions(rows: Rows) -> Groups:
    """Captions of one row of the input stand side by side."""
    found = list(rows.map_shards(lambda shard: _find_firsts(rows, shard)))
    firsts = np.concatenate([np.empty(0, np.int64), *found])
    return Groups(offsets=_close(firsts, len(rows)), rows=np.arange(len(rows)))


def _find_firsts(rows: Rows, shard: int) -> NDArray[np.int64]:
    """The rows of a shard at which those of another row of the input begin."""
    index = rows.index(shard)
    numbers, _ = index.find_keys(np.arange(len(index)))
    return int(rows.offsets[shard]) + np.flatnonzero(np.diff(numbers, prepend=-1) != 0)


def _close(firsts: Iterable[int] | NDArray[np.int64], count: int) -> NDArray[np.int64]:
    return np.concatenate([np.asarray(firsts, np.int64), [count]]) if count else np.zeros(1, np.int64)
