"""`t5enc refresh OUTPUT`: the job of an output once more, on inputs that have changed; only what is new is computed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from t5enc.commands.option_files import merge_options

if TYPE_CHECKING:
    from pipelines.job import EncodeJob


def refresh(
    output: Annotated[str, typer.Argument(help="Output folder of `t5enc encode`.")],
    inputs: Annotated[
        list[str] | None, typer.Argument(help="Inputs, where they are others than the job's by now.")
    ] = None,
    replace: Annotated[
        bool | None, typer.Option("--replace", help="Though the inputs lack more than a tenth of the rows.")
    ] = None,
    token: Annotated[str | None, typer.Option(help="Of the hub, for a model that is not open.")] = None,
    actors: Annotated[str | None, typer.Option(help="auto, N or MIN:MAX.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda.")] = None,
    ray_address: Annotated[
        str | None, typer.Option(help="auto or HOST:PORT; a local Ray is started otherwise.")
    ] = None,
    config: Annotated[str | None, typer.Option(help="YAML file with any options of encode.")] = None,
) -> None:
    """Bring an output up to date with its inputs: rows edited, added, removed, or moved to other files.

    What does not fit the inputs any more is put aside, and embeddings of captions that were encoded before are copied.
    """
    from pipelines.commands.supervise import supervise

    given = {"inputs": inputs or None, "replace": replace, "token": token}
    given |= {"actors": actors, "device": device, "ray_address": ray_address}
    raise typer.Exit(supervise(make_job(output, merge_options(given, config))))


def make_job(output: str, given: Mapping[str, Any]) -> EncodeJob:
    """The job of an output as it was asked for, but for what is `given`, on inputs that may have changed.

    OutputError where there is no job, or its output does not tell what it was asked for.
    """
    from pipelines.commit.ownership import find_frozen, refuse_old
    from pipelines.job import EncodeJob
    from pipelines.run.asked import read_asked
    from pipelines.stores.store import open_store
    from t5enc.errors import OutputError
    from t5enc.storage.filesystems import hide_credentials
    from t5enc.storage.layout import JOB

    store = open_store(output)
    refuse_old(store, output)
    frozen, shown = find_frozen(store), hide_credentials(output)
    if frozen is None:
        raise OutputError(f"{shown}: expected the output of a t5enc job, got a folder without {JOB}")
    own = {"output": output, "recheck": True}
    return EncodeJob.from_mapping(read_asked(store, frozen, shown, given) | own)
