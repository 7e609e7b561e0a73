"""Import: an output of format 2 whose shards hold the rows of a cache, written as a job's are and resumed like one.

Its job says that it was imported. What a cache does not tell is not made up: which weights and which tokenizer, what
the encoder computed in, and whether a caption of the full length was cut. Without the rows of "" it has no null prompt.

L tokens of a caption, M model dim.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import torch
from torch import Tensor

from pipelines.commit.card import write_card
from pipelines.commit.null import write_null
from pipelines.commit.protocol import begin_commit, conclude_commit
from pipelines.imports.cache import CacheReader, Entry
from pipelines.imports.shards import commit_unit
from pipelines.inputs.sources import SourceFile
from pipelines.job import FrozenJob, schema_to_text
from pipelines.plan.units import PlannedFile
from pipelines.stores.store import open_store
from t5enc.errors import SourceError
from t5enc.recipes.conditioning import Conditioning
from t5enc.recipes.recipe import Recipe

UNKNOWN = "unknown"
SHARD_BYTES = 256 << 20
KEPT = pa.schema([pa.field("caption", pa.string()), pa.field("stem", pa.string()), pa.field("file", pa.string())])
STORED = {torch.bfloat16: "bfloat16", torch.float16: "float16", torch.float32: "float32"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """What came of an import: rows, those without an embedding, and files that were left out, by reason."""

    rows: int
    errors: int
    left_out: Mapping[str, int]


def import_cache(
    reader: CacheReader, folder: Path, output: str, *, tell: Callable[[int, int], None] = lambda _, __: None
) -> Imported:
    """Write an output from a cache, or go on with it; `tell` is given the rows that are there, and all of them.

    SourceError for a cache without a readable file, OutputError or JobMismatchError for an output that is taken.
    """
    found = reader.find(folder)
    if not found.entries:
        reasons = ", ".join(f"{count} {reason}" for reason, count in found.left_out.items()) or "none"
        raise SourceError(f"{folder}: expected files of {reader.name}, got {reasons}")
    planned = plan_source(folder, found.entries)
    frozen, null = make_job(reader, folder, planned, found.entries)
    store = open_store(output)
    commit = begin_commit(store, frozen, [planned])
    frozen = commit.frozen
    write_null(store, frozen, Conditioning(_read_recipe(frozen), null))
    for unit in list(commit.left):
        entries = found.entries[unit.first_row : unit.first_row + unit.num_rows]
        commit.records[unit.name] = commit_unit(store, frozen, unit, entries, reader, folder)
        tell(unit.first_row + unit.num_rows, planned.num_rows)
    totals = commit.records.totals()
    write_card(store, frozen, totals)
    conclude_commit(store, commit)
    return Imported(rows=totals["captions"], errors=totals["errors"], left_out=dict(found.left_out))


def plan_source(folder: Path, entries: Sequence[Entry]) -> PlannedFile:
    """The cache as one source, in the order of its files; its digest is of their names, captions, sizes and times."""
    digest = hashlib.sha256()
    stats = {name: (folder / name).stat() for name in dict.fromkeys(entry.file for entry in entries)}
    size = sum(found.st_size for found in stats.values())
    for entry in entries:
        found = stats[entry.file]
        place = [entry.place] if entry.place else []
        digest.update(json.dumps([entry.file, entry.text, found.st_size, found.st_mtime_ns, *place]).encode())
    file = SourceFile(source=folder.resolve().name or "cache", path=str(folder), size=size, partitions=())
    return PlannedFile(file=file, num_rows=len(entries), largest_group=len(entries), digest=digest.hexdigest())


def make_job(
    reader: CacheReader, folder: Path, planned: PlannedFile, entries: Sequence[Entry]
) -> tuple[FrozenJob, Tensor | None]:
    """The job as it is frozen, and the rows of "", if the cache has them."""
    first = read_first(reader, folder, entries)
    null = read_null(reader, folder, entries, first)
    recipe = reader.recipe if null is not None else replace(reader.recipe, null="none")
    identity = {
        "weights": UNKNOWN,
        "tokenizer": UNKNOWN,
        "recipe": recipe.to_identity(),
        "max_length": recipe.max_length,
        "text_column": "caption",
        "keep_columns": KEPT.names,
        "caption_choice": "all",
        "dtype": UNKNOWN,
        "storage_dtype": STORED[first.dtype],
        "deterministic": False,
        "imported": {"format": reader.name, "digest": planned.digest},
    }
    record = {"model": UNKNOWN, "device": UNKNOWN, "inputs": [str(folder)], "recipe": f"of a cache of {reader.name}"}
    rows = max(1, SHARD_BYTES * planned.num_rows // max(1, planned.file.size))
    frozen = FrozenJob(
        identity=identity, rows_per_shard=rows, dim=first.shape[1], schema=schema_to_text(KEPT), record=record
    )
    return frozen, null


def read_first(reader: CacheReader, folder: Path, entries: Sequence[Entry]) -> Tensor:
    """Rows of the first file that is whole; SourceError where none is, or where its numbers are of no dtype of ours."""
    reasons = []
    for entry in entries:
        try:
            rows = reader.read(folder / entry.file, entry.place)
        except ValueError as error:
            reasons.append(f"{entry.file}: {error}")
            continue
        if rows.ndim != 2:
            reasons.append(f"{entry.file}: expected rows of numbers, got {tuple(rows.shape)}")
            continue
        if rows.dtype not in STORED:
            raise SourceError(f"{folder / entry.file}: expected {', '.join(STORED.values())}, got {rows.dtype}")
        return rows
    raise SourceError(f"{folder}: expected at least one whole file, got {reasons[0]}")


def read_null(reader: CacheReader, folder: Path, entries: Sequence[Entry], like: Tensor) -> Tensor | None:
    """The rows of "" in the form of all others; None where the cache has none that are whole."""
    for entry in entries:
        if entry.text == "":
            with contextlib.suppress(ValueError):
                rows = reader.read(folder / entry.file, entry.place)
                if rows.dtype == like.dtype and rows.shape[1:] == like.shape[1:] and len(rows):
                    return rows
    return None


def _read_recipe(frozen: FrozenJob) -> Recipe:
    recipe = frozen.recipe
    assert recipe is not None
    return recipe
