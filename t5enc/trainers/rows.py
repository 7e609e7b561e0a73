"""Rows of an output as exports read them: names first, without embeddings, and these later a row group at a time.

L tokens of a caption, M model dim.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from t5enc.errors import ConfigError, OutputError
from t5enc.output import OutputFolder
from t5enc.shards.shared import SharedRows, fill_references, name_referring
from t5enc.storage import PREFIX, column_format, read_column
from t5enc.trainers.format import Caption, ShardRows

BYTES, TOKENS, ERROR = f"{PREFIX}bytes", f"{PREFIX}num_tokens", f"{PREFIX}error"
PLACE = f"{PREFIX}caption_index"


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Which columns captions, stems (None: not asked for) and the rest are read from.

    `encoded` is that which the job encoded, where captions are those of another. With an `index` the caption of this
    place counts alone, where a row of the input had several.
    """

    caption: str
    path: str | None = None
    more: tuple[str, ...] = ()
    encoded: str | None = None
    index: int | None = None

    @property
    def names(self) -> list[str]:
        """Each once."""
        place = None if self.index is None else PLACE
        return list(dict.fromkeys(name for name in (self.caption, self.path, self.encoded, place, *self.more) if name))


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """An open shard: its footer, so that each thread opens it again for nothing; `first` numbers its rows.

    `mark` is another where any of its rows is. `shared` has what rows refer to, where equal embeddings are stored once.
    """

    filesystem: Any
    path: str
    index: int
    first: int
    metadata: Any
    mark: str
    shared: SharedRows | None = None

    @property
    def num_rows(self) -> int:
        """Rows, with and without embedding."""
        return int(self.metadata.num_rows)

    def describe(self) -> ShardRows:
        """As formats see it."""
        return ShardRows(filesystem=self.filesystem, path=self.path, index=self.index, num_rows=self.num_rows)

    def read(self, columns: Sequence[str], groups: Sequence[int] | None = None) -> pa.Table:
        """Columns of all row groups, or of these; OutputError where the shard is damaged or gone."""
        try:
            with self.filesystem.open_input_file(self.path) as stream:
                file = pq.ParquetFile(stream, metadata=self.metadata)
                return file.read_row_groups(
                    range(file.num_row_groups) if groups is None else groups, columns=[*columns]
                )
        except (OSError, pa.ArrowInvalid) as error:
            raise OutputError(f"{self.path}: expected rows of a Parquet shard, got {error}") from error

    def group_starts(self) -> list[int]:
        """Where each row group begins in the shard, and where the last one ends."""
        starts = [0]
        for group in range(self.metadata.num_row_groups):
            starts.append(starts[-1] + self.metadata.row_group(group).num_rows)
        return starts


def open_shards(folder: OutputFolder, columns: Columns) -> Iterator[Shard]:
    """All shards in the output's order; ConfigError where one has not the columns."""
    first, shared = 0, None if folder.shared is None else folder.shared.rows
    for index, name in enumerate(folder.shards):
        path = f"{folder.root}/{name}"
        try:
            metadata = pq.read_metadata(path, filesystem=folder.filesystem)
        except (OSError, pa.ArrowInvalid) as error:
            raise OutputError(f"{path}: expected a Parquet shard, got {error}") from error
        _check_columns(path, columns, metadata.schema.to_arrow_schema().names)
        mark = _mark(name, metadata)
        form = {"filesystem": folder.filesystem, "path": path, "index": index, "first": first}
        yield Shard(**form, metadata=metadata, mark=mark, shared=shared)
        first += metadata.num_rows


def _mark(name: str, metadata: Any) -> str:
    """A digest of a shard's name and footer, which holds one of its content."""
    stream = io.BytesIO()
    metadata.write_metadata_file(stream)
    return hashlib.sha256(name.encode() + stream.getvalue()).hexdigest()[:16]


def _check_columns(path: str, columns: Columns, present: Sequence[str]) -> None:
    for name in columns.names:
        if name not in present:
            kept = ", ".join(column for column in present if not column.startswith(PREFIX))
            raise ConfigError(f"{path}: expected a column {name!r}, which the job kept, got {kept}")


def read_captions(shard: Shard, columns: Columns, groups: Sequence[int] | None = None) -> list[Caption | str]:
    """A shard's rows in order: a Caption, or the reason why a row has no embedding."""
    table = shard.read([*columns.names, TOKENS, ERROR], groups)
    start = shard.first if groups is None else shard.first + shard.group_starts()[groups[0]]
    return list(make_captions(table, columns, start))


def make_captions(table: pa.Table, columns: Columns, first: int) -> Iterator[Caption | str]:
    """The captions of a table's rows, the first of which has the number `first` in the output."""
    texts = _read_texts(table, columns.caption)
    paths = [""] * len(table) if columns.path is None else _read_texts(table, columns.path)
    encoded = [None] * len(table) if columns.encoded is None else _read_texts(table, columns.encoded)
    more = [table[name].to_pylist() for name in columns.more]
    tokens, errors = table[TOKENS].to_pylist(), table[ERROR].to_pylist()
    indices = [None] * len(table) if columns.index is None else table[PLACE].to_pylist()
    for place, (text, path, count, error) in enumerate(zip(texts, paths, tokens, errors, strict=True)):
        if indices[place] != columns.index:
            yield f"not caption {columns.index} of its row"
        elif error is not None:
            yield error
        elif text is None or path is None:
            yield f"null in {columns.caption if text is None else columns.path}"
        else:
            others = {name: values[place] for name, values in zip(columns.more, more, strict=True)}
            yield Caption(
                row=first + place, text=text, path=path, num_tokens=count, columns=others, encoded=encoded[place]
            )


def _read_texts(table: pa.Table, name: str) -> list[str | None]:
    """A column as texts; numbers and the like as they are written. ConfigError for bytes that are no UTF-8."""
    try:
        return table[name].cast(pa.large_string()).to_pylist()  # type: ignore[no-any-return]
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ConfigError(f"{name}: expected a column of texts, got {table[name].type}: {error}") from error


def read_rows(shard: Shard, columns: Columns, group: int) -> Iterator[tuple[Caption, Tensor]]:
    """The rows of a row group that have an embedding, and it (L, M) in the codec's working dtype."""
    schema = shard.metadata.schema.to_arrow_schema()
    names = [*columns.names, TOKENS, ERROR, BYTES, *name_referring(schema.names)]
    table, form = shard.read([*dict.fromkeys(names)], [group]), column_format(schema)
    start = shard.group_starts()[group]
    embeddings = read_column(table[BYTES], form["storage_dtype"], form["dim"])
    embeddings = fill_references(shard.path, start, table, embeddings, shard.shared)
    captions = make_captions(table, columns, shard.first + start)
    for place, caption in enumerate(captions):
        if isinstance(caption, Caption):
            yield caption, embeddings[place]
