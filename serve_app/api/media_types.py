"""Which of several media types a client's Accept header prefers (RFC 9110, section 12.5.1)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from serve_app.served.refusals import RefusedError


def pick_media_type(accept: Sequence[str], offered: Iterable[str]) -> str:
    """The offered type of highest quality, the earlier of equals; RefusedError (406) where none is accepted.

    `accept` are the values of all Accept headers; without any, every type is.
    """
    ranges = [_parse(part) for header in accept for part in header.split(",") if part.strip()]
    types = list(offered)
    if not ranges:
        return types[0]
    best = max(types, key=lambda media_type: _rate(media_type, ranges))
    if _rate(best, ranges) > 0:
        return best
    raise RefusedError(406, "Validation", f"Accept: expected one of {', '.join(types)}, got {', '.join(accept)}")


def _rate(media_type: str, ranges: Sequence[tuple[str, float]]) -> float:
    """The quality that the most specific matching range gives."""
    patterns = (media_type, f"{media_type.split('/')[0]}/*", "*/*")
    for pattern in patterns:
        qualities = [quality for name, quality in ranges if name == pattern]
        if qualities:
            return max(qualities)
    return 0.0


def _parse(part: str) -> tuple[str, float]:
    """A media range and its quality: 1 where none is given, 0 where it is no number."""
    name, *parameters = (piece.strip().lower() for piece in part.split(";"))
    given = [value.removeprefix("q=") for value in parameters if value.startswith("q=")]
    try:
        quality = float(given[0]) if given else 1.0
    except ValueError:
        quality = 0.0
    return name, quality if 0 <= quality <= 1 else 0.0
