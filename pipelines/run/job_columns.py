"""The columns of a job: found from all its files, or those that its output is frozen with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipelines.inputs.columns.casts import parse_casts
from pipelines.inputs.columns.choice import Columns, Wanted, choose_columns
from pipelines.inputs.columns.frozen import fit_columns
from pipelines.inputs.columns.schemas_seen import SchemaSeen
from pipelines.inputs.columns.text_column import check_captions
from pipelines.job import EncodeJob, FrozenJob

ALL_BUT_BINARY = "all but binary"


def find_columns(filesystem: Any, seen: Sequence[SchemaSeen], job: EncodeJob, there: FrozenJob | None) -> Columns:
    """Which columns are kept, which left out, where files differ; SourceError before any work where they cannot be."""
    keep = None if job.keep_columns is None else list(job.keep_columns)
    wanted = Wanted.of(job.text_column, keep, job.cast)
    check_captions(filesystem, seen, job.text_column)
    if there is None or identify_columns(job, there) != _read_identity(there):
        return choose_columns(seen, wanted)
    return fit_columns(seen, wanted, there.kept_schema, is_whole=there.is_of_all_files)


def identify_columns(job: EncodeJob, there: FrozenJob | None = None) -> dict[str, Any]:
    """What a job's identity says of columns. Naming just those that an output keeps by default goes on with it."""
    keep = name_kept(job, there)
    cast = {"cast": {name: str(type_) for name, type_ in parse_casts(job.cast).items()}} if job.cast else {}
    return {"text_column": job.text_column, "keep_columns": ALL_BUT_BINARY if keep is None else keep, **cast}


def name_kept(job: EncodeJob, there: FrozenJob | None = None) -> list[str] | None:
    """The columns that a job's identity names, None for all but binary ones."""
    keep = None if job.keep_columns is None else list(job.keep_columns)
    if there is not None and keep == there.kept_schema.names and _read_identity(there).get("keep_columns") != keep:
        return None
    return keep


def _read_identity(there: FrozenJob) -> dict[str, Any]:
    names = ("text_column", "keep_columns", "cast")
    return {name: there.identity[name] for name in names if name in there.identity}
