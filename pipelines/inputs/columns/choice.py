"""Kept columns: which of the input's columns reach the output, in which types, found from all files before work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.types as pat

from pipelines.inputs.columns.casts import may_cast, parse_casts
from pipelines.inputs.columns.plain_types import describe_field, describe_fields
from pipelines.inputs.columns.schemas_seen import SchemaSeen, count_files
from pipelines.inputs.columns.text_column import check_text_column, check_unique, unite_text
from pipelines.inputs.columns.type_union import unite_all
from t5enc.errors import ConfigError, SourceError
from t5enc.storage import KEY, NUM_BYTES, SHARED_ROW
from t5enc.storage import SCHEMA as OUTPUT_SCHEMA

# Columns that one error tells of.
MOST_TOLD = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a job says of columns: no `keep_columns` keeps all without bytes; `cast` has Arrow types by column."""

    text_column: str
    keep_columns: Sequence[str] | None
    cast: Mapping[str, Any]

    @classmethod
    def of(
        cls, text_column: str, keep_columns: Sequence[str] | None = None, cast: Mapping[str, str] | None = None
    ) -> Wanted:
        """As options have it; ConfigError for a type that is none."""
        casts = parse_casts(cast or {})
        if text_column in casts:
            raise ConfigError(f"cast: expected a column that is only kept, got {text_column!r}, that of the captions")
        return cls(text_column=text_column, keep_columns=keep_columns, cast=casts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """The kept schema, the type of each column that is left out, and, where files differ, what they have.

    `found` has what is found of a kept column: its type (None: there is no such column), the first file, how many.
    """

    schema: Any
    left_out: Mapping[str, str]
    found: Mapping[str, Sequence[tuple[str | None, str, int]]]


def choose_columns(seen: Sequence[SchemaSeen], wanted: Wanted) -> Columns:
    """Unite the schemas of all files; SourceError names what cannot be kept as it is, and what decides it.

    Kept are all columns without binary data, and the path's partitions as strings where a file has no column of that
    name; or exactly what `keep_columns` names, in its order. Where a row holds several captions, the text column is
    kept as the one caption of its output row.
    """
    names = _list_names(seen)
    kept = choose_names(seen, wanted)
    for one in seen:
        check_text_column(one.schema, one.file, wanted.text_column)
        check_unique(one.schema, one.file, kept)
    for name in kept:
        _check_kept(name, names, seen)
    for name in wanted.cast:
        if name not in kept:
            raise SourceError(f"cast: {name!r}: expected one of the columns that are kept: {', '.join(kept) or 'none'}")
    return Columns(
        schema=pa.schema(_unite_columns(kept, seen, wanted)),
        left_out=describe_left_out(seen, kept),
        found={name: found for name in kept if len(found := find_types(name, seen)) > 1},
    )


def choose_names(seen: Sequence[SchemaSeen], wanted: Wanted) -> Sequence[str]:
    """What is asked for, or all columns without bytes."""
    if wanted.keep_columns is not None:
        return wanted.keep_columns
    return [name for name in _list_names(seen) if not _is_binary(name, seen)]


def _list_names(seen: Sequence[SchemaSeen]) -> list[str]:
    return list(dict.fromkeys(name for one in seen for name in one.fields))


def describe_left_out(seen: Sequence[SchemaSeen], kept: Sequence[str]) -> dict[str, str]:
    """Types of the columns that are not kept."""
    return {name: ", ".join(_describe_types(name, seen)) for name in _list_names(seen) if name not in kept}


def _is_binary(name: str, seen: Sequence[SchemaSeen]) -> bool:
    """Whether it has bytes in every file that has anything in it."""
    having = [one for one in seen if name in one.fields and not pat.is_null(one.fields[name].type)]
    return bool(having) and all(name in one.binary for one in having)


def _check_kept(name: str, names: Sequence[str], seen: Sequence[SchemaSeen]) -> None:
    if name not in names:
        fields = {field.name: field for one in seen for field in one.fields.values()}
        raise SourceError(
            f"{seen[0].file.source}: column {name!r}: expected one of those to be kept from "
            f"{describe_fields(fields.values())}"
        )
    for reserved in [*OUTPUT_SCHEMA.names, NUM_BYTES.name, KEY.name, SHARED_ROW.name]:
        if name.startswith(reserved):
            first = next(one for one in seen if name in one.fields)
            raise SourceError(
                f"{first.file.source}: column {name!r} collides with the output column {reserved!r}: "
                f"rename it, or name the columns to keep without it"
            )


def _unite_columns(kept: Sequence[str], seen: Sequence[SchemaSeen], wanted: Wanted) -> list[Any]:
    fields, refused = [], []
    for name in kept:
        found = [one for one in seen if name in one.fields]
        field = _unite_column(name, [one.fields[name] for one in found], wanted)
        if field is None:
            refused.append(_explain(name, found, wanted))
        else:
            fields.append(field)
    if refused:
        more = [f"and {len(refused) - MOST_TOLD} columns more"] if len(refused) > MOST_TOLD else []
        raise SourceError("\n".join(refused[:MOST_TOLD] + more))
    return fields


def _unite_column(name: str, fields: Sequence[Any], wanted: Wanted) -> Any:
    """The field that holds what all files have, None where there is none."""
    types = [field.type for field in fields]
    if name == wanted.text_column:
        return pa.field(name, unite_text(types))
    if name in wanted.cast:
        type_ = wanted.cast[name]
        return pa.field(name, type_) if all(may_cast(found, type_) for found in types) else None
    united = unite_all(types)
    # What an extension type says of its values (a tensor's shape) is part of them.
    said = [field.metadata for field in fields if not pat.is_null(field.type)] or [None]
    return None if united is None or any(one != said[0] for one in said) else pa.field(name, united, metadata=said[0])


def _explain(name: str, seen: Sequence[SchemaSeen], wanted: Wanted) -> str:
    """A column whose files have no type in common: the first that does not fit, and what it does not fit to."""
    if name in wanted.cast:
        one = next(one for one in seen if not may_cast(one.fields[name].type, wanted.cast[name]))
        return (
            f"{one.file.source}: column {name!r}: expected a type that --cast can make {wanted.cast[name]}, "
            f"got {describe_field(one.fields[name])}"
        )
    for place, late in enumerate(seen):
        for early in seen[:place]:
            if _unite_column(name, [early.fields[name], late.fields[name]], wanted) is None:
                return _contrast(name, early, late, seen)
    return _contrast(name, seen[0], seen[-1], seen)  # any two go together, all of them do not


def _contrast(name: str, early: SchemaSeen, late: SchemaSeen, seen: Sequence[SchemaSeen]) -> str:
    cast = _propose_cast([one.fields[name].type for one in seen])
    hint = f", or cast it where no value is changed (--cast {name}={cast})" if cast else ""
    return (
        f"{late.file.source}: column {name!r}: expected {describe_field(early.fields[name])} as in "
        f"{early.file.source}, got {describe_field(late.fields[name])}: leave it out (--keep-columns){hint}"
    )


def _propose_cast(types: Sequence[Any]) -> str | None:
    if all(pat.is_integer(type_) or pat.is_floating(type_) for type_ in types):
        return "float64"
    if all(pat.is_timestamp(type_) and type_.tz == types[0].tz for type_ in types):
        return str(pa.timestamp("us", types[0].tz)).replace(" ", "")
    return "string" if all(may_cast(type_, pa.string()) for type_ in types) else None


def _describe_types(name: str, seen: Sequence[SchemaSeen]) -> list[str]:
    """As files have them; a partition is a string."""
    found = [one.schema.field(one.schema.names.index(name)) for one in seen if name in one.schema.names]
    return list(dict.fromkeys(describe_field(field) for field in found)) or ["string"]


def find_types(name: str, seen: Sequence[SchemaSeen]) -> list[tuple[str | None, str, int]]:
    """What files have of a column: a type, or None where it is not there; the first file with it; how many."""
    found: dict[str | None, list[SchemaSeen]] = {}
    for one in seen:
        of_path = "" if name in one.schema.names else " of the path"
        type_ = f"{describe_field(one.fields[name])}{of_path}" if name in one.fields else None
        found.setdefault(type_, []).append(one)
    return [(type_, ones[0].file.source, count_files(ones)) for type_, ones in found.items()]
