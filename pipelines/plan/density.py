"""How dense a file's rows are: captions and bytes a row, as the row groups of its footer tell them.

Units are cut by these figures. Whatever changes them cuts the rest of a half-done job otherwise than its beginning.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal

import pyarrow as pa
import pyarrow.types as pat

from pipelines.inputs.columns.plain_types import holds_binary
from pipelines.plan.damage import check_group

# Captions are counted of so many rows: whole numbers are the same on every machine.
ROWS = 1024
# Figures are rounded up to so many binary digits, so that row groups that differ by chance are alike.
DIGITS = 4
# Rows of up to so many bytes are alike: other limits hold before that of bytes does.
SMALL_BYTES = 32 << 10
# No footer that is right says more.
LARGEST = 1 << 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Density:
    """Rows of consecutive row groups that are alike: captions of 1,024 of them, and bytes that one takes in a shard.

    The bytes are those of its captions, and what is kept beside them once for each caption; embeddings apart.
    """

    rows: int
    captions: int = ROWS
    bytes: int = SMALL_BYTES


@dataclass(frozen=True, slots=True)
class Weighing:
    """What of a file counts: its captions, and the columns that are kept, for None all without bytes in them.

    These are what the job's identity says: whoever goes on with it cuts the same units.
    """

    text_column: str
    caption_choice: Literal["all", "first"] = "all"
    keep_columns: Sequence[str] | None = None


def measure(metadata: Any, schema: pa.Schema, weighing: Weighing) -> tuple[Density, ...]:
    """The densities of a file in order; none for a file whose rows all have one caption and few bytes.

    Sizes are those of the file's pages before compression: a value that a dictionary repeats counts once. OSError
    where the footer is damaged.
    """
    spans = _find_leaves(schema)
    text = next((spans[i] for i, name in enumerate(schema.names) if name == weighing.text_column), None)
    if text is None or sum(map(len, spans)) != metadata.num_columns:
        return ()  # what is wrong with it is said where it is read
    kept = [span for field, span in zip(schema, spans, strict=True) if _is_kept(field, weighing)]
    beside = [leaf for span in kept for leaf in span if leaf not in text]
    has_lists = weighing.caption_choice == "all" and pat.is_nested(schema.field(weighing.text_column).type)
    groups = (index for index in range(metadata.num_row_groups) if metadata.row_group(index).num_rows > 0)
    figures = (_measure_group(metadata, index, text, beside, has_lists=has_lists) for index in groups)
    found = tuple(_join_alike(figures))
    return () if all(density == Density(rows=density.rows) for density in found) else found


def _measure_group(metadata: Any, index: int, text: range, beside: Sequence[int], *, has_lists: bool) -> Density:
    group = metadata.row_group(index)
    rows: int = group.num_rows
    if not has_lists and _is_small(group, rows):
        return Density(rows=rows)
    check_group(metadata, index)
    captions = max(rows, group.column(text.start).num_values) if has_lists else rows
    return Density(
        rows=rows,
        captions=_round_up(-(-ROWS * captions // rows)),
        bytes=max(SMALL_BYTES, _round_up(_count_bytes(group, text, beside, captions))),
    )


def _is_small(group: Any, captions: int) -> bool:
    """Whether a row has few bytes whatever is kept, so that its columns need not be looked at."""
    return bool(group.total_byte_size * captions <= SMALL_BYTES * group.num_rows**2)


def _count_bytes(group: Any, text: range, beside: Sequence[int], captions: int) -> int:
    """Bytes of a row."""
    rows: int = group.num_rows
    if _is_small(group, captions):
        return SMALL_BYTES
    texts: int = sum(group.column(leaf).total_uncompressed_size for leaf in text)
    others: int = sum(group.column(leaf).total_uncompressed_size for leaf in beside)
    return -(-(texts * rows + others * captions) // (rows * rows))


def _round_up(number: int) -> int:
    number = min(number, LARGEST)
    shift = max(0, number.bit_length() - DIGITS)
    return -(-number >> shift) << shift


def _join_alike(groups: Iterator[Density]) -> Iterator[Density]:
    for (captions, size), alike in groupby(groups, key=lambda group: (group.captions, group.bytes)):
        yield Density(rows=sum(group.rows for group in alike), captions=captions, bytes=size)


def _is_kept(field: pa.Field, weighing: Weighing) -> bool:
    return not holds_binary(field.type) if weighing.keep_columns is None else field.name in weighing.keep_columns


def _find_leaves(schema: pa.Schema) -> list[range]:
    """The Parquet columns of each field, whose paths alone do not tell where names hold dots."""
    spans: list[range] = []
    stop = 0
    for field in schema:
        start, stop = stop, stop + _count_leaves(field.type)
        spans.append(range(start, stop))
    return spans


def _count_leaves(type_: pa.DataType) -> int:
    if isinstance(type_, pa.BaseExtensionType):
        return _count_leaves(type_.storage_type)
    if pat.is_dictionary(type_):
        return _count_leaves(type_.value_type)
    if not pat.is_nested(type_):
        return 1
    return sum(_count_leaves(type_.field(index).type) for index in range(type_.num_fields))
