"""Lines over steps, from the losses of a few runs (`training.json`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log
from statistics import fmean
from typing import Any

from docs.pictures.paper import draw_svg, draw_text

WIDTH, HEIGHT = 888, 320
LEFT, RIGHT, TOP, BOTTOM = 44, 236, 52, 40
# Losses of the grid's lines; the scale is logarithmic from the first to the last.
LOSSES = (0.1, 0.2, 0.5, 1, 2)
STEPS_APART = 100


def draw_curves(measured: Mapping[str, Any], title: str) -> str:
    """A line for each run; a step is the mean of the `smooth` that end with it."""
    runs, smooth = measured["runs"], measured["smooth"]
    steps = max(len(run["losses"]) for run in runs)
    elements = [
        draw_text(12, 20, "title", measured["title"]),
        draw_text(12, 36, "faint", measured["subtitle"]),
        *_draw_axes(steps),
    ]
    for place, run in enumerate(runs):
        elements += _draw_run(run, steps, smooth, TOP + 12.5 + 22 * place)
    return draw_svg(WIDTH, HEIGHT, title, elements)


def _draw_axes(steps: int) -> list[str]:
    lines = [f'<path class="grid" d="M{LEFT} {_find_y(loss):.1f}H{WIDTH - RIGHT}"/>' for loss in LOSSES]
    lines += [draw_text(LEFT - 6, _find_y(loss) + 4, "faint end", f"{loss:g}") for loss in LOSSES]
    for step in range(0, steps + 1, STEPS_APART):
        lines.append(draw_text(_find_x(step, steps), HEIGHT - BOTTOM + 18, "faint middle", str(step)))
    return [*lines, draw_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, "faint middle", "steps")]


def _draw_run(run: Mapping[str, Any], steps: int, smooth: int, y: float) -> list[str]:
    """Its line; and, at this height beside the grid, what it is and where it ends."""
    losses: Sequence[float] = run["losses"]
    means = {step: fmean(losses[step - smooth : step]) for step in range(smooth, len(losses) + 1)}
    points = "L".join(f"{_find_x(step, steps):.1f} {_find_y(mean):.1f}" for step, mean in means.items())
    side = WIDTH - RIGHT + 16
    return [
        f'<path class="curve {run["kind"]}" d="M{points}"/>',
        f'<path class="curve {run["kind"]}" d="M{side} {y}h26"/>',
        draw_text(side + 34, y + 4, "small", f"{run['name']}: {means[len(losses)]:.3f}"),
    ]


def _find_x(step: float, steps: int) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * step / steps


def _find_y(loss: float) -> float:
    part = log(loss / LOSSES[0]) / log(LOSSES[-1] / LOSSES[0])
    return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * part
