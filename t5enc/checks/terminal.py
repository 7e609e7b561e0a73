"""What the checks show on a terminal: plain tables, short numbers, a line of progress."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

WIDEST = 200


def print_table(table: Table, console: Console) -> None:
    """Print a table as wide as it is, whatever the terminal's width: a cut number is a wrong one."""
    width = console.width
    console.width = max(width, WIDEST)
    try:
        console.print(table)
    finally:
        console.width = width


@contextmanager
def show_progress() -> Iterator[Callable[[str], None]]:
    """A line on the terminal that says what is being done, gone at the end; nothing where there is no terminal."""
    console = Console(stderr=True)
    with console.status("") as status:
        yield lambda message: status.update(escape(message))


def start_table(title: str, *names: str) -> Table:
    """A table without side lines, its first columns named."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in names:
        table.add_column(name, no_wrap=True)
    return table


def format_small(value: float) -> str:
    """Three digits and an exponent without zeros: 4.78e-5."""
    if not value or not math.isfinite(value):
        return f"{value:g}"
    digits, _, exponent = f"{value:.2e}".partition("e")
    return f"{digits}e{int(exponent)}"
