"""Kept columns: which of the input's columns reach the output, and how later files fit the first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.types as pat

from pipelines.inputs.sources import SourceFile
from t5enc.errors import SourceError
from t5enc.storage import SCHEMA as OUTPUT_SCHEMA

TEXT_KINDS = (pat.is_string, pat.is_large_string, pat.is_binary, pat.is_large_binary, pat.is_null)
LIST_KINDS = (pat.is_list, pat.is_large_list, pat.is_fixed_size_list)
BINARY_KINDS = (pat.is_binary, pat.is_large_binary, pat.is_binary_view, pat.is_fixed_size_binary)


def kept_schema(footer_schema: Any, file: SourceFile, *, text_column: str, keep_columns: Sequence[str] | None) -> Any:
    """The kept columns' schema, fixed by the first file; SourceError for names that are missing or collide.

    None keeps every column without binary data, and the path's partitions as strings where the file has no
    column of that name; a list keeps exactly what it names, in its order. Where a row holds several captions,
    the text column is kept as the one caption of its output row.
    """
    check_text_column(footer_schema, file, text_column)
    fields = {field.name: field for field in footer_schema}
    partitions = {key: pa.field(key, pa.string()) for key, _ in file.partitions if key not in fields}
    fields |= partitions
    if keep_columns is None:
        keep_columns = [name for name, field in fields.items() if not _holds_binary(field.type)]
    for name in keep_columns:
        _check_kept(name, footer_schema, file, fields.values())
    types = {name: plain_type(fields[name].type) for name in keep_columns}
    if text_column in types:
        types[text_column] = _kept_text_type(types[text_column])
    return pa.schema(list(types.items()))


def check_text_column(schema: Any, file: SourceFile, text_column: str) -> None:
    """SourceError unless the file has exactly one top-level column of that name."""
    if text_column not in schema.names:
        raise SourceError(f"{file.source}: expected a text column {text_column!r}, got only {_describe(schema)}")
    check_unique(schema, file, [text_column])


def check_unique(schema: Any, file: SourceFile, names: Iterable[str]) -> None:
    """SourceError for a name that several of the file's columns have."""
    for name in names:
        if (count := schema.names.count(name)) > 1:
            raise SourceError(f"{file.source}: column {name!r}: expected one of that name, got {count}")


def _check_kept(name: str, schema: Any, file: SourceFile, present: Iterable[Any]) -> None:
    if name not in [field.name for field in present]:
        raise SourceError(f"{file.source}: column {name!r}: expected one of those to be kept from {_describe(present)}")
    check_unique(schema, file, [name])
    for reserved in OUTPUT_SCHEMA.names:
        if name.startswith(reserved):
            raise SourceError(
                f"{file.source}: column {name!r} collides with the output column {reserved!r}: "
                f"rename it, or name the columns to keep without it"
            )


def _describe(fields: Iterable[Any]) -> str:
    return ", ".join(f"{field.name} ({field.type})" for field in fields) or "no columns"


def plain_type(type_: Any) -> Any:
    """The same data without memory layout: dictionaries as their values, no views, everything nullable."""
    if pat.is_dictionary(type_):
        return plain_type(type_.value_type)
    if pat.is_string_view(type_):
        return pa.string()
    if pat.is_binary_view(type_):
        return pa.binary()
    if pat.is_struct(type_):
        return pa.struct([_plain_field(type_.field(index)) for index in range(type_.num_fields)])
    if pat.is_map(type_):
        return pa.map_(plain_type(type_.key_type), plain_type(type_.item_type))
    if pat.is_fixed_size_list(type_):
        return pa.list_(_plain_field(type_.value_field), type_.list_size)
    if pat.is_list(type_) or pat.is_list_view(type_):
        return pa.list_(_plain_field(type_.value_field))
    if pat.is_large_list(type_) or pat.is_large_list_view(type_):
        return pa.large_list(_plain_field(type_.value_field))
    return type_


def _plain_field(field: Any) -> Any:
    return pa.field(field.name, plain_type(field.type))


def is_text(type_: Any) -> bool:
    """Whether a plain type holds one caption a row, in bytes or characters (or nothing but nulls)."""
    return any(is_kind(type_) for is_kind in TEXT_KINDS)


def is_text_list(type_: Any) -> bool:
    """Whether a plain type holds several captions a row."""
    return any(is_kind(type_) for is_kind in LIST_KINDS) and is_text(type_.value_type)


def is_binary(type_: Any) -> bool:
    """Whether values are bytes of any meaning."""
    return any(is_kind(type_) for is_kind in BINARY_KINDS)


def _holds_binary(type_: Any) -> bool:
    if isinstance(type_, pa.BaseExtensionType):
        return _holds_binary(type_.storage_type)
    if pat.is_dictionary(type_):
        return _holds_binary(type_.value_type)
    parts = [type_.field(index).type for index in range(type_.num_fields)]
    return is_binary(type_) or any(map(_holds_binary, parts))


def _kept_text_type(type_: Any) -> Any:
    return pa.string() if is_text_list(type_) or pat.is_null(type_) else type_


def input_column(batch: Any, field: Any, file: SourceFile) -> Any:
    """One kept column of a record batch in its kept type: from the file, its path, or null in every row."""
    index = batch.schema.get_field_index(field.name)
    if index >= 0:
        return conform(batch.column(index), field, file)
    value = dict(file.partitions).get(field.name)
    if value is None:
        return pa.nulls(len(batch), field.type)
    return conform(pa.repeat(pa.scalar(value, pa.string()), len(batch)), field, file)


def conform(values: Any, field: Any, file: SourceFile) -> Any:
    """Cast without loss to the kept type; SourceError names the column that cannot be."""
    if values.type == field.type:
        return values
    try:
        return values.cast(field.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise SourceError(
            f"{file.source}: column {field.name!r}: expected {field.type} as in the first file, "
            f"got {values.type}: {error}"
        ) from error
