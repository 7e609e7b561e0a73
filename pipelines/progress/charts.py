"""Charts as SVG that needs nothing else: amounts over time, and counts by length. Colours are classes of the page.

A chart's label is its text alternative; its numbers stand in a table beside it, for whoever cannot see it.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import accumulate, pairwise

from markupsafe import Markup

WIDTH, HEIGHT = 480.0, 190.0
LEFT, RIGHT, TOP, BOTTOM = 44.0, 8.0, 14.0, 22.0
INNER_WIDTH, INNER_HEIGHT = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
TIME_STEPS = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 28800, 43200, 86400, 604800)
MOST_TICKS = 6
# What an axis may end at, times a power of ten.
ROUND = (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10, 20)
Points = list[tuple[float, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """A series of a stacked chart: amounts in slices of time."""

    name: str
    style: str
    values: Sequence[float]


def draw_bands(bands: Sequence[Band], *, edges: Sequence[float], label: str) -> Markup:
    """Bands on top of each other; `edges` are the seconds at which slices begin, and the end of the last."""
    levels = [[sum(column) for column in zip(*(band.values for band in bands[:count]), strict=True)] for count in
              range(1, len(bands) + 1)]  # fmt: skip
    levels = [[0.0] * (len(edges) - 1), *levels]
    top = round_up(max(levels[-1], default=0.0))
    parts = [_draw_frame(top, edges[-1])]
    for band, (lower, upper) in zip(bands, pairwise(levels), strict=True):
        outline = _step(upper, edges, top) + _step(lower, edges, top)[::-1]
        parts.append(f'<polygon class="band {band.style}" points="{_join(outline)}"/>')
    return _wrap(parts, label)


def _step(values: Sequence[float], edges: Sequence[float], top: float) -> Points:
    """A line that goes along each slice at its value."""
    places = [LEFT + INNER_WIDTH * edge / edges[-1] for edge in edges]
    heights = [_height(value, top) for value in values]
    return [(x, y) for y, sides in zip(heights, pairwise(places), strict=True) for x in sides]


def draw_bars(counts: Sequence[int], *, width: int, cut: int, label: str) -> Markup:
    """Counts by length, a bar for every `width` tokens, those beyond the cut in another colour, and a line at it."""
    end = width * len(counts)
    top = round_up(max(counts, default=0))
    parts = [_draw_heights(top)]
    for place, count in enumerate(counts):
        style = "over" if place * width >= cut else "within"
        x, y = LEFT + INNER_WIDTH * place / len(counts), _height(count, top)
        parts.append(
            f'<rect class="bar {style}" x="{x + 0.5:.1f}" y="{y:.1f}" width="{INNER_WIDTH / len(counts) - 1:.1f}" '
            f'height="{TOP + INNER_HEIGHT - y:.1f}"/>'
        )
    parts += [_draw_tick(tokens / end, f"{tokens:,.0f}") for tokens in _ticks(end, round_up(end / MOST_TICKS))]
    x = LEFT + INNER_WIDTH * cut / end
    is_right = cut > 0.7 * end
    parts.append(f'<line class="cut" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{TOP + INNER_HEIGHT}"/>')
    parts.append(
        f'<text class="cut" x="{x + (-4 if is_right else 4):.1f}" y="{TOP + 10}" '
        f'text-anchor="{"end" if is_right else "start"}">cut at {cut:,}</text>'
    )
    return _wrap(parts, label)


def _draw_frame(top: float, seconds: float) -> str:
    step = TIME_STEPS[min(bisect_left(TIME_STEPS, seconds / MOST_TICKS), len(TIME_STEPS) - 1)]
    return _draw_heights(top) + "".join(_draw_tick(at / seconds, show_seconds(at)) for at in _ticks(seconds, step))


def _draw_heights(top: float) -> str:
    """Lines across at a few heights, with what they stand for."""
    lines = []
    for value in (0.0, top / 2, top):
        y = _height(value, top)
        lines.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        lines.append(f'<text x="{LEFT - 5}" y="{y + 4:.1f}" text-anchor="end">{show_short(value)}</text>')
    return "".join(lines)


def _draw_tick(share: float, text: str) -> str:
    anchor = "start" if share < 0.05 else "end" if share > 0.95 else "middle"
    return f'<text x="{LEFT + INNER_WIDTH * share:.1f}" y="{HEIGHT - 6}" text-anchor="{anchor}">{escape(text)}</text>'


def _ticks(end: float, step: float) -> Iterator[float]:
    return (place * step for place in range(int(end / step) + 1))


def _height(value: float, top: float) -> float:
    return TOP + INNER_HEIGHT * (1 - value / top)


def _join(points: Points) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _wrap(parts: Sequence[str], label: str) -> Markup:
    head = f'<svg viewBox="0 0 {WIDTH:.0f} {HEIGHT:.0f}" role="img" aria-label="{escape(label)}">'
    return Markup(head + "".join(parts) + "</svg>")


def round_up(value: float) -> float:
    """The next round number."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in ROUND if step * power >= value)


def show_short(value: float) -> str:
    """A number in about four characters."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def show_seconds(seconds: float) -> str:
    """A duration in the unit that suits it."""
    for size, unit in ((86400.0, "d"), (3600.0, "h"), (60.0, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"


def merge_slices(values: Sequence[float], most: int) -> list[float]:
    """Sums of neighbouring slices, as many of them together as it takes to have no more than `most`."""
    size = max(1, -(-len(values) // most))
    return [sum(values[place : place + size]) for place in range(0, len(values), size)]


def find_edges(slices: int, *, width: float, end: float) -> list[float]:
    """Seconds at which slices begin, and where the last, which may not be over, ends."""
    return [*accumulate([0.0] + [width] * (slices - 1)), max(end, width * (slices - 1) + 1e-3)]
