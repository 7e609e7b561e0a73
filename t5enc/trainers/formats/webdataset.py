"""WebDataset: a tar a shard, with a sample a caption, and an index for wids.

A sample's key is that of a file with the name or path in the column of stems, as webdataset cuts it: all before the
first dot of its last part. So samples join those of tars that were made of the same files.

L tokens of a caption, M model dim.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from t5enc.errors import ConfigError
from t5enc.recipes.recipe import Recipe
from t5enc.storage.codecs import find_codec
from t5enc.trainers.contents.samples import DTYPES, check_member, make_sample
from t5enc.trainers.contents.tars import check_key, make_end, make_index, make_key, make_member
from t5enc.trainers.format import Caption, Given, Pieces, ShardRows
from t5enc.trainers.tensors import narrow

INDEX = "index.json"
NUMBERED = re.compile(r"[0-9]{6,}\.tar")


@dataclass(frozen=True, slots=True, kw_only=True)
class WebDataset:
    """Options.

    `member`: npy, safetensors, pickle or pth (a tensor). `dtype`: that of the numbers, as they are stored unless it is
    given. `pad_to`: rows of a sample, zeros after its own; 0 for none. `extension`: what comes after the key's dot,
    `member` unless it is given. `like`: a folder with tars, which are followed: tars of the same names, with the same
    keys in the same order; `missing`: whether a sample of theirs without a row is an error, or left out (skip).
    """

    member: str = "npy"
    dtype: str = ""
    pad_to: int = 0
    extension: str = ""
    like: str = ""
    missing: str = "error"

    name: ClassVar[str] = "webdataset"
    recipes: ClassVar[tuple[Recipe, ...]] = ()
    needs_path: ClassVar[bool] = True
    more_columns: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        check_member(self.member, self.dtype or DTYPES[0])
        if self.pad_to < 0:
            raise ConfigError(f"pad_to: expected at least 0, got {self.pad_to}")
        if self.missing not in ("error", "skip"):
            raise ConfigError(f"missing: expected error or skip, got {self.missing!r}")
        if "/" in self.suffix or not self.suffix.isprintable():
            raise ConfigError(f"extension: expected one such as t5.npy, got {self.extension!r}")

    @property
    def suffix(self) -> str:
        """What comes after the key's dot."""
        return self.extension or self.member

    def check_caption(self, caption: Caption, given: Given) -> str | None:
        """Whether its key can be one of a sample; and that it is not longer than all are to be."""
        if self.pad_to and caption.num_tokens > self.pad_to:
            return f"it has {caption.num_tokens} rows, and pad_to is {self.pad_to}"
        key = make_key(caption.path)
        wrong = check_key(key, self.suffix)
        return None if wrong is None else f"its sample cannot be called {key!r}: {wrong}"

    def make_extras(self, given: Given) -> Iterable[tuple[str, Pieces]]:
        """None; ConfigError here, before the first file, where numpy has not the dtype."""
        check_member(self.member, self.name_dtype(given))
        return ()

    def name_shard(self, shard: ShardRows) -> str:
        """Names sort as shards do."""
        return f"{shard.index:06d}.tar"

    def name_row(self, caption: Caption) -> str | None:
        """A sample's key."""
        return make_key(caption.path)

    def is_read(self, name: str) -> bool:
        """Tars that are called as ours are; beside them may be others."""
        return NUMBERED.fullmatch(name) is not None

    def explain_link(self, shard: ShardRows, given: Given) -> str | None:
        """Why a shard is no tar."""
        return "it holds tars, which no shard is"

    def make_shard(self, shard: ShardRows, rows: Iterator[tuple[Caption, Tensor]], given: Given) -> Iterator[Pieces]:
        """A sample a row."""
        dtype, size = getattr(torch, self.name_dtype(given)), 0
        for caption, values in rows:
            pieces = self.make_member(make_key(caption.path), narrow(values, dtype, f"row {caption.row}"))
            size += sum(len(piece) for piece in pieces)
            yield pieces
        yield [make_end(size)]

    def make_member(self, key: str, values: Tensor) -> Pieces:
        """A sample with this key, of rows in the dtype that they are to have."""
        return make_member(f"{key}.{self.suffix}", make_sample(self.member, values, self.pad_to))

    def make_index(self, counts: Sequence[tuple[ShardRows, int]]) -> Iterable[tuple[str, Pieces]]:
        """The tars by name, and how many samples each has."""
        yield INDEX, [make_index((self.name_shard(shard), samples) for shard, samples in counts)]

    def name_dtype(self, given: Given) -> str:
        """That of the numbers."""
        return self.dtype or find_codec(given.storage).working
