"""What an export tells: how far it is, and at the end what it did."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportReport:
    """Files and bytes that were written (`linked` of them hard links), files that were there and whole, rows whose
    file another row has.

    `without` counts the rows that have no file, by reason; `note` says how far numbers are from the trainer's.
    """

    files: int = 0
    bytes: int = 0
    linked: int = 0
    whole: int = 0
    shared: int = 0
    without: Mapping[str, int] = field(default_factory=dict)
    note: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticks:
    """Whom an export tells how far it is: of rows named, of files to be written, of files written and their bytes."""

    name: Callable[[int], None] = lambda _: None
    start: Callable[[int], None] = lambda _: None
    write: Callable[[int, int], None] = lambda _, __: None
