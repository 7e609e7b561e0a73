"""A job's output as a person reads it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from t5enc.embeddings import Embeddings
from t5enc.errors import OutputError
from t5enc.output import OutputFolder, SharedFolder, open_output, read_recipe
from t5enc.recipes.describe import describe_line
from t5enc.storage import PREFIX, SHARED_ROW
from t5enc.storage.layout import SHARED, SUCCESS

SHOWN_WIDTH = 48
# Whichever is reached first ends a shard; with rows_per_shard as an option there is no other.
LIMITS = ("rows_per_shard", "captions_per_shard", "bytes_per_shard")


def print_output(path: str, *, rows: int, partial: bool) -> None:
    """Print a job's settings, totals and first rows; UnfinishedError where it is not done, unless `partial`."""
    console = Console(soft_wrap=False)
    folder = open_output(path, partial=partial)
    state = "finished" if folder.is_finished else "unfinished"
    console.print(f"{path}: {state}, {len(folder.shards)} shards", style="bold", markup=False)
    console.print(_describe_job(folder.job))
    if folder.is_finished:
        console.print(_describe_totals(folder))
        if folder.shared is not None:
            console.print(_describe_shared(folder, folder.shared))
    if folder.shards and rows > 0:
        console.print(_first_rows(folder, rows))


def _describe_job(job: dict[str, Any]) -> Table:
    table = Table("setting", "value", title="job", title_justify="left")
    limits = {name: job[name] for name in LIMITS if job.get(name) is not None}
    settings = job["record"] | job["identity"] | limits | {"dim": job["dim"]}
    settings |= {"recipe": _describe_recipe(job)}
    settings.pop("recipe_source", None)
    if "derived" in settings:
        settings["derived"] = _describe_derived(settings["derived"])
    for name, value in settings.items():
        table.add_row(name, escape(", ".join(map(str, value)) if isinstance(value, list) else str(value)))
    return table


def _describe_recipe(job: dict[str, Any]) -> str:
    """One line of words, and how it was chosen if nobody named it."""
    recipe, origin = read_recipe(job["identity"], job["record"]), job["record"].get("recipe")
    if recipe is None:
        return "none"
    return describe_line(recipe) + (f"; {origin}" if origin else "")


def _describe_derived(derived: Mapping[str, Any]) -> str:
    """What was done to which outputs, by the first letters of their fingerprints."""
    of = ", ".join(str(output["fingerprint"])[:12] for output in derived["of"])
    where = f" where {derived['where']}" if derived.get("where") else ""
    return f"{derived['command']} of {of}{where}"


TOTALS = {
    "truncated": "truncated captions",
    "longest": "longest caption in tokens, uncut",
    "size": "bytes",
    "reused": "captions copied from other outputs",
    "reused_tokens": "tokens that were not computed again",
    "shared": f"captions that refer to {SHARED}/",
}
# Told only where there are any.
SELDOM = ("reused", "reused_tokens", "shared")


def _describe_totals(folder: OutputFolder) -> Table:
    with folder.filesystem.open_input_file(f"{folder.root}/{SUCCESS}") as stream:
        totals = json.loads(stream.read())["totals"]
    table = Table("total", "count", title="totals", title_justify="left")
    for name, value in totals.items():
        if name in SELDOM and not value:
            continue
        table.add_row(TOTALS.get(name, name), f"{value:,}")
    return table


def _describe_shared(folder: OutputFolder, shared: SharedFolder) -> str:
    """How many rows refer to how many, and the bytes that this saved; OutputError where a shard cannot be read."""
    sizes = shared.rows.measure()
    counts = np.zeros(len(sizes), np.int64)
    for name in folder.shards:
        rows, times = np.unique(_read_column(folder, name, SHARED_ROW.name).drop_null().to_numpy(), return_counts=True)
        for row in rows[(rows < 0) | (rows >= len(sizes))].tolist():
            raise OutputError(f"{folder.root}/{name}: expected {len(sizes)} rows in {SHARED}/, got a row {row}")
        counts[rows] += times
    saved = int((counts * sizes).sum() - sizes.sum())
    change = f"{abs(saved):,} bytes {'less' if saved >= 0 else 'more'} than with one each"
    return f"{counts.sum():,} rows refer to {np.count_nonzero(counts):,} embeddings in {SHARED}/: {change}"


def _read_column(folder: OutputFolder, name: str, column: str) -> pa.ChunkedArray:
    path = f"{folder.root}/{name}"
    try:
        return pq.read_table(path, columns=[column], filesystem=folder.filesystem, partitioning=None)[column]
    except (OSError, pa.ArrowException) as error:
        raise OutputError(f"{path}: expected a Parquet shard, got {error}") from error


def _first_rows(folder: OutputFolder, rows: int) -> Table:
    table, embeddings = folder.read_shard(folder.shards[0])
    table, embeddings = table.slice(0, rows), embeddings[:rows]
    names = [name for name in table.column_names if not name.startswith(PREFIX)]
    heads = ["source", "row", *map(escape, names), "tokens", "embedding"]
    shown = Table(*heads, title="first rows", title_justify="left")
    for index in range(len(table)):
        row = {name: _read(table.column(name)[index]) for name in table.column_names}
        kept = [_shorten(row[name]) for name in names]
        key, tokens = [row[f"{PREFIX}source"], str(row[f"{PREFIX}row"])], str(row[f"{PREFIX}num_tokens"])
        shown.add_row(*map(escape, [*key, *kept, tokens, _summarise(embeddings, index, row)]))
    return shown


def _read(value: pa.Scalar) -> Any:
    """A value in Python; one that is called text and is none, as outputs before 0.2.0 may hold it, in words."""
    try:
        return value.as_py()
    except UnicodeDecodeError:
        return "(not UTF-8)"


def _summarise(embeddings: Embeddings, index: int, row: dict[str, Any]) -> str:
    if row[f"{PREFIX}error"] is not None:
        return f"none: {row[f'{PREFIX}error']}"
    first = ", ".join(f"{value:+.3f}" for value in embeddings[index][0, :3].tolist())
    return f"{tuple(embeddings[index].shape)} [{first}, ...]"


def _shorten(value: object) -> str:
    text = str(value)
    return text if len(text) <= SHOWN_WIDTH else text[: SHOWN_WIDTH - 1] + "…"
