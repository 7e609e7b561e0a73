"""Draws every picture again: `python -m docs.pictures`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from docs.pictures.chart import draw_chart
from docs.pictures.curve import draw_curves
from docs.pictures.diagram import draw_diagram

HERE = Path(__file__).resolve().parent
TRAVEL = HERE / "caption.txt"
TRAINING = HERE / "training.json"
FIGURES = HERE.parents[1] / "benchmarks" / "figures.json"


def draw_all() -> Iterator[tuple[Path, str]]:
    """Each picture's file, and what belongs into it."""
    yield HERE / "caption.svg", draw_diagram(TRAVEL.read_text(encoding="utf-8"), "How a caption travels through t5enc")
    figures = json.loads(FIGURES.read_text(encoding="utf-8"))
    yield HERE / "peers.svg", draw_chart(figures, "Useful tokens a second, t5enc beside its peers")
    losses = json.loads(TRAINING.read_text(encoding="utf-8"))
    yield HERE / "training.svg", draw_curves(losses, "Loss of the training example, stored and fresh embeddings")


if __name__ == "__main__":
    for path, content in draw_all():
        path.write_text(content, encoding="utf-8")
