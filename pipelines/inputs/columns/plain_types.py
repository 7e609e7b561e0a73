"""Arrow types as what their values are, whatever the layout: dictionaries as their values, no views, all nullable."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pyarrow as pa
import pyarrow.types as pat

TEXT_KINDS = (pat.is_string, pat.is_large_string, pat.is_binary, pat.is_large_binary, pat.is_null)
LIST_KINDS = (pat.is_list, pat.is_large_list, pat.is_fixed_size_list)
BINARY_KINDS = (pat.is_binary, pat.is_large_binary, pat.is_binary_view, pat.is_fixed_size_binary)
UUID = "arrow.uuid"
# Extension types that are told by their storage alone: readers of several tools do not open them otherwise.
TOLD_BY_STORAGE = (UUID, "arrow.json")
# What a field's metadata says of an extension type that a process does not know.
EXTENSION_NAME, EXTENSION = b"ARROW:extension:name", b"ARROW:extension:metadata"


def plain_schema(schema: Any) -> Any:
    """Fields in plain types, and of their metadata only what says an extension type of somebody's own.

    It is the same in a process that knows that type and in one that does not: in both it is read as its storage.
    """
    return pa.schema([plain_field(field) for field in schema])


def plain_field(field: Any) -> Any:
    """A column's field in its plain type."""
    return pa.field(field.name, plain_type(field.type), metadata=_read_extension(field))


def _read_extension(field: Any) -> dict[bytes, bytes] | None:
    if isinstance(field.type, pa.ExtensionType):
        return {EXTENSION_NAME: field.type.extension_name.encode(), EXTENSION: field.type.__arrow_ext_serialize__()}
    known = field.metadata or {}
    name = known.get(EXTENSION_NAME)
    if name is None or name.decode() in TOLD_BY_STORAGE:
        return None
    return {EXTENSION_NAME: name, EXTENSION: known.get(EXTENSION, b"")}


def plain_type(type_: Any) -> Any:
    """The same data without memory layout. A UUID is its sixteen bytes, JSON its text.

    What writers call the values of a list (item, element) is no difference.
    """
    if isinstance(type_, pa.BaseExtensionType):
        is_own = isinstance(type_, pa.ExtensionType) or type_.extension_name in TOLD_BY_STORAGE
        return plain_type(type_.storage_type) if is_own else type_
    if pat.is_dictionary(type_):
        return plain_type(type_.value_type)
    if pat.is_string_view(type_):
        return pa.string()
    if pat.is_binary_view(type_):
        return pa.binary()
    if pat.is_struct(type_):
        return pa.struct([_plain_part(type_.field(index)) for index in range(type_.num_fields)])
    if pat.is_map(type_):
        return pa.map_(plain_type(type_.key_type), plain_type(type_.item_type))
    if pat.is_fixed_size_list(type_):
        return pa.list_(plain_type(type_.value_type), type_.list_size)
    if pat.is_list(type_) or pat.is_list_view(type_):
        return pa.list_(plain_type(type_.value_type))
    if pat.is_large_list(type_) or pat.is_large_list_view(type_):
        return pa.large_list(plain_type(type_.value_type))
    return type_


def _plain_part(field: Any) -> Any:
    return pa.field(field.name, plain_type(field.type))


def is_text(type_: Any) -> bool:
    """Whether a plain type holds one caption a row, in bytes or characters (or nothing but nulls)."""
    return any(is_kind(type_) for is_kind in TEXT_KINDS)


def is_text_list(type_: Any) -> bool:
    """Whether a plain type holds several captions a row."""
    return is_list(type_) and is_text(type_.value_type)


def is_list(type_: Any) -> bool:
    """Whether a plain type is a list of any kind."""
    return any(is_kind(type_) for is_kind in LIST_KINDS)


def is_binary(type_: Any) -> bool:
    """Whether values are bytes of any meaning."""
    return any(is_kind(type_) for is_kind in BINARY_KINDS)


def holds_binary(type_: Any) -> bool:
    """Whether a type has bytes of any meaning in it; a UUID is an id, as a number is."""
    if isinstance(type_, pa.BaseExtensionType):
        return type_.extension_name != UUID and holds_binary(type_.storage_type)
    if pat.is_dictionary(type_):
        return holds_binary(type_.value_type)
    parts = [type_.field(index).type for index in range(type_.num_fields)]
    return is_binary(type_) or any(map(holds_binary, parts))


def describe_field(field: Any) -> str:
    """A column's type, with the extension type that its metadata tells."""
    known = field.metadata or {}
    if EXTENSION_NAME not in known:
        return str(field.type)
    said = known.get(EXTENSION, b"").decode(errors="replace")
    return f"{field.type}, {known[EXTENSION_NAME].decode(errors='replace')} {said}".strip()


def describe_fields(fields: Iterable[Any]) -> str:
    """Columns with their types, in one line."""
    return ", ".join(f"{field.name} ({describe_field(field)})" for field in fields) or "no columns"
