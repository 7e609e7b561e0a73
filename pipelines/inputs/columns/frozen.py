"""Input beside an output that is there: its shards have one schema, which files that came later fit, or are refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipelines.inputs.columns.casts import may_cast
from pipelines.inputs.columns.choice import Columns, Wanted, choose_names, describe_left_out, find_types
from pipelines.inputs.columns.plain_types import describe_field, plain_schema
from pipelines.inputs.columns.schemas_seen import SchemaSeen
from pipelines.inputs.columns.text_column import check_text_column, check_unique
from pipelines.inputs.columns.type_union import unite
from pipelines.job import FrozenJob
from t5enc.errors import SourceError


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
    refused = [reason for one in seen for reason in _find_misfits(one, seen, wanted, frozen)] if is_whole else []
    if refused:
        raise SourceError(
            f"{refused[0]}: the output was frozen without it; choose another folder, --overwrite to start anew, or "
            f"--keep-columns {','.join(frozen.names) or 'none'} to go on without what is new"
        )
    return Columns(
        schema=frozen,
        left_out=describe_left_out(seen, frozen.names),
        found={name: found for name in frozen.names if len(found := find_types(name, seen)) > 1},
    )


def _find_misfits(one: SchemaSeen, seen: Sequence[SchemaSeen], wanted: Wanted, frozen: Any) -> list[str]:
    names = choose_names(seen, wanted) if wanted.keep_columns is None else frozen.names
    return [
        f"{one.file.source}: column {name!r} ({describe_field(one.fields[name])})"
        for name in names
        if name in one.fields and name != wanted.text_column and not _fits(one.fields[name], name, wanted, frozen)
    ]


def _fits(field: Any, name: str, wanted: Wanted, frozen: Any) -> bool:
    if name not in frozen.names:
        return False
    kept = frozen.field(name)
    return may_cast(field.type, kept.type) if name in wanted.cast else unite(field.type, kept.type) == kept.type
