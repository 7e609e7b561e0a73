"""Which row writes which file: names of all rows, before any is written, and what is there already.

N rows of an output.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable
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
OWN_OR_NONE = "expected no file, or one of this export (--overwrite replaces what is there)"
# What is remembered of a row that has a file: 32 bytes.
DIGEST = np.dtype([("name", "<u8", 2), ("text", "<u8"), ("row", "<i8")])


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

    def find(self, row: int) -> tuple[Shard, NDArray[np.bool_]]:
        """The shard of a row of the output."""
        return self.shards[bisect_right(self.shards, row, key=lambda pair: pair[0].first) - 1]


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


@dataclass(slots=True, kw_only=True)
class _Naming:
    """A plan while it is made, and what is wrong with the rows so far."""

    columns: Columns
    format_: CaptionFormat
    given: Given
    target: Target
    plan: Plan = field(default_factory=Plan)
    digests: bytearray = field(default_factory=bytearray)
    names: _Refusals = field(default_factory=lambda: _Refusals("expected names that files can have"))
    texts: _Refusals = field(default_factory=lambda: _Refusals("expected captions that the trainer encodes as stored"))
    foreign: _Refusals = field(default_factory=lambda: _Refusals(OWN_OR_NONE))

    def take(self, shard: Shard) -> None:
        """Name the rows of a shard."""
        rows = [self._name(caption, shard.mark) for caption in read_captions(shard, self.columns)]
        self.plan.shards.append((shard, np.array(rows, dtype=bool)))

    def _name(self, caption: Caption | str, part: str) -> bool:
        """Whether a row's file is to be written."""
        if isinstance(caption, str):
            self.plan.without[caption] += 1
            return False
        if self.format_.needs_path and not caption.path.rpartition("/")[2]:
            self.names.add(f"row {caption.row}, {caption.path!r}: it names no image or video")
            return False
        name = self.format_.name_file(caption)
        if name is None:
            self.plan.without[f"{self.format_.name} keeps none of it"] += 1
            return False
        if (wrong := check_name(name)) is not None:
            self.names.add(f"row {caption.row}, {name!r}: {wrong}")
            return False
        if (reason := self.format_.check_caption(caption, self.given)) is not None:
            self.texts.add(f"row {caption.row}, {caption.text[:80]!r}: {reason}")
        self.digests += _digest(self.target.find_key(name), caption.text, caption.row)
        state = self.target.look(name, self.format_.measure_file(caption, self.given), part)
        if state == "foreign" and not self.target.overwrite:
            self.foreign.add(name)
        return state != "whole"


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
    naming = _Naming(columns=columns, format_=format_, given=given, target=target)
    for shard in shards:
        naming.take(shard)
        tell(shard.num_rows)
    naming.names.check(given.root)
    naming.texts.check(given.root)
    _share(naming.plan, np.frombuffer(naming.digests, DIGEST), columns, format_, given)
    naming.foreign.check(target.folder)
    return naming.plan


def _digest(name: str, text: str, row: int) -> bytes:
    """One DIGEST: of a name, of the caption that its file is of, and the row's number."""
    ends = (blake2b(part.encode(), digest_size=size).digest() for part, size in ((name, 16), (text, 8)))
    return b"".join((*ends, row.to_bytes(8, "little")))


def _share(plan: Plan, digests: NDArray[np.void], columns: Columns, format_: CaptionFormat, given: Given) -> None:
    """Of rows with one name, the first writes the file; OutputError where their captions differ."""
    found = digests[np.lexsort((digests["row"], digests["name"][:, 0], digests["name"][:, 1]))]
    is_later = np.zeros(len(found), dtype=bool)
    is_later[1:] = (found["name"][1:] == found["name"][:-1]).all(axis=1)
    starts = np.maximum.accumulate(np.where(is_later, 0, np.arange(len(found))))
    differs = found["text"] != found["text"][starts]
    clashes = _Refusals("expected one caption a file")
    for place in np.flatnonzero(differs):
        pair = found["row"][starts[place]], found["row"][place]
        clashes.add(_describe_clash(plan, pair, columns, format_) if clashes.count < SHOWN else "")
    clashes.check(given.root)
    for row in found["row"][is_later]:
        shard, todo = plan.find(row)
        todo[row - shard.first] = False
    plan.shared = int(is_later.sum())
    plan.whole = len(found) - plan.shared - plan.count


def _describe_clash(plan: Plan, rows: tuple[int, int], columns: Columns, format_: CaptionFormat) -> str:
    found = [_read_caption(plan, row, columns) for row in rows]
    words = " and ".join(f"row {caption.row} ({caption.text[:60]!r})" for caption in found)
    return f"{format_.name_file(found[0])!r} of {words}"


def _read_caption(plan: Plan, row: int, columns: Columns) -> Caption:
    shard, _ = plan.find(row)
    found = read_captions(shard, columns)[row - shard.first]
    assert isinstance(found, Caption)
    return found
