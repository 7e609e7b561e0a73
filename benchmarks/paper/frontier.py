"""A model on paper: how many GPUs each shared part of a job can serve, from what one unit costs it.

A card makes so many tokens a second, hence so many units. A part that a unit costs milliseconds of one core is full at
1,000 ms a second; a prefix of S3 is full at so many requests. The part that is full at the fewest cards is where it
breaks first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from pipelines.run.resolved_job import MOST_UNITS, SHARD_BYTES

# Of one core: Python runs on no more of them.
CORE_MS = 1000.0
# Requests a second of one prefix, as Amazon documents them.
S3_WRITES, S3_READS = 3500, 5500
# What a unit asks for: whether its shard is there, before it is begun and before it is put; and the put.
HEADS_A_UNIT, PUTS_A_UNIT = 2, 1
# What Ray's own release benchmarks start (`many_actors`).
RAY_ACTORS = 10_000
GPUS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """T5-XXL in bfloat16 on an H100, stored as float16."""

    tokens_per_second: float = 55_000.0
    bytes_per_token: int = 2 * 4096
    tokens_per_caption: float = 117.0

    @property
    def units_per_second(self) -> float:
        """Units of a quarter of a gigabyte."""
        return self.tokens_per_second * self.bytes_per_token / SHARD_BYTES

    @property
    def captions_per_unit(self) -> float:
        """As many as make such a unit."""
        return SHARD_BYTES / (self.tokens_per_caption * self.bytes_per_token)


def find_limits(card: Card, driver: Mapping[str, float], ledger: Mapping[str, float]) -> list[dict[str, Any]]:
    """Each part: what it has a second, what a unit takes of it, and for how many cards that is enough."""
    parts = [
        ("driver, ms of a core", CORE_MS * (1 - driver["idle"]), driver["ms_per_unit"]),
        ("ledger, ms of a core", CORE_MS, ledger["ms_per_unit"]),
        ("S3, writes to one prefix", S3_WRITES, PUTS_A_UNIT),
        ("S3, HEADs of one prefix", S3_READS, HEADS_A_UNIT),
        ("Ray, actors that its release benchmarks start", RAY_ACTORS, 1 / card.units_per_second),
    ]
    limits = [
        {"part": part, "has": has, "takes": takes, "cards": has / (takes * card.units_per_second)}
        for part, has, takes in parts
    ]
    return sorted(limits, key=lambda limit: float(limit["cards"]))


def describe_limits(card: Card, limits: Sequence[Mapping[str, Any]]) -> Table:
    """A row for each part, the first to break on top, and what a thousand cards make."""
    table = Table(title="on paper: T5-XXL on H100s, where it breaks first", title_justify="left")
    table.add_column("part")
    for name in ("has a second", "a unit takes", f"used by {GPUS:,} cards", "enough for cards"):
        table.add_column(name, justify="right")
    for limit in limits:
        used = GPUS / limit["cards"]
        table.add_row(
            limit["part"], f"{limit['has']:,.0f}", f"{limit['takes']:.2f}", f"{used:.0%}", f"{limit['cards']:,.0f}"
        )
    units = GPUS * card.units_per_second
    table.caption = (
        f"{GPUS:,} cards: {units * card.captions_per_unit:,.0f} captions/s, {units:,.0f} units/s, "
        f"{units / MOST_UNITS:,.0f} spans/s, {units * SHARD_BYTES / 1e9:,.0f} GB/s to the store"
    )
    return table
