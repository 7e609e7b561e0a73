"""What of a plan is committed, found at the start of a run; and the end of a job: manifest and `_SUCCESS`.

A unit's record stands in its shard's footer, so nothing is lost when a run is; the log under `_t5enc/log/` only
saves reading every footer again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import partial

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.commit.log import (
    list_struck_out,
    move_aside,
    put_aside,
    read_log,
    read_struck_out,
    read_struck_out_since,
    strike_out,
)
from pipelines.commit.planned import to_parquet, write_plan
from pipelines.commit.records import SCHEMA, Records, read_footer_record
from pipelines.commit.strays import check_share, find_ours, is_in_the_way
from pipelines.plan.plan import Units
from pipelines.stores.concurrent_map import map_concurrently
from pipelines.stores.store import Store
from t5enc.errors import DriverError
from t5enc.storage.layout import MANIFEST, SUCCESS, is_shard

# The size of a shard that is not there.
GONE = -1
# Nobody is at work on a file, which is written at one go, for so long after its last byte.
ABANDONED_SECONDS = 86400.0


def read_records(
    store: Store,
    units: Units,
    *,
    retry_errors: bool = False,
    may_replace: bool = True,
    recheck: bool = False,
    unreadable: Collection[str] = (),
) -> Records:
    """Records of the planned units that are committed; OutputError for foreign files, and unless it `may_replace` many.

    A shard that the log does not know is known by its footer. One that is damaged, or with `retry_errors` holds a
    caption that died, or with `recheck` is of a file that was written again since, is put aside and has no record.
    Where anything is left to do, so are shards outside the plan, but for those of `unreadable` inputs: rows of an input
    as it was and as it is never stand side by side. What is to be redone or moved is struck out of the log first of
    all, so that a run that is about to end sees it before it can vouch for what is moved.
    """
    records = Records(units)
    records.struck_out = list_struck_out(store)
    for record in read_log(store):
        number = units.find(record.name)
        if number is not None:
            records.put(number, record)
    # After the log: what another run notes meanwhile was there before.
    sizes, strays = list_shards(store, units)
    ours = find_ours(store, strays)
    leaving = [stray for stray in ours if not stray.is_awaited(units.fingerprint, unreadable)]
    if not may_replace:
        check_share(leaving, units, int((sizes != GONE).sum()) + len(ours) - len(leaving))
    is_logged = records.is_there.copy()
    records.is_there &= records.rows["size"] == sizes
    read_footers(store, records, np.flatnonzero((sizes != GONE) & ~records.is_there))
    if retry_errors:
        records.is_there &= records.rows["died"] == 0
    if recheck:
        records.is_there &= ~records.are_touched()
    is_aside = (sizes != GONE) & ~records.is_there
    outside = [] if records.is_there.all() and not unreadable else [stray.name for stray in leaving]
    redone = _list_names(units, is_logged & ~records.is_there | is_aside)
    records.struck_out |= strike_out(store, [*redone, *outside])
    aside = [*_list_names(units, is_aside), *outside]
    records.num_aside = len(aside)
    if aside:
        store.delete(SUCCESS)
        move_aside(store, aside)
    return records


def list_shards(store: Store, units: Units) -> tuple[NDArray[np.int64], list[str]]:
    """The size of each unit's shard, GONE where there is none; and what else readers would take for shards."""
    sizes = np.full(len(units), GONE, np.int64)
    strays: list[str] = []
    for name, size in store.list():
        number = units.find(name) if is_shard(name) else None
        if number is not None:
            sizes[number] = size
        elif is_in_the_way(name, size):
            strays.append(name)
    return sizes, strays


def read_footers(store: Store, records: Records, numbers: NDArray[np.int64]) -> None:
    """Note the records of those units whose shards are not damaged."""
    units = records.units.select(numbers)
    found = map_concurrently(partial(read_footer_record, store), (unit.name for unit in units))
    for number, record in zip(numbers, found, strict=True):
        if record is not None:
            records.put(number, record)


def _list_names(units: Units, chosen: NDArray[np.bool_]) -> list[str]:
    return [unit.name for unit in units.select(np.flatnonzero(chosen))]


def finish(store: Store, records: Records, check: Callable[[], None] = lambda: None) -> None:
    """End a job: shards outside the plan aside, then the plan, the manifest, and `_SUCCESS`. Can be repeated.

    An output that says all this already stays finished throughout. A shard that was put aside since its record was
    made has another record now. DriverError where a shard is not there, or not as its record says, or about to be put
    aside by another run. `check` is called first, and again before and after anything vouches for what is there: it
    raises where the output has become another job's.
    """
    # First: none of another generation is among them where what follows finds this one in its place.
    unnamed = store.list_unnamed()
    check()
    units = records.units
    seen = list_struck_out(store)
    _read_again(store, records, _find_all(units, read_struck_out(store)))
    sizes, strays = list_shards(store, units)
    ours = [stray.name for stray in find_ours(store, strays)]
    _check_committed(records, sizes)
    manifest = to_parquet(records.to_batches(), SCHEMA.with_metadata({"fingerprint": units.fingerprint}))
    is_done = is_finished(store, manifest)
    if not is_done:
        _check_settled(records, read_struck_out_since(store, records.struck_out))
        store.delete(SUCCESS)
    seen |= put_aside(store, ours)
    records.num_aside += len(ours)
    write_plan(store, units.files)
    if not is_done:
        store.replace(MANIFEST, manifest)
        check()
        success = make_success(manifest, units.fingerprint, records.totals())
        store.replace(SUCCESS, success)
        with _withdrawn_where_it_raises(store, success):
            check()
            _check_untouched(units, read_struck_out_since(store, seen))
    store.sweep(choose_unwanted(units, unnamed))


def choose_unwanted(names: Iterable[str], unnamed: Mapping[str, float]) -> list[str]:
    """Temporary files of shards that are planned, and so stored by now; those that another run may want where old."""
    if not unnamed:
        return []
    shards = {name.rpartition(".")[0] for name in unnamed}
    ours = shards & {name.rpartition("/")[2] for name in names}
    old = time.time() - ABANDONED_SECONDS
    return [name for name, written in unnamed.items() if name.rpartition(".")[0] in ours or written < old]


def _read_again(store: Store, records: Records, numbers: NDArray[np.int64]) -> None:
    records.is_there[numbers] = False
    read_footers(store, records, numbers)


def _find_all(units: Units, names: set[str] | None) -> NDArray[np.int64]:
    """Numbers of the units of these names in order; of all units for None."""
    if names is None:
        return np.arange(len(units))
    numbers = [number for name in names if (number := units.find(name)) is not None]
    return np.array(sorted(numbers), np.int64)


def _check_committed(records: Records, sizes: NDArray[np.int64]) -> None:
    bad = np.flatnonzero(~records.is_there | (records.rows["size"] != sizes))
    if len(bad):
        raise DriverError(
            f"{len(bad)} shards are not in the output as this run left them, the first is "
            f"{records.units.at(bad[0]).name}; run the same command again"
        )


def _check_settled(records: Records, names: set[str]) -> None:
    """Of these shards, which others struck out since this run began, none is still as it was then.

    One that holds a caption that died may be moved any moment; if it is new already, its own run ends the job. Where
    that has happened, nothing is left to vouch for, and this is not asked.
    """
    numbers = _find_all(records.units, names)
    died = numbers[records.rows["died"][numbers] > 0]
    if len(died):
        raise DriverError(
            f"another run tries the captions again that died in {len(died)} shards, the first is "
            f"{records.units.at(died[0]).name}; run the same command again when it has ended"
        )


def _check_untouched(units: Units, names: set[str]) -> None:
    numbers = _find_all(units, names)
    if len(numbers):
        raise DriverError(
            f"another run began to redo {len(numbers)} shards while this one ended, the first is "
            f"{units.at(numbers[0]).name}; run the same command again when it has ended"
        )


@contextlib.contextmanager
def _withdrawn_where_it_raises(store: Store, success: bytes) -> Iterator[None]:
    """`_SUCCESS` as it was just written does not outlive an error; another run's stays."""
    try:
        yield
    except Exception:
        with contextlib.suppress(FileNotFoundError):
            if store.read(SUCCESS) == success:
                store.delete(SUCCESS)
        raise


def make_success(manifest: pa.Buffer, fingerprint: str, totals: Mapping[str, int]) -> bytes:
    """The content of `_SUCCESS`, which vouches for a manifest, of a job with a fingerprint."""
    content = {
        "manifest_sha256": hashlib.sha256(manifest).hexdigest(),
        "fingerprint": fingerprint,
        "totals": dict(totals),
    }
    return json.dumps(content, indent=2).encode()


def is_finished(store: Store, manifest: pa.Buffer) -> bool:
    """Whether the output has this manifest, and a `_SUCCESS` for it."""
    try:
        success = json.loads(store.read(SUCCESS))
        digest = hashlib.sha256(manifest).hexdigest()
        return bool(success["manifest_sha256"] == digest == hashlib.sha256(store.read(MANIFEST)).hexdigest())
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return False
