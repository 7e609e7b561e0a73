"""Figures for people and for programs: short numbers, plain tables, strict JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from t5enc.errors import OutputError

WIDEST = 200
PACKAGES = ("t5enc", "torch", "transformers", "nai-t5-wrapper")


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


def without_infinities(value: Any) -> Any:
    """The same with None for every number that JSON has no word for."""
    if isinstance(value, dict):
        return {name: without_infinities(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [without_infinities(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_json(path: str, content: dict[str, Any]) -> None:
    """Write figures to a file, null for what is not finite; OutputError where it cannot be written."""
    try:
        Path(path).write_text(
            json.dumps(without_infinities(content), indent=2, allow_nan=False) + "\n", encoding="utf-8"
        )
    except OSError as error:
        raise OutputError(f"{path}: expected a file that can be written, got: {error}") from error


def read_versions() -> dict[str, str]:
    """Versions of what took part, as far as installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
