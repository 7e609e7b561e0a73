"""Commands that write files of models: convert and add-sentinels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from t5enc.commands.model_options import SOURCE, takes_model_options


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("convert")(convert)
    app.command("add-sentinels")(add_sentinels)


@takes_model_options(*SOURCE)
def convert(
    model: Annotated[str, typer.Argument(help="Hub id, folder, file or builtin:NAME.")],
    out: Annotated[str, typer.Argument(help="Folder to write.")],
    dtype: Annotated[str, typer.Option(help="float32, bfloat16, float16, or keep.")] = "keep",
    fuse_norms: Annotated[bool, typer.Option("--fuse-norms", help="Multiply norm scales into the weights.")] = False,
    max_shard_size: Annotated[str, typer.Option(help="Largest file of weights.")] = "5GB",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a checkpoint that is there.")] = False,
    *,
    place: dict[str, Any],
) -> None:
    """Write a model's weights fused, as t5enc keeps them, so that they load without being rearranged."""
    from t5enc.checkpoint.convert import convert as run
    from t5enc.options import ModelSource

    source = ModelSource(model=model, **place)
    done = run(
        source,
        Path(out),
        dtype=dtype,
        fuse_norms=fuse_norms,
        max_shard_size=max_shard_size,
        overwrite=overwrite,
    )
    norms = ", norm scales multiplied in" if done.has_fused_norms else ""
    typer.echo(f"{done.folder}: {done.weight_bytes / 1e6:,.1f} MB of weights in {', '.join(done.dtypes)}{norms}")
    typer.echo(f"files: {', '.join(done.files)}")
    if not done.has_tokenizer:
        typer.echo(
            "the model has no tokenizer files: whoever loads it gives a place (--tokenizer, or tokenizer= in Python)"
        )


def add_sentinels(
    tokenizer: Annotated[str, typer.Argument(help="Folder of a T5 tokenizer, or a sentencepiece .model file.")],
    out: Annotated[str, typer.Argument(help="The .model file to write.")],
    count: Annotated[
        int | None, typer.Option(min=1, help="How many; by default as many as the tokenizer says.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")] = False,
) -> None:
    """Write a sentencepiece model that knows T5's <extra_id_N>."""
    from t5enc.text.sentinels import add_sentinels as run

    added = run(Path(tokenizer), Path(out), count=count, overwrite=overwrite)
    typer.echo(f"{out}: {added.pieces:,} pieces; <extra_id_0> is {added.first_id}, {added.count} in all")
