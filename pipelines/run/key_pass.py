"""The pass over all captions of a job before it begins: which prompts occur more than once.

Every step may be the last one, and two runs may be at it at once: a unit's keys are noted once, and so are the captions
that are found in the end. Units whose input cannot be read, or that kill the process that tokenizes them, are left out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.actors.tasks import FatalError, SpanResult
from pipelines.dedup.captions_file import read_found, write_captions
from pipelines.dedup.key_files import KeysGoneError, list_keys, remove_keys
from pipelines.dedup.repeats import Repeats, Tally
from pipelines.job import FrozenJob, schema_to_text
from pipelines.run.state import RunState
from t5enc.errors import DriverError

# Passes over what is left, one after the other, that note nothing before the run is given up.
IDLE_PASSES = 3

MapKeys = Callable[[NDArray[np.bool_]], list[list[SpanResult]]]


def find_repeats(run: RunState, map_keys: MapKeys) -> Tally:
    """What is found among the units that are left, or was by an earlier run; `map_keys` notes those that are not there.

    DriverError where some keep coming back undone.
    """
    generation = run.commit.frozen.generation
    numbers = _note_all(run, map_keys)
    if numbers is not None:
        repeats = Repeats(run.store, run.commit.units.select(numbers))
        try:
            write_captions(run.store, generation, repeats, within_units=run.commit.frozen.has_references)
        except KeysGoneError as error:
            if read_found(run.store, generation) is None:
                raise DriverError(f"{error}: another run has removed it; run the same command again") from error
    found = read_found(run.store, generation)
    if found is None:
        raise DriverError("what this run noted of equal captions is not there any more; run the same command again")
    remove_keys(run.store)
    return found


def _note_all(run: RunState, map_keys: MapKeys) -> NDArray[np.int64] | None:
    """Numbers of the units whose keys are noted; None where another run has found the repeats already."""
    skipped = run.commit.records.is_there.copy()
    idle, before = 0, -1
    while read_found(run.store, run.commit.frozen.generation) is None:
        is_noted = _find_noted(run)
        left = ~(is_noted | skipped)
        if not left.any():
            return np.flatnonzero(is_noted & ~run.commit.records.is_there)
        noted = int(np.count_nonzero(is_noted))
        idle = 0 if noted > before else idle + 1
        if idle == IDLE_PASSES:
            raise DriverError(f"the captions of {np.count_nonzero(left)} units came back unread {idle} times")
        before = noted
        for results in map_keys(~left):
            for result in results:
                _skip(run, skipped, result)
    return None


def _find_noted(run: RunState) -> NDArray[np.bool_]:
    noted = list_keys(run.store)
    ids = (unit.id for unit in run.commit.units.select(np.arange(len(run.commit.units))))
    return np.fromiter((unit_id in noted for unit_id in ids), np.bool_, len(run.commit.units))


def _skip(run: RunState, skipped: NDArray[np.bool_], result: SpanResult) -> None:
    """Leave out what cannot be read, and what seems to kill: the job itself says so, and takes care of it."""
    if result.kind == "fatal":
        raise FatalError(result.reason, result.exit_code)
    if result.kind == "suspect" and result.unit is not None:
        skipped[run.commit.units.find(result.unit.name)] = True
    elif result.kind == "unit" and result.record is not None:  # another run has committed it meanwhile
        skipped[run.commit.units.find(result.record.name)] = True
    elif result.kind == "unreadable" and result.span is not None:
        units = result.span.units(fingerprint=run.commit.frozen.fingerprint)
        skipped[[number for unit in units if (number := run.commit.units.find(unit.name)) is not None]] = True


def without_columns(job: FrozenJob) -> FrozenJob:
    """The same job, of which nothing but captions is read; its units are the same."""
    return replace(job, schema=schema_to_text(pa.schema([])))
