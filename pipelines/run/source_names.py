"""The names of input files in an output: found out before work, and remembered, so that none is computed twice.

Whatever becomes of a run, the next one knows what this one called its files, and what they were.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.commit.planned import to_parquet
from pipelines.inputs.listing import decode_path, path_below
from pipelines.inputs.names import Content, Given, Remembered, choose_names, escape, hash_path
from pipelines.inputs.sources import Inputs, Listing
from pipelines.job import FrozenJob
from pipelines.plan.plan import FILE_SCHEMA, Files, Units
from pipelines.run.survey import Survey
from pipelines.stores.store import Store
from t5enc.errors import OutputError
from t5enc.storage.layout import DATA, PLAN, SOURCES

COLUMNS = ("source", "size", "digest")
Key = tuple[str, int, str]
GIVEN = [pa.field("run", pa.int64(), nullable=False), pa.field("place", pa.string(), nullable=False)]
SCHEMA = pa.schema([*(FILE_SCHEMA.field(name) for name in COLUMNS), *GIVEN])
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


def read_remembered(store: Store, job: FrozenJob, inputs: Inputs, files: Files) -> Remembered:
    """What earlier runs called which files of an output that is frozen with this job, and what it keeps of them."""
    known = _read(store, SOURCES) or _read(store, PLAN) | _find_old(store, job, inputs, files)
    names: dict[str, dict[Content, Given]] = defaultdict(dict)
    for (source, size, digest), given in known.items():
        names[source][Content(size, digest)] = given
    return Remembered(names=names, columns=job.kept_schema.names)


def _find_old(store: Store, job: FrozenJob, inputs: Inputs, files: Files) -> dict[Key, Given]:
    """The keys of files of which there are shards by the name that format 1 gave: a job cut short had no plan there."""
    root = inputs.common_folder
    paths = _list_paths(files)
    files = files.named([escape(path_below(path, root)) for path in paths])
    units = Units.of(files, job)
    found = {unit.source for name, _ in store.list(DATA) if (unit := units.get(name)) is not None}
    known = zip(_list_keys(files), paths, strict=True)
    return {key: Given(0, hash_path(path)) for key, path in known if key[0] in found}


def note_names(store: Store, files: Files, *, anew: bool = False) -> None:
    """Remember what this run calls its files, beside what others called theirs, or `anew` instead of that."""
    known = {} if anew else _read(store, SOURCES)
    last = max((given.run for given in known.values()), default=0)
    new = {key: hash_path(path) for key, path in zip(_list_keys(files), _list_paths(files), strict=True)}
    # What lay in several places proves none of them.
    new = {key: place if key not in known or known[key].place == place else "" for key, place in new.items()}
    if anew or {key: given.place for key, given in known.items() if given.run == last} != new:
        known |= {key: Given(last + 1, place) for key, place in new.items()}
        rows = [(*key, given.run, given.place) for key, given in known.items()]
        columns = list(map(list, zip(*rows, strict=True)))
        store.replace(SOURCES, to_parquet([pa.table(columns, schema=SCHEMA)], SCHEMA))


def _list_keys(files: Files) -> list[Key]:
    return list(zip(*(files.table[name].to_pylist() for name in COLUMNS), strict=True))


def _list_paths(files: Files) -> list[str]:
    return [decode_path(path) for path in files.table["path"].to_pylist()]


def _read(store: Store, name: str) -> dict[Key, Given]:
    """The last run that gave a source this size and digest, and where that lay: a plan does not say."""
    try:
        table = pq.read_table(pa.BufferReader(store.read(name)))
    except MISSING:
        return {}
    except (OSError, pa.ArrowException) as error:
        raise OutputError(
            f"{name}: cannot be read: {error}; it says what the inputs are called in this output: run this again, or "
            f"delete it, and inputs that were added or moved may be computed anew"
        ) from error
    keys = zip(*(table[column].to_pylist() for column in COLUMNS), strict=True)
    runs, places = (
        table[column].to_pylist() if column in table.schema.names else [default] * len(table)
        for column, default in (("run", 0), ("place", ""))
    )
    return {key: Given(run, place) for key, run, place in zip(keys, runs, places, strict=True)}
