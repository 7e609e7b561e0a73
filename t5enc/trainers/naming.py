"""Which row writes which file: names of all rows, before any is written, and what is there already.

N rows of an output.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from t5enc.errors import OutputError
from t5enc.trainers.files import check_name
from t5enc.trainers.format import Caption, CaptionFormat, Given
from t5enc.trainers.rows import Columns, Shard, read_captions
from t5enc.trainers.target import Target

SHOWN = 3
NAME_BYTES, TEXT_BYTES = 16, 8


@dataclass(slots=True, kw_only=True)
class Plan:
    """What an export has to do: of each shard the rows (N,) that write a file, and what becomes of the others."""

    shards: list[tuple[Shard, NDArray[np.bool_]]] = field(default_factory=list)
    without: Counter[str] = field(default_factory=Counter)
    whole: int = 0
    shared: int = 0

    @property
    def count(self) -> int:
        """Files to be written."""
        return sum(int(todo.sum()) for _, todo in self.shards)


@dataclass(slots=True)
class _Refusals:
    """What is wrong with rows: how many, and the first of them in words."""

    what: str
    count: int = 0
    shown: list[str] = field(default_factory=list)

    def add(self, words: str) -> None:
        self.count += 1
        if self.count <= SHOWN:
            self.shown.append(words)

    def check(self, where: object) -> None:
        if self.count:
            raise OutputError(f"{where}: {self.what}, got {self.count:,} others: {'; '.join(self.shown)}")


def make_plan(
    shards: Iterable[Shard],
    columns: Columns,
    format_: CaptionFormat,
    given: Given,
    target: Target,
    tell: Callable[[int], None] = lambda _: None,
) -> Plan:
    """Name all rows. OutputError, before anything is written, for names that two captions share, that no disk takes
    or that somebody else's file has, and for captions that the trainer would encode as another text.
    """
    plan, digests, places = Plan(), [], []
    names = _Refusals("expected names that files can have")
    texts = _Refusals("expected captions that the trainer encodes as they are stored")
    foreign = _Refusals("expected no file, or one of this export (--overwrite replaces what is there)")
    for shard in shards:
        todo = np.zeros(shard.num_rows, dtype=bool)
        for place, caption in enumerate(read_captions(shard, columns)):
            if isinstance(caption, str):
                plan.without[caption] += 1
                continue
            name = format_.name_file(caption)
            if (wrong := check_name(name)) is not None:
                names.add(f"row {caption.row}, {name!r}: {wrong}")
                continue
            if (reason := format_.check_caption(caption, given)) is not None:
                texts.add(f"row {caption.row}, {caption.text[:80]!r}: {reason}")
            digests.append(_digest(name, caption.text))
            places.append((shard.index, place))
            state = target.look(name, format_.measure_file(caption, given))
            if state == "foreign" and not target.overwrite:
                foreign.add(name)
            todo[place] = state != "whole"
        plan.shards.append((shard, todo))
        tell(shard.num_rows)
    for refusals in (names, texts):
        refusals.check(given.root)
    _share(plan, digests, places, columns, format_, given)
    foreign.check(target.folder)
    return plan


def _digest(name: str, text: str) -> bytes:
    """Of a name, and of the caption that its file is of."""
    parts = (name, NAME_BYTES), (text, TEXT_BYTES)
    return b"".join(blake2b(part.encode(), digest_size=size).digest() for part, size in parts)


def _share(
    plan: Plan,
    digests: Sequence[bytes],
    places: Sequence[tuple[int, int]],
    columns: Columns,
    format_: CaptionFormat,
    given: Given,
) -> None:
    """Of rows with one name, the first writes the file; OutputError where their captions differ."""
    first: dict[bytes, int] = {}
    clashes = _Refusals("expected one caption a file")
    for number, digest in enumerate(digests):
        earlier = first.setdefault(digest[:NAME_BYTES], number)
        shard, place = places[number]
        if earlier != number and digests[earlier] != digest:
            clashes.add(_describe_clash(plan, places[earlier], places[number], columns, format_))
        elif earlier != number:
            plan.shared += 1
        elif not plan.shards[shard][1][place]:
            plan.whole += 1
        if earlier != number:
            plan.shards[shard][1][place] = False
    clashes.check(given.root)


def _describe_clash(
    plan: Plan, one: tuple[int, int], other: tuple[int, int], columns: Columns, format_: CaptionFormat
) -> str:
    found = [read_captions(plan.shards[shard][0], columns)[place] for shard, place in (one, other)]
    rows = [caption for caption in found if isinstance(caption, Caption)]
    words = " and ".join(f"row {caption.row} ({caption.text[:60]!r})" for caption in rows)
    return f"{format_.name_file(rows[0])!r} of {words}"
