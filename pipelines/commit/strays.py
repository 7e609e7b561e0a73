"""What lies in an output and is no planned unit's shard: shards of other inputs, and what others have put there.

Only a file whose footer has a record of ours is ever moved, or one that is called like a shard and torn. Whatever else
lies where shards do, or is Parquet, is refused by name before work, and stays where it is.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial

from pipelines.commit.records import parse_record, read_metadata
from pipelines.plan.plan import Units
from pipelines.stores.concurrent_map import map_concurrently
from pipelines.stores.store import Store
from t5enc.errors import OutputError, show_invisible
from t5enc.storage import METADATA_KEY
from t5enc.storage.layout import DATA, JOB, NOTES, PAGE, PARQUET, REPORT, SHARD_NAME, STALE, SUCCESS

# A run that would put aside more than one in so many of the shards that are there wants to be told that it may.
ONE_IN = 10
SHOWN = 3


@dataclass(frozen=True, slots=True)
class Stray:
    """A shard of ours that is not planned, its source and its job's fingerprint; a torn one does not tell them."""

    name: str
    source: str | None = None
    fingerprint: str | None = None


def is_in_the_way(name: str, size: int) -> bool:
    """Whether readers would take an object for a part of the output: all Parquet, and all that they see in `data/`."""
    if name.startswith(f"{NOTES}/"):
        return False
    if name.endswith(PARQUET):
        return True
    return name.startswith(f"{DATA}/") and size > 0 and not name.rpartition("/")[2].startswith((".", "_"))


def check_place(store: Store) -> None:
    """OutputError where a job cannot begin: among foreign files, or where it would replace what no job there wrote."""
    found = dict(store.list())
    find_ours(store, [name for name, size in found.items() if is_in_the_way(name, size)])
    if JOB not in found:
        _refuse([name for name in (SUCCESS, REPORT, PAGE) if name in found])


def find_ours(store: Store, names: Sequence[str]) -> list[Stray]:
    """What is known of objects in the way; OutputError with their names where some are no shards of ours."""
    found = list(map_concurrently(partial(judge, store), names))
    foreign = [name for name, stray in zip(names, found, strict=True) if stray is None]
    _refuse([name for name in foreign if store.size(name) is not None])
    return [stray for stray in found if stray is not None]


def judge(store: Store, name: str) -> Stray | None:
    """What is known of a shard of ours, or of what is called like one and torn; None for all else."""
    file = name.rpartition("/")[2]
    try:
        found = read_metadata(store, name)
    except UnicodeError:  # no name of ours
        return None
    if found is None:
        return Stray(name) if SHARD_NAME.fullmatch(file) else None
    record = parse_record(*found)
    if record is None or record.name.rpartition("/")[2] != file:
        return None
    return Stray(name, record.source, _read_fingerprint(found[0].metadata))


def _read_fingerprint(metadata: dict[bytes, bytes]) -> str | None:
    try:
        return str(json.loads(metadata[METADATA_KEY])["fingerprint"])
    except (KeyError, TypeError, ValueError):
        return None


def _refuse(names: Sequence[str]) -> None:
    if names:
        raise OutputError(
            f"the output's folder holds what no t5enc job wrote: {_show(names)}; choose another folder, or move that "
            f"elsewhere. Nothing was changed"
        )


def check_share(strays: Collection[Stray], units: Units, num_there: int) -> None:
    """OutputError where too many of the shards that are there, planned ones and strays, are about to be put aside.

    Shards of an earlier generation are none of them: `overwrite` was the word for those.
    """
    leaving = [stray for stray in strays if stray.fingerprint == units.fingerprint]
    if len(leaving) * ONE_IN <= num_there + len(leaving):
        return
    given = set(units.files.table["source"].to_pylist())
    changed = [stray for stray in leaving if stray.source in given]
    sources = sorted({str(stray.source) for stray in leaving})
    raise OutputError(
        f"{len(leaving):,} of the {num_there + len(leaving):,} shards in the output would be put aside in {STALE}/: "
        f"{len(changed):,} of inputs that have changed, {len(leaving) - len(changed):,} of inputs that are no longer "
        f"given ({_show(sources)}). Say --replace if that is meant; nothing was changed"
    )


def _show(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return ", ".join(map(show_invisible, names[:SHOWN])) + more
