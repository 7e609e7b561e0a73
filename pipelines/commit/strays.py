"""What lies in an output and is no planned unit's shard: shards of other inputs, and what others have put there.

Only a file in `data/` whose footer has a record of ours is ever moved, or one that is called like a shard and torn.
Whatever else lies where shards do, or is Parquet, is refused by name before work, and stays where it is. So does a copy
of a shard elsewhere, which is in nobody's way.
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
from t5enc.storage.layout import DATA, JOB, NOTES, PAGE, PARQUET, REPORT, SHARD_NAME, SHARED, STALE, SUCCESS

# A run that would put aside more than one in so many of the shards that are there wants to be told that it may.
ONE_IN = 10
SHOWN = 3


@dataclass(frozen=True, slots=True)
class Stray:
    """A shard of ours that is not planned, its source, its job's fingerprint and the name that it was written under.

    A torn one does not tell them.
    """

    name: str
    source: str | None = None
    fingerprint: str | None = None
    own_name: str | None = None

    def is_awaited(self, fingerprint: str, unreadable: Collection[str]) -> bool:
        """Whether it is what there is of an input that this run cannot read."""
        return self.source in unreadable and self.fingerprint == fingerprint and self.own_name == self.name


def is_in_data(name: str) -> bool:
    """Whether an object lies where shards do."""
    return name.startswith(f"{DATA}/")


def is_in_the_way(name: str, size: int) -> bool:
    """Whether readers would take an object for a part of the output: all Parquet, and all that they see in `data/`."""
    if name.startswith(f"{NOTES}/") or is_shared_shard(name):
        return False
    if name.endswith(PARQUET):
        return True
    return is_in_data(name) and size > 0 and not name.rpartition("/")[2].startswith((".", "_"))


def is_shared_shard(name: str) -> bool:
    """Whether an object lies where the shards do that rows of `data/` refer to, and is called like one."""
    return name.startswith(f"{SHARED}/{DATA}/") and SHARD_NAME.fullmatch(name.rpartition("/")[2]) is not None


def check_place(store: Store) -> None:
    """OutputError where a job cannot begin: among foreign files, or where it would replace what no job there wrote."""
    found = dict(store.list())
    find_ours(store, [name for name, size in found.items() if is_in_the_way(name, size)])
    if JOB not in found:
        _refuse([name for name in (SUCCESS, REPORT, PAGE) if name in found])


def find_ours(store: Store, names: Sequence[str]) -> list[Stray]:
    """The strays in `data/` among objects in the way; OutputError with the names of what is no shard of ours."""
    found = list(map_concurrently(partial(judge, store), names))
    foreign = [name for name, stray in zip(names, found, strict=True) if stray is None]
    _refuse([name for name in foreign if store.size(name) is not None])
    return [stray for stray in found if stray is not None and is_in_data(stray.name)]


def judge(store: Store, name: str) -> Stray | None:
    """What is known of a shard of ours, or of what is called like one and torn; None for all else.

    In `data/` a shard has the last part of its own name.
    """
    file = name.rpartition("/")[2]
    try:
        found = read_metadata(store, name)
    except UnicodeError:  # no name of ours
        return None
    if found is None:
        return Stray(name) if SHARD_NAME.fullmatch(file) else None
    record = parse_record(*found)
    if record is None or (is_in_data(name) and record.name.rpartition("/")[2] != file):
        return None
    return Stray(name, record.source, _read_fingerprint(found[0].metadata), record.name)


def _read_fingerprint(metadata: dict[bytes, bytes]) -> str | None:
    try:
        return str(json.loads(metadata[METADATA_KEY])["fingerprint"])
    except (KeyError, TypeError, ValueError):
        return None


def _refuse(names: Sequence[str]) -> None:
    if names:
        raise OutputError(
            f"the output's folder holds what no t5enc job put there: {_show(names)}; choose another folder, or move "
            f"that elsewhere. Nothing was changed"
        )


def check_share(strays: Collection[Stray], units: Units, num_staying: int) -> None:
    """OutputError where strays, which are about to be put aside, are too many of the shards that are there.

    Shards of an earlier generation are none of them: `overwrite` was the word for those. Nor are copies.
    """
    known = [stray for stray in strays if stray.fingerprint == units.fingerprint]
    leaving = [stray for stray in known if stray.own_name == stray.name or units.find(str(stray.own_name)) is None]
    if len(leaving) * ONE_IN <= num_staying + len(leaving):
        return
    given = set(units.files.table["source"].to_pylist())
    changed = [stray for stray in leaving if stray.source in given]
    sources = sorted({str(stray.source) for stray in leaving})
    raise OutputError(
        f"{len(leaving):,} of the {num_staying + len(leaving):,} shards in the output would be put aside in {STALE}/: "
        f"{len(changed):,} of inputs that have changed, {len(leaving) - len(changed):,} of inputs that are no longer "
        f"given ({_show(sources)}). Say --replace if that is meant; nothing was changed"
    )


def _show(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return ", ".join(map(show_invisible, names[:SHOWN])) + more
