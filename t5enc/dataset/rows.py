"""The rows of a dataset by number: which shard each is of, where it lies there, and its columns.

N rows, B asked ones, S shards, G row groups.
"""

from __future__ import annotations

import hashlib
import operator
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from t5enc.dataset.catalog import Catalog, Missing
from t5enc.errors import InputError, OutputError
from t5enc.shards.files import OpenShard, check_stamp, open_shard
from t5enc.shards.index import BYTES, SOURCE, ShardIndex, name_row, read_index
from t5enc.shards.located import Located, count_before, find_referring, locate, split_rows
from t5enc.shards.process import Process
from t5enc.shards.references import References
from t5enc.shards.row_groups import DecodedGroup, read_group
from t5enc.storage import NOT_SHARED
from t5enc.storage.layout import SHARED

# What goes along to another process.
KEPT = ("missing", "threads", "catalog", "offsets", "shared_offsets", "shared_starts")
# Lengths and row groups of all rows are kept where they take no more.
KEPT_BYTES = 1 << 30


class Rows:
    """Rows in the order of their shards. Safe for many threads, and in processes that are forked or spawned."""

    def __init__(self, catalog: Catalog, *, missing: Missing, threads: int) -> None:
        self.missing = missing
        self.threads = threads
        self.catalog = catalog
        self._forget_process()
        if len(catalog.unknown):
            self.catalog = self._count_unknown()
        own, counted = len(self.catalog), self.catalog.captions.copy()
        counted[:own] -= self.catalog.errors[:own] if missing == "skip" else 0
        self.offsets, self.shared_offsets = count_before(counted[:own]), count_before(counted[own:])
        # (outputs + 1,) where the rows that those of each output refer to begin, among all that are referred to.
        firsts = np.searchsorted(self.catalog.output_of[own:], np.arange(len(catalog.outputs) + 1))
        self.shared_starts = self.shared_offsets[firsts]

    def _forget_process(self) -> None:
        self._opened_in = os.getpid()
        self._processes: dict[int, Process] = {}
        self._surveyed: tuple[NDArray[np.int32], NDArray[np.int64]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in KEPT}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget_process()

    def __len__(self) -> int:
        return int(self.offsets[-1])

    def digest_numbering(self) -> str:
        """Letters that tell how many rows of which source come after each other, however shards are cut."""
        digest = hashlib.sha256()
        counts = zip(map(self.source, range(len(self.catalog))), np.diff(self.offsets).tolist(), strict=True)
        for source, shards in groupby(counts, key=operator.itemgetter(0)):
            digest.update(f"{source}\0{sum(count for _, count in shards)}\0".encode("utf-8", "surrogatepass"))
        return digest.hexdigest()[:16]

    @property
    def process(self) -> Process:
        """What this process holds of shards."""
        number = os.getpid()
        if number not in self._processes:
            filesystems = [output.filesystem for output in self.catalog.outputs]
            self._processes.setdefault(number, Process(filesystems, self.threads, self._opened_in))
        return self._processes[number]

    def _count_unknown(self) -> Catalog:
        """The catalog with what only shards themselves tell."""
        shards = self.catalog.unknown
        counts = list(self.process.map(self._count_rows, shards.tolist()))
        return self.catalog.with_counts(shards, (rows for rows, _ in counts), (missing for _, missing in counts))

    def _count_rows(self, shard: int) -> tuple[int, int]:
        index = self.process.indexes.get(shard, partial(self._read_index, shard))
        places = np.arange(len(index))
        there = index.are_there(places) | (index.find_shared_rows(places) != NOT_SHARED)
        return index.num_rows, index.num_rows - int(there.sum())

    def open(self, shard: int) -> OpenShard:
        """A shard's file."""
        path = self.catalog.find_path(shard)
        process = self.process
        filesystem = process.filesystems[self.catalog.output_of[shard]]
        try:
            return process.files.get(shard, partial(open_shard, filesystem, path))
        except OSError as error:
            raise OutputError(f"{path}: expected a shard that can be opened, got: {error}") from error

    def index(self, shard: int) -> ShardIndex:
        """Where a shard's rows lie; OutputError unless they are as many as were noted, or the file is another now."""
        return self.process.indexes.get(shard, lambda: self._check_index(shard, self._read_index(shard)))

    def _read_index(self, shard: int) -> ShardIndex:
        output, skips = self.catalog.find_output(shard), self._skips(shard)
        with_keys = shard >= len(self.catalog)
        return read_index(
            self.open(shard), storage=output.storage, dim=output.dim, skips_missing=skips, with_keys=with_keys
        )

    def _skips(self, shard: int) -> bool:
        """Whether rows without an embedding are not counted: of those that others refer to, all are."""
        return self.missing == "skip" and shard < len(self.catalog)

    def _check_index(self, shard: int, index: ShardIndex) -> ShardIndex:
        captions = int(self.catalog.captions[shard])
        missing = int(self.catalog.errors[shard]) if self._skips(shard) else 0
        expected = captions, captions - missing
        found = index.num_rows, len(index)
        if found != expected:
            raise OutputError(
                f"{self.catalog.find_path(shard)}: expected {expected[0]} rows of which {expected[1]} count as noted "
                f"when the dataset was opened, got {found[0]} of which {found[1]} count"
            )
        return index

    def group(self, shard: int, group: int) -> DecodedGroup:
        """A row group of a shard, decoded."""
        load = partial(self._read_group, shard, group)
        return self.process.groups.get((shard, group), load)

    def _read_group(self, shard: int, group: int) -> DecodedGroup:
        return read_group(self.open(shard), self.index(shard), group)

    def source(self, shard: int) -> str:
        """The input file that a shard's rows are of."""
        noted = self.catalog.sources[shard]
        if noted or not len(self.index(shard)):
            return noted
        return str(self.columns(shard, (SOURCE,))[SOURCE][0].as_py())

    def columns(self, shard: int, names: tuple[str, ...]) -> pa.Table:
        """Columns of a shard's rows that count."""
        return self.process.columns.get((shard, names), partial(self._read_columns, shard, names))

    def _read_columns(self, shard: int, names: tuple[str, ...]) -> pa.Table:
        index, file = self.index(shard), self.open(shard)
        check_stamp(file, index.stamp)
        try:
            with file.open_parquet() as parquet:
                check_columns(file.path, names, parquet.schema_arrow.names)
                table = parquet.read(columns=list(names), use_threads=False)
        except (OSError, pa.ArrowException) as error:
            raise OutputError(f"{file.path}: expected readable columns, got: {error}") from error
        check_stamp(file, index.stamp)
        if len(table) != index.num_rows:
            raise OutputError(f"{file.path}: expected columns of {index.num_rows} rows, got {len(table)}")
        return (table if index.file_rows is None else table.take(index.file_rows)).combine_chunks()

    def check_columns(self, names: Sequence[str]) -> None:
        """InputError unless the first shard of each output has these columns; OutputError where it cannot be read."""
        outputs = self.catalog.output_of[: len(self.catalog)]
        for shard in np.unique(outputs, return_index=True)[1].tolist() if names else ():
            file = self.open(shard)
            try:
                with file.open_parquet() as parquet:
                    check_columns(file.path, names, parquet.schema_arrow.names)
            except (OSError, pa.ArrowException) as error:
                raise OutputError(f"{file.path}: expected a Parquet shard, got: {error}") from error

    def split(self, numbers: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.int64], NDArray[np.int64]]]:
        """Each shard of these rows, which of them (as places in `numbers`) are its own, and their places there."""
        return split_rows(self.offsets, numbers)

    def locate(self, numbers: NDArray[np.int64]) -> Located:
        """Where the embeddings of rows lie, those that they refer to of rows that do."""
        found = self._locate_own(numbers)
        referring = find_referring(found)
        if len(referring):
            found.replace(referring, self._locate_shared(found.take(referring)))
        return found

    def _locate_own(self, numbers: NDArray[np.int64]) -> Located:
        return self._locate_parts(len(numbers), list(self.split(numbers)))

    def _locate_shared(self, referring: Located) -> Located:
        """The rows of `shared/` that rows refer to; OutputError where one is not there, or of another caption."""
        catalog = self.catalog
        outputs = catalog.output_of[referring.shards]
        references = References(
            rows=referring.shared_rows,
            tokens=referring.tokens,
            keys=referring.keys,
            name=lambda row: name_row(catalog.find_path(int(referring.shards[row])), int(referring.file_rows[row])),
            where=lambda row: f"{catalog.outputs[int(outputs[row])].root}/{SHARED}",
        )
        starts = self.shared_starts[outputs]
        references.check_range(self.shared_starts[outputs + 1] - starts)
        parts = split_rows(self.shared_offsets, starts + references.rows)
        found = self._locate_parts(
            len(outputs), [(len(catalog) + shard, chosen, places) for shard, chosen, places in parts]
        )
        references.check_found(found)
        return found

    def _locate_parts(self, count: int, parts: Sequence[tuple[int, NDArray[np.int64], NDArray[np.int64]]]) -> Located:
        indexes = self._find_indexes([shard for shard, _, _ in parts])
        return locate(count, ((*part, indexes[part[0]]) for part in parts))

    def _find_indexes(self, shards: Sequence[int]) -> dict[int, ShardIndex]:
        """The indexes of shards, of which those that are not kept are read at once."""
        process = self.process
        found = {shard: process.indexes.find(shard) for shard in shards}
        absent = [shard for shard, index in found.items() if index is None]
        read = zip(absent, process.run([partial(self.index, shard) for shard in absent]), strict=True)
        return {shard: index for shard, index in found.items() if index is not None} | dict(read)

    def survey(self) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """(N,) tokens of all rows, and (G + 1,) where each row group that has rows begins."""
        if self._surveyed is not None:
            return self._surveyed
        lengths = np.empty(len(self), np.int32)
        starts = [np.zeros(1, np.int64)]
        for shard, (tokens, groups) in enumerate(self.process.map(self._survey_shard, range(len(self.catalog)))):
            lengths[self.offsets[shard] : self.offsets[shard + 1]] = tokens
            starts.append(self.offsets[shard] + groups[1:])
        found = lengths, np.unique(np.concatenate(starts))
        for array in found:
            array.setflags(write=False)  # they are handed out, and kept
        if lengths.nbytes + found[1].nbytes <= KEPT_BYTES:
            self._surveyed = found
        return found

    def _survey_shard(self, shard: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        index = self.index(shard)
        return index.tokens, index.counted_groups()

    def lengths(self, numbers: NDArray[np.int64]) -> NDArray[np.int32]:
        """(B,) tokens of rows."""
        if self._surveyed is not None:
            return self._surveyed[0][numbers]
        return self._locate_own(numbers).tokens.astype(np.int32)

    def map_shards(self, work: Callable[[int], Any]) -> Iterator[Any]:
        """`work` of each shard's number in order, several at once."""
        return self.process.map(work, range(len(self.catalog)))

    def read_column(self, name: str) -> pa.ChunkedArray:
        """A column of all rows, in the type that it has in the first shard; OutputError where others do not fit it."""
        chunks = [table[name] for table in self.map_shards(lambda shard: self._read_columns(shard, (name,)))]
        kind = chunks[0].type
        parts = (_cast(chunk, kind, self.catalog.find_path(shard)) for shard, chunk in enumerate(chunks))
        return pa.chunked_array([part for chunk in parts for part in chunk.chunks], kind)

    def read_values(self, name: str, numbers: NDArray[np.int64]) -> list[Any]:
        """A column's values of some rows."""
        found: list[Any] = [None] * len(numbers)
        for shard, chosen, places in self.split(numbers):
            values = self.columns(shard, (name,))[name].take(pa.array(places)).to_pylist()
            for place, value in zip(chosen.tolist(), values, strict=True):
                found[place] = value
        return found


def _cast(column: pa.ChunkedArray, kind: pa.DataType, path: str) -> pa.ChunkedArray:
    try:
        return column.cast(kind)
    except pa.ArrowException as error:
        raise OutputError(f"{path}: expected a column of {kind} as in the first shard, got {column.type}") from error


def check_columns(path: str, wanted: Sequence[str], present: Sequence[str]) -> None:
    """InputError unless a shard has these columns, which are not the embeddings themselves."""
    for name in wanted:
        if name not in present or name == BYTES:
            others = ", ".join(other for other in present if other != BYTES)
            raise InputError(f"{path}: columns: expected some of {others}, got {name!r}")
