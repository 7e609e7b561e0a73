"""The commands that make outputs of outputs: merge, select."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pipelines.derive.committing import Derived

Output = Annotated[str, typer.Option("--output", "-o", help="Folder or URI to write to.")]
SHOWN = 3


def merge(
    outputs: Annotated[
        list[str], typer.Argument(help="Finished outputs; NAME=PATH says what comes before sources of a name twice.")
    ],
    output: Output,
) -> None:
    """Put finished outputs together in a new one, with links where nothing changes; run it again to go on."""
    from pipelines.derive.merge import merge_outputs

    merged = merge_outputs(outputs, output, tell=tell_shards)
    for origin, renamed in merged.renamed.items():
        for old, new in list(renamed.items())[:SHOWN]:
            typer.echo(f"{origin}: {old} is {new} now")
        if len(renamed) > SHOWN:
            typer.echo(f"{origin}: and {len(renamed) - SHOWN:,} more")
    print_derived(output, merged.derived)


def select(
    origin: Annotated[str, typer.Argument(help="A finished output.")],
    output: Output,
    where: Annotated[
        str | None, typer.Option(help="Condition in DuckDB's SQL on each row, its embedding apart (default: all rows).")
    ] = None,
    columns: Annotated[str | None, typer.Option(help="Kept columns to keep, a,b,c or none (default: all).")] = None,
) -> None:
    """Take the rows of a finished output for which a condition holds into a new one; run it again to go on."""
    from pipelines.derive.select import select_rows

    names = None if columns is None else [] if columns == "none" else [name.strip() for name in columns.split(",")]
    print_derived(output, select_rows(origin, where, output, columns=names, tell=tell_shards))


def print_derived(output: str, derived: Derived) -> None:
    """What is there now."""
    from t5enc.storage.filesystems import hide_credentials

    kinds = {"linked": derived.linked, "copied": derived.copied, "rewritten": derived.rewritten}
    shards = ", ".join(f"{count:,} {kind}" for kind, count in kinds.items() if count)
    typer.echo(
        f"{hide_credentials(output)}: {derived.rows:,} rows, {derived.size / 1e6:,.1f} MB; shards: {shards}; "
        f"{derived.written / 1e6:,.1f} MB written"
    )


def tell_shards(done: int, count: int) -> None:
    """A line a shard, on standard error."""
    typer.echo(f"{done:,} of {count:,} shards", err=True)
