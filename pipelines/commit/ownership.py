"""Whose an output is: the job that froze it first, which others resume, are refused by, or overwrite."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from pipelines.job import FrozenJob
from pipelines.stores.store import Store
from t5enc.errors import JobMismatchError, OutputError
from t5enc.output import explain_old
from t5enc.recipes.recipe import complete_identity
from t5enc.storage.filesystems import hide_credentials
from t5enc.storage.layout import JOB, OLD_JOB, SUCCESS


def find_frozen(store: Store) -> FrozenJob | None:
    """The job that an output is frozen with, if there is one."""
    return FrozenJob.from_json(store.read(JOB)) if store.size(JOB) is not None else None


def refuse_old(store: Store, output: str) -> None:
    """OutputError where the output is one of format 1."""
    if store.size(OLD_JOB) is not None:
        raise OutputError(explain_old(hide_credentials(output)))


def freeze(store: Store, job: FrozenJob, *, overwrite: bool = False) -> FrozenJob:
    """Make this job the output's own, or find it there already.

    Returns the frozen job that counts: the one found where its identity is the same. Another one raises
    JobMismatchError naming each field that differs, or with `overwrite` makes way for a new generation. So does one of
    an earlier generation than this job's.
    """
    if store.create(JOB, job.to_json()):
        return job
    found = FrozenJob.from_json(store.read(JOB))
    if overwrite or found.generation < job.generation:
        return _start_generation(store, job, max(job.generation, found.generation + overwrite))
    differences = compare(found.identity, job.identity)
    if differences:
        lines = [f"  {name}: there {there!r}, here {here!r}" for name, (there, here) in differences.items()]
        raise JobMismatchError(
            "the output holds another job; choose another folder, or --overwrite to start anew:\n" + "\n".join(lines),
            differences,
        )
    return found


def _start_generation(store: Store, job: FrozenJob, generation: int) -> FrozenJob:
    content = asdict(job) | {"generation": generation}
    renewed = FrozenJob(**content)
    store.delete(SUCCESS)
    store.replace(JOB, renewed.to_json())
    return renewed


def check_owner(store: Store, job: FrozenJob) -> None:
    """OutputError where the output is no longer this frozen job's."""
    if FrozenJob.from_json(store.read(JOB)).fingerprint != job.fingerprint:
        raise OutputError(
            f"{JOB}: another run has overwritten this output while this one worked; nothing of this one counts"
        )


def compare(there: Mapping[str, Any], here: Mapping[str, Any]) -> dict[str, tuple[object, object]]:
    """Fields of two identities that differ, whatever releases wrote them."""
    there, here = _complete(there), _complete(here)
    names = sorted(set(there) | set(here))
    return {n: (there.get(n), here.get(n)) for n in names if there.get(n) != here.get(n)}


def _complete(identity: Mapping[str, Any]) -> Mapping[str, Any]:
    """As this release would have written it: format 1 was a part of it, as far as its shards are alike."""
    recipe = identity.get("recipe")
    rest = {name: value for name, value in identity.items() if name != "format"}
    return rest if recipe is None else {**rest, "recipe": complete_identity(recipe)}
