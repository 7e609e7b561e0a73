"""The names of input files in an output: found out before work, and remembered, so that none is computed twice.

Whatever becomes of a run, the next one knows what this one called its files, and what they were.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from itertools import repeat

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.commit.manifest import to_parquet
from pipelines.inputs.listing import decode_path, path_below
from pipelines.inputs.names import Content, Remembered, choose_names, escape
from pipelines.inputs.sources import Inputs, Listing
from pipelines.job import FrozenJob
from pipelines.plan.plan import FILE_SCHEMA, Files, Units
from pipelines.run.survey import Survey
from pipelines.stores.store import Store
from t5enc.errors import OutputError
from t5enc.storage.layout import DATA, JOB, PLAN, SOURCES

COLUMNS = ("source", "size", "digest")
SCHEMA = pa.schema([*(FILE_SCHEMA.field(name) for name in COLUMNS), pa.field("run", pa.int64(), nullable=False)])
MISSING = (FileNotFoundError, NotADirectoryError)


def settle_names(found: Survey, listing: Listing, remembered: Remembered | None) -> Survey:
    """The files of a survey by the names that the output has for them, in their order; and what was no file at all."""
    found = replace(found, unreadable={**listing.unreadable, **found.unreadable})
    if remembered is None:
        return found
    own = set.intersection(*(set(seen.schema.names) for seen in found.schemas))
    remembered = replace(remembered, columns=[name for name in remembered.columns if name not in own])
    table = found.files.table
    sources = [*table["source"].to_pylist(), *found.unreadable]
    contents = [*map(Content, table["size"].to_pylist(), table["digest"].to_pylist()), *[None] * len(found.unreadable)]
    places = [listing.places[source] for source in sources]
    names = choose_names([place.path for place in places], [place.depth for place in places], contents, remembered)
    renamed = zip(found.unreadable.items(), names[len(table) :], strict=True)
    return replace(
        found,
        files=found.files.named(names[: len(table)]),
        unreadable={name: f"{name}{reason.removeprefix(source)}" for (source, reason), name in renamed},
    )


def read_remembered(store: Store, inputs: Inputs, files: Files) -> Remembered | None:
    """What earlier runs called which files, and what an output keeps of them; None where there is no output."""
    try:
        job = FrozenJob.from_json(store.read(JOB))
    except MISSING:
        return None
    known = _read(store, SOURCES) or _read(store, PLAN) | dict.fromkeys(_find_old(store, job, inputs, files), 0)
    names: dict[str, dict[Content, int]] = defaultdict(dict)
    for (source, size, digest), run in known.items():
        names[source][Content(size, digest)] = run
    return Remembered(names=names, columns=job.kept_schema.names)


def _find_old(store: Store, job: FrozenJob, inputs: Inputs, files: Files) -> Iterator[tuple[str, int, str]]:
    """The keys of files of which there are shards by the name that format 1 gave: a job cut short had no plan there."""
    root = inputs.common_folder
    files = files.named([escape(path_below(decode_path(path), root)) for path in files.table["path"].to_pylist()])
    units = Units.of(files, job)
    found = {unit.source for name, _ in store.list(DATA) if (unit := units.get(name)) is not None}
    keys = zip(*(files.table[name].to_pylist() for name in COLUMNS), strict=True)
    return (key for key in keys if key[0] in found)


def note_names(store: Store, files: Files, *, anew: bool = False) -> None:
    """Remember what this run calls its files, beside what others called theirs, or `anew` instead of that."""
    runs = {} if anew else _read(store, SOURCES)
    last = max(runs.values(), default=0)
    new = list(zip(*(files.table[name].to_pylist() for name in COLUMNS), strict=True))
    if anew or {key for key, run in runs.items() if run == last} != set(new):
        runs |= dict.fromkeys(new, last + 1)
        columns = [*map(list, zip(*runs, strict=True)), list(runs.values())]
        store.replace(SOURCES, to_parquet([pa.table(columns, schema=SCHEMA)], SCHEMA))


def _read(store: Store, name: str) -> dict[tuple[str, int, str], int]:
    """The last run that gave a source this size and digest; a plan is of one run."""
    try:
        table = pq.read_table(pa.BufferReader(store.read(name)))
    except MISSING:
        return {}
    except (OSError, pa.ArrowException) as error:
        raise OutputError(
            f"{name}: cannot be read: {error}; it says what the inputs are called in this output: run this again, or "
            f"delete it, and inputs that were added or moved may be computed anew"
        ) from error
    rows = zip(*(table[column].to_pylist() for column in COLUMNS), strict=True)
    return dict(zip(rows, table["run"].to_pylist() if "run" in table.schema.names else repeat(0), strict=False))
