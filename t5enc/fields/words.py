"""Values that come as words, as `serve run NAME=VALUE` hands them over."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from t5enc.fields.types import list_kinds

TRUTHS = dict.fromkeys(("1", "on", "t", "true", "y", "yes"), True)
TRUTHS |= dict.fromkeys(("0", "off", "f", "false", "n", "no"), False)


def read_words(hints: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Options with the numbers and truths that their words stand for; what stands for none is left as it is."""
    return {name: read_word(hints.get(name, Any), value) for name, value in options.items()}


def read_word(hint: Any, value: Any) -> Any:
    """A word as a value of a declared type, if it is one; a text stays a text where texts are welcome."""
    kinds = list_kinds(hint)
    for kind, read in READERS.items():
        if kind in kinds and str not in kinds and isinstance(value, str | int | float):
            try:
                return read(value)
            except (ValueError, KeyError, OverflowError):
                return value
    return value


def _read_truth(value: str | float) -> bool:
    return TRUTHS[str(value).lower()]


def _read_whole(value: str | float) -> int:
    if isinstance(value, bool) or int(value) != float(value):
        raise ValueError
    return int(value)


def _read_number(value: str | float) -> float:
    if isinstance(value, bool):
        raise ValueError
    return float(value)


READERS: dict[type, Callable[[str | float], Any]] = {bool: _read_truth, int: _read_whole, float: _read_number}
