"""The column of captions: there once in every file, and of a type that holds text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.types as pat

from pipelines.inputs.columns.plain_types import describe_fields, is_list, is_text, is_text_list, plain_type
from pipelines.inputs.columns.schemas_seen import SchemaSeen
from pipelines.inputs.columns.type_union import unite_all
from pipelines.inputs.footers import open_parquet
from pipelines.inputs.sources import SourceFile
from t5enc.errors import SourceError

SHOWN = 160
# Rows that are looked at for one that shows what a column holds.
LOOKED_AT = 100
MOST_NAMES = 8


def check_captions(filesystem: Any, seen: Iterable[SchemaSeen], text_column: str) -> None:
    """SourceError for files without captions, or whose column holds something else, with an example of it."""
    for one in seen:
        show = partial(_find_example, filesystem, one.file, text_column)
        check_text_column(one.schema, one.file, text_column, files=one.files, show=show)


def check_text_column(
    schema: Any, file: SourceFile, text_column: str, *, files: int = 1, show: Callable[[], str] = str
) -> None:
    """SourceError unless exactly one top-level column has that name, and a type that holds text."""
    where = file.source if files == 1 else f"{file.source} and {files - 1:,} more files"
    if text_column not in schema.names:
        raise SourceError(f"{where}: expected a text column {text_column!r}, got only {describe_fields(schema)}")
    check_unique(schema, file, [text_column])
    type_ = plain_type(schema.field(text_column).type)
    if not (is_text(type_) or is_text_list(type_)):
        raise SourceError(
            f"{where}: column {text_column!r}: expected text, or a list of texts, in each row, got {type_}{show()}: "
            f"not text. {_advise(schema, type_)}"
        )


def check_unique(schema: Any, file: SourceFile, names: Iterable[str]) -> None:
    """SourceError for a name that several of the file's columns have."""
    for name in names:
        if (count := schema.names.count(name)) > 1:
            raise SourceError(
                f"{file.source}: column {name!r}: expected one of that name, got {count}; "
                f"--keep-columns with other names leaves them out"
            )


def unite_text(types: Sequence[Any]) -> Any:
    """The type that a text column is kept in: one caption, as text unless all files have bytes."""
    singles = [pa.string() if is_text_list(type_) or pat.is_null(type_) else type_ for type_ in types]
    united = unite_all(singles)
    if united is not None:
        return united
    return pa.large_string() if pa.large_string() in singles else pa.string()


def _find_example(filesystem: Any, file: SourceFile, column: str) -> str:
    with open_parquet(filesystem, file) as (parquet, _):
        try:
            batch = next(parquet.iter_batches(batch_size=LOOKED_AT, columns=[column]), None)
        except (pa.ArrowException, OSError):
            return ""
    values = [] if batch is None else [value for value in batch.column(column).to_pylist() if value is not None]
    if not values:
        return ""
    text = repr(values[0])
    return f", such as {text if len(text) <= SHOWN else f'{text[:SHOWN]}...'}"


def _advise(schema: Any, type_: Any) -> str:
    names = [field.name for field in schema if _is_text(field.type)]
    if names:
        more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
        return f"Columns of text: {', '.join(names[:MOST_NAMES])}{more} (--text-column)"
    if pat.is_nested(type_):
        return "What works is a column made of its texts: one string, or a list of strings, in each row"
    return "No other column holds text"


def _is_text(type_: Any) -> bool:
    plain = plain_type(type_)
    value = plain.value_type if is_list(plain) else plain
    return bool(pat.is_string(value) or pat.is_large_string(value))
