"""Merge: the rows of several outputs in one, whose shards are links to theirs where nothing in them changes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from pipelines.derive.committing import Derived, Tell, write_derived
from pipelines.derive.origins import Origin, check_alike, derive_job, open_origin
from pipelines.derive.pieces import Piece
from pipelines.derive.source_names import name_sources
from pipelines.inputs.columns.type_union import unite_all
from t5enc.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged:
    """What came of a merge; `renamed` are sources' new names by their old ones, of each output."""

    derived: Derived
    renamed: Mapping[str, Mapping[str, str]]


def merge_outputs(outputs: Sequence[str], output: str, *, tell: Tell = lambda _, __: None) -> Merged:
    """Put outputs together, or go on with that; each is PATH, or NAME=PATH to say what comes before its sources.

    Names come before sources that an earlier output has, too. JobMismatchError for outputs that are not alike,
    ConfigError where the same rows come twice, UnfinishedError for one that is not finished.
    """
    if len(outputs) < 2:
        raise ConfigError(f"outputs: expected at least two to put together, got {len(outputs)}")
    given = [_split(text) for text in outputs]
    origins = [open_origin(path) for _, path in given]
    check_alike(origins)
    names = [name for name, _ in given]
    renamed = name_sources(origins, names)
    job = derive_job(origins, unite_kept(origins), {"command": "merge", "names": [dict(news) for news in renamed]})
    pieces = [
        Piece(
            origin=origin,
            record=record,
            source=news.get(record.source, record.source),
        )
        for origin, news in zip(origins, renamed, strict=True)
        for record in origin.records
    ]
    derived = write_derived(output, origins, pieces, job, tell=tell)
    return Merged(derived=derived, renamed={origin.shown: news for origin, news in zip(origins, renamed, strict=True)})


def _split(text: str) -> tuple[str | None, str]:
    """The name that was given, if there is one, and the path: URIs and paths may have `=` in them, too."""
    if os.path.isdir(text):
        return None, text
    name, mark, path = text.partition("=")
    return (name, path) if mark and name and "/" not in name and path else (None, text)


def unite_kept(origins: Sequence[Origin]) -> pa.Schema:
    """All kept columns in the order in which they are met; ConfigError for one without a type for all outputs."""
    fields: dict[str, list[tuple[str, pa.Field]]] = {}
    for origin in origins:
        for field in origin.job.kept_schema:
            fields.setdefault(field.name, []).append((origin.shown, field))
    return pa.schema([_unite(name, found) for name, found in fields.items()])


def _unite(name: str, found: Sequence[tuple[str, pa.Field]]) -> pa.Field:
    if all(field.equals(found[0][1]) for _, field in found):
        return found[0][1]
    type_ = unite_all([field.type for _, field in found])
    if type_ is None:
        types = ", ".join(f"{field.type} in {shown}" for shown, field in found)
        raise ConfigError(
            f"column {name!r}: expected a type that holds the values of all outputs, got {types}; leave it out of one "
            f"of them first: `t5enc select OUTPUT --columns ...`"
        )
    return pa.field(name, type_)
