"""Captions and paths that trip what makes names of them: 1,000 of each, the same every time."""

from __future__ import annotations

import random

COUNT = 1000
TEXTS = [
    "",
    " ",
    "a, b",
    "a,b ,  c",
    "\n\ta\n",
    "ü",
    "u\u0308",
    "日本語",
    "🦊" * 9,
    "a\x00b",
    '"\\"',
    "x" * 3000,
    ".png",
    "%2F",
]
STEMS = [
    "a",
    "a.b",
    "a.png",
    ".png",
    "a b",
    "ü",
    "日本",
    "A",
    "a_",
    "-",
    "~",
    "a.tar.gz",
    "a.jpg.webp",
    "x" * 60,
    "a\\b",
    "é.mp4",
]
FOLDERS = ["", "b", "b/c", "b.png", "b.c/d.e", "ü x", "b.mp4", "b.txt/c", "sa_000/0"]
ENDS = ["", ".png", ".jpg", ".jpeg", ".webp", ".PNG", ".mp4", ".txt", ".png.png", ".mp4.mp4", "."]


def make_captions() -> list[str]:
    """Texts, each at least once, and mixtures of them."""
    draw = random.Random(13)
    mixed = ["".join(draw.choices(TEXTS[:-3], k=draw.randint(1, 4))) for _ in range(COUNT - len(TEXTS))]
    return [*TEXTS, *mixed]


def make_paths() -> list[str]:
    """Paths below a folder, whose parts are never empty."""
    draw = random.Random(17)
    return [draw_path(draw) for _ in range(COUNT)]


def make_distinct_paths() -> list[str]:
    """The same, each with a number before the last part."""
    parts = (path.rpartition("/") for path in make_paths())
    return [f"{folder}{slash}{number}_{name}" for number, (folder, slash, name) in enumerate(parts)]


def draw_path(draw: random.Random) -> str:
    """One of them."""
    folder = draw.choice(FOLDERS)
    name = draw.choice(STEMS) + draw.choice(["", str(draw.randrange(1000))]) + draw.choice(ENDS)
    return f"{folder}/{name}" if folder else name
