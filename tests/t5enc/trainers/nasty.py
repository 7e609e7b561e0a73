"""Captions and paths that are hard on whoever makes names and headers of them: the same 1,000 every time."""

from __future__ import annotations

import random

PIECES = (
    *(
        "a red fox",
        "",
        " ",
        "  ",
        "\t",
        "\n",
        "\r\n",
        ",",
        ", ",
        " ,",
        ",,",
        '"',
        "'",
        "\\",
        "/",
        "\\n",
        "{}",
        "[trigger]",
    ),
    *("\x00", "\x01", "\x1f", "\x7f", "\u0085", "\u200b", "\u202e", "\u2028", "\ufeff", "\ufffd", "\ufffe"),
    *(
        "é",
        "e\u0301",
        "ß",
        "İ",
        "你好",
        "🦊",
        "👩‍👩‍👧",
        "مرحبا",
        "<b>",
        "&amp;",
        "&lt;3",
        "%20",
        "null",
        "1e5",
        "-",
        "_",
        "=",
    ),
)
# What a file's name may hold: all but slashes and zero bytes.
SIGNS = (*"abcXYZ019 ._-+%~'\"\\,;:()[]{}&#@!$^=", "é", "你", "🦊", "\t", "\n", "\u202e", ".jpg", ".png", "..")


def make_captions(count: int = 1000) -> list[str]:
    """Captions, some of them many times; all are Unicode text."""
    draw = random.Random(0)
    return ["".join(draw.choice(PIECES) for _ in range(draw.randrange(9))) for _ in range(count)]


def make_paths(count: int = 1000) -> list[str]:
    """Paths below a folder, no two with one stem."""
    draw = random.Random(1)
    return [_make_path(draw, index) for index in range(count)]


def _make_path(draw: random.Random, index: int) -> str:
    folders = ["".join(draw.choice(SIGNS) for _ in range(draw.randrange(1, 6))) + "x" for _ in range(draw.randrange(3))]
    name = "".join(draw.choice(SIGNS) for _ in range(draw.randrange(8)))
    return "/".join([*folders, f"{index}{name}{draw.choice(['', '.jpg', '.tar.gz', '.mp4'])}"])
