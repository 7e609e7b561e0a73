"""The command that makes an output of a trainer's cache: import."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from t5enc.commands.option_files import split_pair


def import_cache(
    format: Annotated[str, typer.Argument(help="musubi, ai-toolkit, simpletuner or fastvideo.")],
    folder: Annotated[str, typer.Argument(help="The cache's folder; for ai-toolkit that of the images.")],
    output: Annotated[str, typer.Option("--output", "-o", help="Folder or URI to write to.")],
    captions: Annotated[
        str | None, typer.Option(help="For simpletuner: a Parquet file, or a text file with a caption a line.")
    ] = None,
    caption_column: Annotated[str, typer.Option(help="Column of that Parquet file.")] = "caption",
    option: Annotated[
        list[str] | None, typer.Option("--option", help="NAME=VALUE of the format; may be given again.")
    ] = None,
) -> None:
    """Make an output of the embeddings that a trainer cached; run the same command again to go on."""
    from pipelines.imports.cache import read_captions
    from pipelines.imports.importing import import_cache as run
    from pipelines.imports.readers import open_reader

    options = dict(split_pair(pair) for pair in option or ())
    texts = None if captions is None else read_captions(Path(captions).expanduser(), caption_column)
    reader = open_reader(format, options, texts)
    done = run(reader, Path(folder).expanduser(), output, tell=tell_rows)
    typer.echo(f"{output}: {done.rows:,} rows, {done.errors:,} of them without an embedding")
    for reason, count in done.left_out.items():
        typer.echo(f"{count:,} files left out: {reason}")


def tell_rows(done: int, count: int) -> None:
    """A line a shard, on standard error."""
    typer.echo(f"{done:,} of {count:,} rows", err=True)
