"""Input beside an output that is there: its shards have one schema, which files that came later fit, or are refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipelines.inputs.columns.casts import may_cast
from pipelines.inputs.columns.choice import Columns, Wanted, choose_names, describe_left_out, find_types
from pipelines.inputs.columns.plain_types import describe_field, describe_fields, plain_schema
from pipelines.inputs.columns.schemas_seen import SchemaSeen
from pipelines.inputs.columns.text_column import check_text_column, check_unique
from pipelines.inputs.columns.type_union import unite
from pipelines.job import FrozenJob
from t5enc.errors import SourceError

START_ANEW = "choose another folder, or --overwrite to start anew"


def read_kept_schema(job: FrozenJob) -> Any:
    """In plain types; one that an earlier release froze as it stands, extension types included, as its shards are."""
    return plain_schema(job.kept_schema) if job.is_of_all_files else job.kept_schema


def fit_columns(seen: Sequence[SchemaSeen], wanted: Wanted, frozen: Any, *, is_whole: bool) -> Columns:
    """The frozen columns; SourceError for files that do not fit them without loss.

    Not `is_whole` is a schema that an earlier release took from the first file alone: what other files have besides
    was left out, and still is; what does not fit ends the reading of its file.
    """
    for one in seen:
        check_text_column(one.schema, one.file, wanted.text_column)
        check_unique(one.schema, one.file, frozen.names)
    _check_there(seen, wanted, frozen)
    if is_whole:
        _check_types(seen, wanted, frozen)
        _check_new(seen, wanted, frozen)
    return Columns(
        schema=frozen,
        left_out=describe_left_out(seen, frozen.names),
        found={name: found for name in frozen.names if len(found := find_types(name, seen)) > 1},
    )


def _check_there(seen: Sequence[SchemaSeen], wanted: Wanted, frozen: Any) -> None:
    """A column that no file has any more would be null in every row."""
    there = {field.name: field for one in seen for field in one.fields.values()}
    for name in frozen.names:
        if name not in there and name != wanted.text_column:
            raise SourceError(
                f"{seen[0].file.source}: column {name!r}: expected some file to have it, as the output does, got only "
                f"{describe_fields(there.values())}: {START_ANEW}"
            )


def _check_types(seen: Sequence[SchemaSeen], wanted: Wanted, frozen: Any) -> None:
    for one in seen:
        for field in frozen:
            name = field.name
            if name in one.fields and name != wanted.text_column and not _fits(one.fields[name], field, wanted):
                raise SourceError(
                    f"{one.file.source}: column {name!r}: expected what {describe_field(field)} holds, the type that "
                    f"the output was frozen with, got {describe_field(one.fields[name])}: {START_ANEW}"
                )


def _check_new(seen: Sequence[SchemaSeen], wanted: Wanted, frozen: Any) -> None:
    names = set(choose_names(seen, wanted)) - {*frozen.names, wanted.text_column}
    for one in seen:
        for name, field in one.fields.items():
            if wanted.keep_columns is None and name in names:
                raise SourceError(
                    f"{one.file.source}: column {name!r} ({describe_field(field)}): the output was frozen without it: "
                    f"{START_ANEW}, or --keep-columns {','.join(frozen.names) or 'none'} to go on without what is new"
                )


def _fits(field: Any, kept: Any, wanted: Wanted) -> bool:
    if kept.name in wanted.cast:
        return may_cast(field.type, kept.type)
    return bool(unite(field.type, kept.type) == kept.type)
