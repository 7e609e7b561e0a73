"""Commands of the library itself: inspect and bench."""

from __future__ import annotations

from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the library's commands."""
    app.command("inspect")(inspect)
    app.command("bench")(bench)
    app.command("version")(version)


def inspect(
    path: Annotated[str, typer.Argument(help="Output folder of `t5enc encode`.")],
    rows: Annotated[int, typer.Option(help="First rows to show.")] = 5,
    partial: Annotated[bool, typer.Option("--partial", help="Look at an unfinished job, too.")] = False,
) -> None:
    """Show what a job wrote: its settings, totals and first rows."""
    from t5enc.inspection import print_output

    print_output(path, rows=rows, partial=partial)


def bench(
    model: Annotated[str, typer.Option(help="Hub id, folder, file or builtin:NAME.")] = "builtin:tiny",
    texts: Annotated[
        str | None, typer.Option(help="Text file, one caption a line; built-in samples otherwise.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    attention: Annotated[str, typer.Option(help="auto, flex or sdpa.")] = "auto",
    token_budget: Annotated[int | None, typer.Option(help="Tokens a stream.")] = None,
    max_length: Annotated[int, typer.Option(help="Longest text in tokens.")] = 512,
    rounds: Annotated[int, typer.Option(min=1, help="Times the whole corpus is encoded.")] = 3,
) -> None:
    """Measure useful tokens a second, and the share of what plain matrix products reach here."""
    from t5enc.bench import run_bench
    from t5enc.options import EncoderOptions

    options = EncoderOptions.from_mapping(
        {
            "model": model,
            "device": device,
            "dtype": dtype,
            "attention": attention,
            "token_budget": token_budget,
            "max_length": max_length,
        }
    )
    run_bench(options, texts, rounds=rounds)


def version() -> None:
    """Print the version."""
    from importlib.metadata import version as read_version

    typer.echo(read_version("t5enc"))
