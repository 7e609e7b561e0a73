"""What is counted of a unit: what its shard holds, and the work that it took. Both add up with `+`.

A new count is one more field of `Counts` and nothing else but what fills it in: records, manifest, progress, report
and, where the field names one, metrics have it from here.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar


@dataclass(frozen=True, slots=True)
class Metric:
    """What Prometheus calls the sum of a count, and what that says; a `label` (name, value) parts it from others."""

    name: str
    text: str
    label: tuple[str, str] | None = None


def count(name: str = "", text: str = "", *, label: tuple[str, str] | None = None, is_maximum: bool = False) -> Any:
    """A field of what is counted; without a name it is left out of the metrics."""
    metric = Metric(name, text, label) if name else None
    return field(default=0, metadata={"metric": metric, "is_maximum": is_maximum})


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What the shard of a unit holds, or the shards of many. `longest` is the largest of theirs, the rest are sums."""

    input_rows: int = count("t5enc_rows", "Input rows of committed shards.")
    captions: int = count("t5enc_captions", "Captions in committed shards.")
    encoded: int = count()  # captions less errors
    errors: int = count("t5enc_errors", "Captions without an embedding.")
    died: int = count("t5enc_quarantined", "Captions that killed the encoder's process.")
    truncated: int = count("t5enc_truncated", "Captions that were cut.")
    mended: int = count("t5enc_mended", "Kept texts that were not UTF-8, with U+FFFD for the bytes in question.")
    tokens: int = count()  # Cost.useful_tokens is what was computed of them
    size: int = count("t5enc_bytes_written", "Bytes of committed shards.")
    reused: int = count("t5enc_reused", "Captions whose embeddings were copied, not computed for it.")
    reused_tokens: int = count("t5enc_reused_tokens", "Tokens that were not computed for it.")
    shared: int = count("t5enc_shared", "Captions that refer to an embedding that is stored once.")
    longest: int = count(is_maximum=True)

    @property
    def new_tokens(self) -> int:
        """Those that were not reused."""
        return self.tokens - self.reused_tokens

    def __add__(self, other: Counts) -> Counts:
        return _join(self, other)


RETRIES = "Repetitions: of requests to the store, of units."
SECONDS = "Seconds of actors by phase."


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What it took to encode a unit, or many: no record of it is kept, for another run takes as much again."""

    units: int = count("t5enc_shards", "Committed shards.")
    useful_tokens: int = count("t5enc_useful_tokens", "Tokens of captions that the model computed.")
    stream_tokens: int = count("t5enc_stream_tokens", "Tokens of streams that the model computed, empty places too.")
    busy_seconds: float = count()
    busy_cpu_seconds: float = count()
    waiting_seconds: float = count("t5enc_seconds", SECONDS, label=("phase", "waiting"))
    computing_seconds: float = count("t5enc_seconds", SECONDS, label=("phase", "computing"))
    writing_seconds: float = count("t5enc_seconds", SECONDS, label=("phase", "writing"))
    store_retries: int = count("t5enc_retries", RETRIES, label=("kind", "store"))
    unit_retries: int = count("t5enc_retries", RETRIES, label=("kind", "unit"))
    compiled_graphs: int = count()

    def __add__(self, other: Cost) -> Cost:
        return _join(self, other)

    def __sub__(self, earlier: Cost) -> Cost:
        return _combine(self, earlier, lambda name: operator.sub)


def names_of(counted: type[Counts] | type[Cost]) -> tuple[str, ...]:
    """What is counted, in order."""
    return tuple(entry.name for entry in fields(counted))


# Those of which a sum is not the sum of all.
MAXIMA = frozenset(entry.name for entry in fields(Counts) if entry.metadata["is_maximum"])
METRICS: dict[str, Metric] = {
    entry.name: entry.metadata["metric"]
    for counted in (Counts, Cost)
    for entry in fields(counted)
    if entry.metadata["metric"] is not None
}

Counted = TypeVar("Counted", Counts, Cost)


def _join(one: Counted, other: Counted) -> Counted:
    return _combine(one, other, lambda name: max if name in MAXIMA else operator.add)


def _combine(one: Counted, other: Counted, choose: Callable[[str], Callable[[Any, Any], Any]]) -> Counted:
    names = names_of(type(one))
    return type(one)(**{name: choose(name)(getattr(one, name), getattr(other, name)) for name in names})
