"""A sampler's state: where the world stands in an epoch, under 200 bytes, refused by name where it does not fit."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from t5enc.dataset.sampling.batches import Place
from t5enc.errors import ConfigError

STATE_FORMAT = 1
# Letters of an option's digest.
DIGITS = 4
NUMBERS = ("format", "seed", "epoch", "window", "batches", "rows")


def write_state(seed: int, epoch: int, place: Place, rows: int, options: Mapping[str, Any]) -> dict[str, Any]:
    """What JSON holds of a place; the options are told from others by four letters each."""
    return {
        "format": STATE_FORMAT,
        "seed": seed,
        "epoch": epoch,
        "window": place.window,
        "batches": place.batches,
        "rows": rows,
        "options": "".join(digest(value) for value in options.values()),
    }


def read_state(state: Mapping[str, Any], seed: int, rows: int, options: Mapping[str, Any]) -> tuple[int, Place]:
    """The epoch and place of a state; ConfigError for one of another format, seed, data set or of other options."""
    for name in NUMBERS:
        if not isinstance(state.get(name), int) or state[name] < 0:
            raise ConfigError(f"state of a sampler: expected a whole number as {name}, got {state.get(name)!r}")
    for name, expected in (("format", STATE_FORMAT), ("seed", seed), ("rows", rows)):
        if state[name] != expected:
            raise ConfigError(f"state of a sampler: expected {name} {expected}, got {state[name]}")
    _check_options(str(state.get("options")), options)
    return state["epoch"], Place(state["window"], state["batches"])


def _check_options(digests: str, options: Mapping[str, Any]) -> None:
    expected = "".join(digest(value) for value in options.values())
    if len(digests) != len(expected):
        raise ConfigError(f"state of a sampler: expected options {expected}, got {digests}")
    starts = range(0, len(expected), DIGITS)
    other = [
        f"{name}={value!r}"
        for (name, value), start in zip(options.items(), starts, strict=True)
        if expected[start : start + DIGITS] != digests[start : start + DIGITS]
    ]
    if other:
        raise ConfigError(f"state of a sampler: expected one made with {', '.join(other)}, got one made with another")


def digest(value: Any) -> str:
    """Four letters of an option's value, which JSON can hold."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:DIGITS]
