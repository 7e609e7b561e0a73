"""Where a content key stands in an output: files of sorted keys, mapped into memory and shared by a node's processes.

N keys, P parts. A key of 16 bytes is two numbers of 64 bits. Its part is chosen by the first bits of the first number,
and each part is sorted by that number and mapped from a file of three stretches: first numbers, second numbers, rows. A
row is the number of its shard above 32 bits, and its place in the shard's file below. 24 bytes a key.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from t5enc.text.content_keys import split_keys

PLACE_BITS = 32
NUMBERS = 3
NOT_THERE = -1
# Rows of a shard that cannot be read, and of one of another kind: no row after it has a number.
UNREAD, OTHER_KIND = -1, -2
# Keys that are held before they are written to their parts' files.
HELD_KEYS = 1 << 20
# Keys of a part, about, while there are no more parts than the most.
PART_KEYS = 1 << 22
MOST_PARTS_BITS = 8
# Of shards, in their order.
ROWS_FILE = "rows"
# Written last: what the other files must be.
NOTE = "note.json"


def make_entries(keys: NDArray[np.uint8], shard: int, places: NDArray[np.int64]) -> NDArray[np.uint64]:
    """(3, N) numbers of (N, 16) keys that stand at these places of a shard's file."""
    rows = places.astype(np.uint64) | np.uint64(shard << PLACE_BITS)
    return np.stack([*split_keys(keys), rows])


def choose_bits(most_keys: int) -> int:
    """First bits that tell a part, for no more than so many keys."""
    return min(MOST_PARTS_BITS, max(0, (most_keys // PART_KEYS).bit_length()))


def build_index(folder: Path, batches: Iterable[NDArray[np.uint64]], rows: NDArray[np.int64], bits: int) -> None:
    """Write the index of (3, n) entries to an empty folder; `rows` (S,) are those of each shard, once all are read.

    Memory: some copies of `HELD_KEYS` keys, then of the largest part. OSError where the disk is full.
    """
    held: list[NDArray[np.uint64]] = []
    for batch in batches:
        held.append(batch)
        if sum(one.shape[1] for one in held) >= HELD_KEYS:
            _spill(folder, held, bits)
            held = []
    _spill(folder, held, bits)
    for part in range(1 << bits):
        _sort_part(_name_part(folder, part))
    (folder / ROWS_FILE).write_bytes(rows.astype("<i8").tobytes())
    (folder / NOTE).write_text(json.dumps(_describe(folder, bits)))


def _describe(folder: Path, bits: int) -> dict[str, Any]:
    """Sizes of all files, and the checksum of the one by which rows are numbered."""
    paths = [folder / ROWS_FILE, *(_name_part(folder, part) for part in range(1 << bits))]
    sizes = {path.name: path.stat().st_size for path in paths}
    return {"bits": bits, "sizes": sizes, "rows_crc32": zlib.crc32((folder / ROWS_FILE).read_bytes())}


def _name_part(folder: Path, part: int) -> Path:
    return folder / f"{part:03d}.keys"


def _find_parts(first: NDArray[np.uint64], bits: int) -> NDArray[np.uint16]:
    return (first >> np.uint64(64 - bits)).astype(np.uint16) if bits else np.zeros(len(first), np.uint16)


def _spill(folder: Path, held: list[NDArray[np.uint64]], bits: int) -> None:
    """Add entries to the files of their parts, three numbers a key as yet."""
    entries = np.concatenate([np.empty((NUMBERS, 0), np.uint64), *held], axis=1)
    parts = _find_parts(entries[0], bits)
    ordered = np.ascontiguousarray(entries[:, np.argsort(parts, kind="stable")].T)
    for part, start, stop in _cut(np.sort(parts), 1 << bits):
        with _name_part(folder, part).open("ab") as file:
            file.write(ordered[start:stop].data)


def _cut(parts: NDArray[np.uint16], count: int) -> Iterator[tuple[int, int, int]]:
    """Each part, and where it begins and ends among sorted ones."""
    bounds = np.searchsorted(parts, np.arange(count + 1))
    for part in range(count):
        yield part, int(bounds[part]), int(bounds[part + 1])


def _sort_part(path: Path) -> None:
    """One entry for each first number: of two keys that share it, which no one will see, the other is computed."""
    entries = np.fromfile(path, np.uint64).reshape(-1, NUMBERS).T
    _, chosen = np.unique(entries[0], return_index=True)
    path.unlink()
    with path.open("wb") as file:
        for numbers in entries:
            file.write(np.ascontiguousarray(numbers[chosen]).data)


class KeyIndex:
    """The index of an output, read-only, for many threads."""

    def __init__(self, folder: Path) -> None:
        """Maps all of its files: they may be removed from then on. OSError where they are not as they were written."""
        self._bits = _check(folder)
        self._parts = [_map(_name_part(folder, part)) for part in range(1 << self._bits)]
        rows = np.frombuffer((folder / ROWS_FILE).read_bytes(), "<i8")
        unnumbered = np.flatnonzero(rows < 0)
        self.num_shards = len(rows)
        self.num_unread = int(np.count_nonzero(rows == UNREAD))
        self._counted = int(unnumbered[0]) if len(unnumbered) else len(rows)
        self._offsets: NDArray[np.int64] = np.concatenate([[0], np.cumsum(rows)]).astype(np.int64)

    def __len__(self) -> int:
        return sum(part.shape[1] for part in self._parts)

    def find(self, keys: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(N,) shards of (N, 16) keys, NOT_THERE for those that are not here, and (N,) places in the shards' files."""
        wanted = split_keys(keys)
        rows = np.zeros(len(keys), np.uint64)
        is_here = np.zeros(len(keys), bool)
        order = np.argsort(wanted[0])
        for part, start, stop in _cut(_find_parts(wanted[0][order], self._bits), len(self._parts)):
            if start < stop:
                chosen = order[start:stop]
                is_here[chosen], rows[chosen] = _find_in(self._parts[part], wanted[:, chosen])
        shards = (rows >> np.uint64(PLACE_BITS)).astype(np.int64)
        shards = np.where(is_here & (shards < self.num_shards), shards, NOT_THERE)
        return shards, (rows & np.uint64((1 << PLACE_BITS) - 1)).astype(np.int64)

    def number(self, shards: NDArray[np.int64], places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Row numbers over all shards in order, as `load_embeddings` gives rows; NOT_THERE for what has none."""
        has_one = (shards != NOT_THERE) & (shards < self._counted)
        return np.where(has_one, self._offsets[shards] + places, NOT_THERE)


def _check(folder: Path) -> int:
    """The bits that tell a part; OSError where the files of an index are not all there, and of their sizes."""
    try:
        note = json.loads((folder / NOTE).read_text())
        bits = int(note["bits"])
        found = _describe(folder, bits)
    except (ValueError, KeyError, TypeError) as error:
        raise OSError(f"{folder / NOTE}: expected what the other files must be, got: {error!r}") from error
    if found != note:
        raise OSError(f"{folder}: expected {note}, got {found}")
    return bits


def _map(path: Path) -> NDArray[np.uint64]:
    if not path.stat().st_size:
        return np.empty((NUMBERS, 0), np.uint64)
    return np.asarray(np.memmap(path, np.uint64, mode="r")).reshape(NUMBERS, -1)


def _find_in(part: NDArray[np.uint64], wanted: NDArray[np.uint64]) -> tuple[NDArray[np.bool_], NDArray[np.uint64]]:
    """Which of (2, n) keys are in a part, and their rows."""
    count = part.shape[1]
    if not count:
        return np.zeros(wanted.shape[1], bool), np.zeros(wanted.shape[1], np.uint64)
    places = np.minimum(np.searchsorted(part[0], wanted[0]), count - 1)
    return (part[0][places] == wanted[0]) & (part[1][places] == wanted[1]), part[2][places]
