"""Captions of a span, read once as a stream and cut into units: texts, or reasons why there is none."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines.actors.kept import Kept
from pipelines.inputs.columns.conform import conform, kept_column
from pipelines.inputs.columns.plain_types import is_binary, is_text_list, plain_type
from pipelines.inputs.columns.text_column import check_text_column, check_unique
from pipelines.inputs.footers import open_parquet
from pipelines.inputs.sources import SourceFile
from pipelines.plan.units import Span
from t5enc.errors import SourceError

CaptionChoice = Literal["all", "first"]
NO_CAPTION = "no caption"
NULL_CAPTION = "null caption"
NOT_UTF8 = "not UTF-8"
# Rows decoded at a time, of units of fewer no more than of one: enough that Arrow's cost a batch does not show, little
# enough that wide rows fit.
BATCH_ROWS = 4096
# So many times fewer where lists of texts come to more than Arrow holds, which it says in these words.
FEWER_ROWS = 8
TOO_LONG = "chunked array outputs"


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionBatch:
    """The captions of consecutive input rows; each has either a text or the reason why it has none."""

    first_row: int
    num_rows: int
    columns: Kept
    rows: NDArray[np.int64]
    caption_indices: NDArray[np.int32]
    texts: list[str | None]
    reasons: list[str | None]

    def keep(self, captions: slice) -> Any:
        """What is kept of these captions."""
        return self.columns.take(captions, self.rows[captions] - self.first_row)

    def kept_sizes(self) -> NDArray[np.int64]:
        """Bytes that are kept of each caption."""
        return self.columns.sizes(self.rows - self.first_row)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reading:
    """What stays the same through a span."""

    file: SourceFile
    text_column: str
    caption_choice: CaptionChoice
    schema: Any


def read_captions(
    filesystem: Any,
    span: Span,
    *,
    text_column: str,
    caption_choice: CaptionChoice,
    schema: Any,
    skip: Callable[[int], bool],
) -> Iterator[CaptionBatch]:
    """One batch for each unit of the span that is not skipped.

    `skip` is asked with a unit's first row in the file. Row groups without a wanted row are not read. Memory: about
    one unit, and what is decoded at a time. SourceError for a file that changed, is damaged, or does not fit `schema`.
    """
    units = [unit for unit in span.cut() if not skip(unit.start)]
    if not units:
        return
    reading = _Reading(file=span.file, text_column=text_column, caption_choice=caption_choice, schema=schema)
    with open_parquet(filesystem, span.file) as (parquet, digest):
        if digest != span.digest:
            raise SourceError(f"{span.file.source}: changed during the run: its footer is another one")
        columns = _choose_columns(parquet.schema_arrow, reading)
        batch_rows = min(BATCH_ROWS, span.rows_per_unit)
        for unit, slices in groupby(_stream(parquet, span.file, units, columns, batch_rows), key=itemgetter(0)):
            yield _join([_read_slice(first_row, batch, reading) for _, first_row, batch in slices], unit)


def _choose_columns(schema: Any, reading: _Reading) -> list[str]:
    check_text_column(schema, reading.file, reading.text_column)
    kept = [name for name in reading.schema.names if name in schema.names]
    check_unique(schema, reading.file, kept)
    return list(dict.fromkeys([reading.text_column, *kept]))


def _stream(
    parquet: Any, file: SourceFile, units: Sequence[range], columns: list[str], batch_rows: int
) -> Iterator[tuple[range, int, Any]]:
    """(unit, first row, rows) in order: every record batch cut where units meet, unwanted rows dropped."""
    stop = 0
    for group in range(parquet.num_row_groups):
        row, stop = stop, stop + parquet.metadata.row_group(group).num_rows
        wanted = [unit for unit in units if unit.start < stop and unit.stop > row]
        if not wanted:
            continue
        needed = min(stop, wanted[-1].stop)
        for batch in _read_row_group(parquet, group, columns, file, batch_rows):
            for unit in wanted:
                first, last = max(unit.start, row), min(unit.stop, row + len(batch))
                if first < last:
                    yield unit, first, batch.slice(first - row, last - first)
            row += len(batch)
            if row >= needed:
                break
        if row < needed:
            raise SourceError(f"{file.source}: row group {group}: expected rows up to {needed}, got {row}")


def _read_row_group(parquet: Any, group: int, columns: list[str], file: SourceFile, batch_rows: int) -> Iterator[Any]:
    """Its rows in batches; lists of more text than Arrow holds in one are read again, fewer rows at a time."""
    done = 0
    while True:
        try:
            for batch in _iterate(parquet, group, columns, batch_rows, done):
                yield batch
                done += len(batch)
            return
        except (pa.ArrowException, OSError) as error:
            if TOO_LONG not in str(error):
                raise SourceError(f"{file.source}: row group {group}: expected readable pages, got: {error}") from error
            if batch_rows == 1:
                raise SourceError(
                    f"{file.source}: row group {group}, row {done}: expected a list of less than 2 GB, got: {error}"
                ) from error
            batch_rows = max(1, batch_rows // FEWER_ROWS)


def _iterate(parquet: Any, group: int, columns: list[str], batch_rows: int, skipped: int) -> Iterator[Any]:
    """Batches of a row group without its first rows."""
    for batch in parquet.iter_batches(batch_size=batch_rows, row_groups=[group], columns=columns, use_threads=True):
        if len(batch) > skipped:
            yield batch.slice(skipped)
        skipped = max(0, skipped - len(batch))


def _read_slice(first_row: int, batch: Any, reading: _Reading) -> CaptionBatch:
    captions = _find_captions(batch.column(reading.text_column), reading.caption_choice)
    return CaptionBatch(
        first_row=first_row,
        num_rows=len(batch),
        columns=_keep(batch, captions, reading),
        rows=captions.positions + first_row,
        caption_indices=captions.indices,
        texts=captions.texts,
        reasons=captions.reasons,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Captions:
    """The captions of a text column; `positions` are their rows in it."""

    positions: NDArray[np.int64]
    indices: NDArray[np.int32]
    values: Any
    texts: list[str | None]
    reasons: list[str | None]


def _find_captions(column: Any, choice: CaptionChoice) -> _Captions:
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    plain = plain_type(column.type)
    if is_text_list(plain):
        positions, indices, values, is_empty = _explode(column.cast(plain), choice)
        texts, reasons = _read_texts(values, is_empty)
        return _Captions(positions=positions, indices=indices, values=values, texts=texts, reasons=reasons)
    positions, indices = np.arange(len(column)), np.zeros(len(column), np.int32)
    values = column.cast(plain)
    texts, reasons = _read_texts(values, np.zeros(len(column), bool))
    return _Captions(positions=positions, indices=indices, values=values, texts=texts, reasons=reasons)


def _explode(lists: Any, choice: CaptionChoice) -> tuple[NDArray[np.int64], NDArray[np.int32], Any, NDArray[np.bool_]]:
    """Row, index, value and emptiness of every caption (or each row's first); an empty row has one null."""
    lengths = pc.list_value_length(lists).fill_null(0).to_numpy().astype(np.int64)
    counts = np.maximum(lengths, 1) if choice == "all" else np.ones_like(lengths)
    positions = np.repeat(np.arange(len(lists)), counts)
    indices = np.arange(len(positions)) - np.repeat(np.cumsum(counts) - counts, counts)
    is_empty = (lengths == 0)[positions]
    picks = pa.array((np.cumsum(lengths) - lengths)[positions] + indices, mask=is_empty)
    return positions, indices.astype(np.int32), lists.flatten().take(picks), is_empty


def _read_texts(values: Any, is_empty: NDArray[np.bool_]) -> tuple[list[str | None], list[str | None]]:
    """Texts, or reasons. Arrow takes the strings of a Parquet file on trust, so they are checked here."""
    raw = values.cast(pa.large_binary())
    try:
        texts = raw.cast(pa.large_string()).to_pylist()
    except pa.ArrowInvalid:
        texts = [_decode(value) for value in raw.to_pylist()]
    if None not in texts:
        return texts, [None] * len(texts)
    nulls = raw.is_null().to_pylist()
    return texts, [
        None if text is not None else NO_CAPTION if empty else NULL_CAPTION if null else NOT_UTF8
        for text, empty, null in zip(texts, is_empty, nulls, strict=True)
    ]


def _decode(value: bytes | None) -> str | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return None


def _keep(batch: Any, captions: _Captions, reading: _Reading) -> Kept:
    texts = [field for field in reading.schema if field.name == reading.text_column]
    others = [field for field in reading.schema if field.name != reading.text_column]
    return Kept(
        schema=reading.schema,
        captions=_tabulate([_keep_text(captions, field, reading.file) for field in texts], texts),
        beside=_tabulate([kept_column(batch, field, reading.file) for field in others], others),
    )


def _tabulate(columns: list[Any], fields: list[Any]) -> Any:
    return pa.Table.from_arrays(columns, schema=pa.schema(fields))


def _keep_text(captions: _Captions, field: Any, file: SourceFile) -> Any:
    """The captions themselves; null where they are no text, which a column of strings must not hold."""
    values = captions.values
    if NOT_UTF8 in captions.reasons and not is_binary(field.type):
        is_bad = pa.array([reason == NOT_UTF8 for reason in captions.reasons])
        values = pc.if_else(is_bad, pa.scalar(None, values.type), values)
    return conform(values, field, file)


def _join(parts: Sequence[CaptionBatch], unit: range) -> CaptionBatch:
    return CaptionBatch(
        first_row=unit.start,
        num_rows=len(unit),
        columns=Kept.join([part.columns for part in parts]),
        rows=np.concatenate([part.rows for part in parts]),
        caption_indices=np.concatenate([part.caption_indices for part in parts]),
        texts=[text for part in parts for text in part.texts],
        reasons=[reason for part in parts for reason in part.reasons],
    )
