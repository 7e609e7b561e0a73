"""Bars beside each other, from a file of figures (`benchmarks/figures.json`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from docs.pictures.paper import draw_svg, draw_text

WIDTH = 888
NAMES, NUMBERS = 300, 150
BAR, STEP = 16, 24
MARGIN = 12


def draw_chart(figures: Mapping[str, Any], title: str) -> str:
    """A panel of bars for each measurement; ours are of one colour, the peers' of another."""
    elements: list[str] = []
    y = MARGIN
    for panel in figures["panels"]:
        drawn, y = _draw_panel(panel, y)
        elements += drawn
    return draw_svg(WIDTH, y, title, elements)


def _draw_panel(panel: Mapping[str, Any], top: int) -> tuple[list[str], int]:
    """The elements, and where the next panel begins."""
    heading = [
        draw_text(MARGIN, top + 14, "title", panel["title"]),
        draw_text(MARGIN, top + 31, "faint", f"{panel['unit']}. {panel['command']}, {panel['date']}"),
        draw_text(MARGIN, top + 46, "faint", ", ".join((panel["hardware"], panel["dtype"], panel["corpus"]))),
    ]
    rows: Sequence[Mapping[str, Any]] = panel["rows"]
    first = top + 58
    most = max(row["figure"] for row in rows)
    bars = [element for place, row in enumerate(rows) for element in _draw_bar(row, first + place * STEP, most)]
    return heading + bars, first + len(rows) * STEP + MARGIN


def _draw_bar(row: Mapping[str, Any], y: int, most: float) -> list[str]:
    length = (WIDTH - NAMES - NUMBERS) * row["figure"] / most
    return [
        draw_text(NAMES - 8, y + 12, "small end", row["name"]),
        f'<rect class="{row["kind"]}" x="{NAMES}" y="{y}" width="{length:.1f}" height="{BAR}" rx="2"/>',
        draw_text(NAMES + length + 6, y + 12, "small", f"{row['figure']:,}"),
    ]
