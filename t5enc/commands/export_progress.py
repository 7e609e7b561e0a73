"""What `t5enc export` shows: a bar on a terminal, plain lines elsewhere, and what it did."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from t5enc.trainers.progress import ExportReport, Ticks

# Seconds between two lines where there is no terminal.
PAUSE = 10.0


@contextmanager
def show_ticks() -> Iterator[Ticks]:
    """How far an export is, on standard error."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _make_lines()
        return
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[size]}")
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as progress:
        yield _make_bars(progress)


def _make_bars(progress: Progress) -> Ticks:
    naming = progress.add_task("naming", total=None, size="")
    writing = progress.add_task("writing", total=None, size="", visible=False)
    total = 0

    def write(files: int, size: int) -> None:
        nonlocal total
        total += size
        progress.update(writing, advance=files, size=format_bytes(total))

    def start(files: int) -> None:
        progress.update(naming, visible=False)
        progress.update(writing, total=files, visible=True)

    return Ticks(name=lambda rows: progress.advance(naming, rows), start=start, write=write)


def _make_lines() -> Ticks:
    """A line when files begin, and one every ten seconds."""
    done, wanted, last = 0, 0, time.monotonic()

    def start(files: int) -> None:
        nonlocal wanted
        wanted = files
        typer.echo(f"{files:,} files to write", err=True)

    def write(files: int, size: int) -> None:
        nonlocal done, last
        done += files
        if time.monotonic() - last > PAUSE:
            last = time.monotonic()
            typer.echo(f"{done:,} of {wanted:,} files", err=True)

    return Ticks(start=start, write=write)


def print_report(to: str, report: ExportReport) -> None:
    """The sums, and which rows have no file and why."""
    typer.echo(f"{to}: {report.files:,} files, {format_bytes(report.bytes)} written")
    if report.linked:
        typer.echo(f"{report.linked:,} of them are hard links")
    if report.whole:
        typer.echo(f"{report.whole:,} files were there and whole")
    if report.shared:
        typer.echo(f"{report.shared:,} rows have the file of an earlier row, with the same caption")
    for reason, count in report.without.items():
        typer.echo(f"{count:,} rows have no file: {reason}")
    if report.note:
        typer.echo(f"note: {report.note}")


def format_bytes(size: int) -> str:
    """Bytes in the unit that fits: 3.2 GB."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:,.1f} {unit}"
    return f"{size} bytes"
