"""The command that writes caches of trainers: export."""

from __future__ import annotations

from typing import Annotated

import typer

from t5enc.commands.option_files import split_pair

# Those of `t5enc.trainers.registry`, which loads torch.
NAMES = "musubi, ai-toolkit, simpletuner, pixart, cosmos, sd-scripts-flux, sd-scripts-sd3, fastvideo or webdataset"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("export")(export)


def export(
    format: Annotated[str, typer.Argument(help=f"The trainer's cache: {NAMES}.")],
    output: Annotated[str, typer.Argument(help="Output folder or URI of `t5enc encode`.")],
    to: Annotated[str, typer.Option(help="Folder to write to.")],
    stem_column: Annotated[
        str, typer.Option(help="Column of names or paths of images or videos, after which files are called.")
    ] = "image_path",
    caption_column: Annotated[str | None, typer.Option(help="Column of captions (default: the job's).")] = None,
    caption_index: Annotated[
        int | None, typer.Option(min=0, help="Of several captions a row the one at this place (default: all).")
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option("--option", help="NAME=VALUE of the format; may be given again.")
    ] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Threads (default: two a core, at most 8).")] = None,
    link: Annotated[bool, typer.Option("--link", help="Hard links where no byte would differ.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that are not of this export.")] = False,
    allow_lossy: Annotated[
        bool, typer.Option("--allow-lossy", help="Export embeddings that were stored with 8 bits, too.")
    ] = False,
) -> None:
    """Write the cache of a trainer from an output; run the same command again to go on."""
    from t5enc.commands.export_progress import print_report, show_ticks
    from t5enc.trainers.export import export_embeddings

    options = dict(split_pair(pair) for pair in option or ())
    with show_ticks() as ticks:
        report = export_embeddings(
            format,
            output,
            to,
            options=options,
            caption_column=caption_column,
            stem_column=stem_column,
            caption_index=caption_index,
            jobs=jobs,
            link=link,
            overwrite=overwrite,
            allow_lossy=allow_lossy,
            ticks=ticks,
        )
    print_report(to, report)
