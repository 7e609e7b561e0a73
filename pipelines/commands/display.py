"""Progress of a run: a bar in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar

from pipelines.inputs.columns.words import describe_columns

if TYPE_CHECKING:
    from pipelines.progress.ledger import Progress
    from pipelines.run.state import OnProgress, RunState

LINE_SECONDS = 10.0
# Rates of less time than this say nothing.
LEAST_SECONDS = 0.5
# Of a terminal: a narrower one has no room for a bar beside what it shows in words.
WIDE, BAR_WIDTH = 100, 24


@contextlib.contextmanager
def show_progress() -> Iterator[OnProgress]:
    """A callback for the run that shows its progress on stderr."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield Lines(console)
        return
    has_bar = console.width >= WIDE
    columns = (
        TextColumn("{task.description}"),
        *([BarColumn(BAR_WIDTH)] if has_bar else []),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rates]}"),
    )
    with Bar(*columns, console=console) as bar:
        task = bar.add_task("loading", total=None, rates="")

        def update(progress: Progress, run: RunState) -> None:
            state = run.doing or ("encoding" if run.ready else "loading")
            done, total = count_rows(progress, run)
            room = console.width - len(f"{state} {total}/{total} ") - (BAR_WIDTH + 1 if has_bar else 0)
            rates = fit(list_rates(progress, run), room)
            bar.update(task, description=state, completed=done, total=total, rates=rates)

        yield update


class Lines:
    """Writes a log line every ten seconds."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.last = time.monotonic()

    def __call__(self, progress: Progress, run: RunState) -> None:
        if time.monotonic() - self.last < LINE_SECONDS:
            return
        self.last = time.monotonic()
        done, total = count_rows(progress, run)
        doing = f"{run.doing}: " if run.doing else ""
        self.console.print(
            ", ".join(filter(None, [f"{doing}{done:,}/{total:,} rows", describe(progress, run)])),
            soft_wrap=True,
            highlight=False,
            markup=False,
        )


def show_columns(run: RunState) -> None:
    """Say on stderr, once and before work, which columns are kept, left out, and differ among files."""
    console = Console(stderr=True)
    for name, text in describe_columns(run.resolved.columns).items():
        console.print(f"{name}: {text}", soft_wrap=True, highlight=False, markup=False)


def count_rows(progress: Progress, run: RunState) -> tuple[int, int]:
    """Input rows committed so far, earlier runs included, and all there are."""
    return run.rows_before + progress.counts.input_rows, run.resolved.files.total_rows


def describe(progress: Progress, run: RunState) -> str:
    """Rates, what is left, how full the streams are, and what went wrong."""
    return ", ".join(list_rates(progress, run))


def list_rates(progress: Progress, run: RunState) -> list[str]:
    """The same in its parts, first what one wants to know first."""
    if run.ready is None:
        return [] if run.doing and not progress.actors_started else ["loading the model"]
    seconds = time.perf_counter() - run.ready
    if seconds < LEAST_SECONDS:
        return []
    done, total = count_rows(progress, run)
    counts = progress.counts
    rate = counts.input_rows / seconds
    left = str(timedelta(seconds=int((total - done) / rate))) if rate else "unknown"
    return [
        f"{counts.captions / seconds:,.0f} captions/s",
        f"ETA {left}",
        *([f"{counts.errors:,} without embedding"] if counts.errors else []),
        f"{counts.new_tokens / seconds:,.0f} useful tokens/s",
        *([f"{counts.reused:,} reused"] if counts.reused else []),
        f"streams {progress.fill:.1%} full",
    ]


def fit(parts: Sequence[str], room: int) -> str:
    """As many of the first parts as have room in a line."""
    lines = [", ".join(parts[:count]) for count in range(len(parts) + 1)]
    return next(line for line in reversed(lines) if len(line) <= max(0, room))
