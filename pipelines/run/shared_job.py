"""The job within a job that encodes the prompts that occur more than once, into an output of its own."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import asdict, replace

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.commit.log import move_aside
from pipelines.commit.ownership import check_owner, find_frozen
from pipelines.dedup.captions_file import COLUMN, name_captions, read_found
from pipelines.dedup.key_files import DISTINCT
from pipelines.job import EncodeJob, FrozenJob
from pipelines.reuse.earlier import EarlierOutput, Found, list_output
from pipelines.run.state import RunState, list_reuse
from pipelines.stores.below import Below
from pipelines.stores.concurrent_map import map_concurrently
from pipelines.stores.store import LocalStore, Store, open_store
from t5enc.errors import OutputError, T5encError
from t5enc.storage.filesystems import hide_credentials, join_path
from t5enc.storage.layout import JOB, MANIFEST, NOTES, SHARED, SUCCESS

# Where it lies until the job is done, if nothing will refer to it.
COPIED_FROM = f"{NOTES}/{SHARED}"


def name_shared(job: FrozenJob) -> str:
    """The folder of the output within a job's output."""
    return SHARED if job.has_references else COPIED_FROM


def make_shared_job(job: EncodeJob, frozen: FrozenJob) -> EncodeJob:
    """Encodes the captions of the file that the pass has written, as the job would.

    OutputError where something else lies there, or another run has overwritten the output meanwhile.
    """
    output = join_path(job.output, name_shared(frozen))
    store = open_store(output)
    left_over = [] if frozen.has_references else [name for name, _ in store.list()]
    try:
        there = find_frozen(store)
    except OutputError as error:
        raise OutputError(f"{hide_credentials(output)}: {error}") from error
    if there is None:  # nobody keeps anything below the notes of a job: it was left by a run that was killed
        remove_all(store, left_over)
    if there is not None and not is_shared(there):
        raise OutputError(f"{hide_credentials(output)}: expected room for embeddings of this job, got another output")
    if there is not None and there.generation > frozen.generation:
        raise OutputError(f"{JOB}: another run has overwritten this output while this one worked")
    return replace(
        job,
        inputs=[join_path(job.output, name_captions(frozen.generation))],
        output=output,
        reuse=list_reuse(job, frozen),
        text_column=COLUMN,
        caption_choice="all",
        keep_columns=[],
        cast={},
        dedup="unit",
        duplicates="copied",
        rows_per_shard=None,
        on_error="keep",
        overwrite=False,
        retry_errors=False,
        replace=True,
        recheck=False,
    )


def may_lack_shared(run: RunState) -> bool:
    """Whether rows refer to an output that may be damaged or gone, though all of the run's own units are there."""
    frozen = run.commit.frozen
    found = read_found(run.store, frozen.generation) if frozen.has_references else None
    return found is not None and found.distinct > 0


def take_from(run: RunState, shared: Found) -> None:
    """Have a run's rows refer to those of the shared output, or copied from it before any other."""
    if run.commit.frozen.has_references:
        run.numbering = read_numbering(Below(run.store, SHARED))
        run.referred = list_numbered(shared, run.numbering["name"].to_pylist())
    else:
        own = replace(shared, is_own=True)
        run.earlier_outputs = replace(run.earlier_outputs, found=(own, *run.earlier_outputs.found))


def read_numbering(shared: Store) -> pa.Table:
    """What rows of the shared output are numbered by, as readers do: `name` and `captions` of the shards that count.

    A listing may hold others, which a late process of an earlier generation has added.
    """
    return pq.read_table(pa.BufferReader(shared.read(MANIFEST)), columns=["name", "captions"])


def list_numbered(shared: Found, names: list[str]) -> EarlierOutput:
    """The shared output's shards of these names, in their order; OutputError where one is not there."""
    listed = list_output(shared)
    places = pc.index_in(pa.array(names, pa.string()), listed.shards["name"].combine_chunks())
    if places.null_count:
        raise OutputError(f"{shared.shown}: expected {len(names)} shards, got {len(names) - places.null_count} of them")
    return replace(listed, shards=listed.shards.take(places))


def check_numbering(run: RunState) -> None:
    """OutputError where the shared output is no longer the one whose rows this run's refer to."""
    if run.numbering is None:
        return
    try:
        there = read_numbering(Below(run.store, SHARED))
    except FileNotFoundError:
        there = None
    if there != run.numbering:
        raise OutputError(f"{SHARED}/{MANIFEST}: another run has replaced what rows refer to while this one worked")


@contextlib.contextmanager
def unless_over(run: RunState) -> Iterator[None]:
    """Another run that has ended the job meanwhile has removed what this one works on: then nothing is amiss."""
    try:
        yield
    except (FileNotFoundError, T5encError):
        check_owner(run.store, run.commit.frozen)
        if run.store.size(SUCCESS) is None:
            raise


def describe_dedup(run: RunState) -> dict[str, int | float]:
    """What a run's report says of captions that occur more than once; nothing where none were looked for."""
    if run.repeats is None:
        return {}
    told: dict[str, int | float] = asdict(run.repeats)
    if run.shared is not None:
        told |= {"size": run.shared.totals["size"], "tokens": run.shared.totals["tokens"]}
        told |= {"useful_tokens": run.shared.progress.cost.useful_tokens, "seconds": run.shared.wall_seconds}
        told |= {"reused": run.shared.progress.counts.reused}
    return told


def is_shared(frozen: FrozenJob) -> bool:
    """Whether a job is one within a job."""
    return any(name_captions(frozen.generation) in path for path in frozen.record.get("inputs", ()))


def tidy_shared(store: Store, job: FrozenJob) -> None:
    """Remove what a job that is done no longer needs: captions before what was made of them."""
    keep = name_captions(job.generation) if job.has_references else ""
    remove_all(store, [name for name, _ in store.list(DISTINCT) if name != keep])
    if not job.has_references:
        own = f"{COPIED_FROM}/{JOB}"
        remove_all(store, [name for name, _ in store.list(COPIED_FROM) if name != own])
        store.delete(own)
        if isinstance(store, LocalStore):
            for folder in (COPIED_FROM, DISTINCT):
                shutil.rmtree(store.root / folder, ignore_errors=True)


def remove_all(store: Store, names: list[str]) -> None:
    """Remove objects, several at once."""
    for _ in map_concurrently(store.delete, names):
        pass


def put_old_aside(store: Store, job: FrozenJob) -> None:
    """Move the shared embeddings of an earlier generation out of the way."""
    own = f"{SHARED}/{JOB}"
    if store.size(own) is None:
        return
    there = FrozenJob.from_json(store.read(own))
    if is_shared(there) and (not job.has_references or there.generation < job.generation):
        move_aside(store, [name for name, _ in store.list(SHARED) if name != own])
        move_aside(store, [own])
