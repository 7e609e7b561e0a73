"""What a trainer's cache is to an export: names of files, their bytes, and the recipes whose rows they take.

A format is a frozen dataclass whose fields are its options (`t5enc export FORMAT ... --option NAME=VALUE`). One with a
file a caption is a `CaptionFormat`; one whose files hold the rows of a whole shard is a `ShardFormat`.

L tokens of a caption, M model dim, K rows of the null prompt.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias, runtime_checkable

from torch import Tensor

from t5enc.recipes.recipe import Recipe

# What a file is made of, end to end. Views of tensors and buffers are written as they are, without a copy.
Pieces: TypeAlias = Sequence[bytes | memoryview]


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What all rows of an output share.

    `recipe` is the one they were made by, with its length; `null` its null prompt (K, M), None where that is no text.
    `storage` is the codec's name, `compute` the dtype that the encoder ran in, `tokenizer` the tokenizer's fingerprint.
    """

    root: str
    fingerprint: str
    recipe: Recipe
    dim: int
    storage: str
    compute: str
    null: Tensor | None = None
    tokenizer: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Caption:
    """A row without its embedding.

    `row` is its number in the output, `text` the caption, `path` what the column of stems says, or "" for a format
    that asks for none; `columns` has what else the format asked for (`more_columns`). `encoded` is the text that the
    job encoded, where that is another column's than `text`.
    """

    row: int
    text: str
    path: str
    num_tokens: int
    columns: Mapping[str, Any] = field(default_factory=dict)
    encoded: str | None = None


class Format(Protocol):
    """What all formats say of themselves."""

    @property
    def name(self) -> str:
        """As the command line has it."""

    @property
    def recipes(self) -> tuple[Recipe, ...]:
        """Those whose rows the trainer's own text path makes; an output of another is refused. None: all are taken."""

    @property
    def needs_path(self) -> bool:
        """Whether files are called after the column of stems."""

    @property
    def more_columns(self) -> tuple[str, ...]:
        """Kept columns that are read beside the caption and the stem."""

    def check_caption(self, caption: Caption, given: Given) -> str | None:
        """Why the trainer would encode another text than this row's, if it would; None where it would not."""

    def make_extras(self, given: Given) -> Iterable[tuple[str, Pieces]]:
        """Files that are written once, as that of the blank caption: names and contents."""


@runtime_checkable
class CaptionFormat(Format, Protocol):
    """A cache with a file a caption. Two rows may share a file only where their captions are equal."""

    def name_file(self, caption: Caption) -> str | None:
        """The path of a caption's file below the folder that is written to, with `/`; None where it has none.

        Pure and quick: it is called for all rows before the first file is written.
        """

    def make_file(self, caption: Caption, values: Tensor, given: Given) -> Pieces:
        """The file of a caption whose rows (L, M) are given in the codec's working dtype; called in threads."""

    def measure_file(self, caption: Caption, given: Given) -> int | None:
        """Bytes of that file, by which a whole one is known; None where only its making would tell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardRows:
    """A shard of an output: its path on the output's filesystem, its number, and how many rows it holds."""

    filesystem: Any
    path: str
    index: int
    num_rows: int


@runtime_checkable
class ShardFormat(Format, Protocol):
    """A cache with a file a shard."""

    def name_shard(self, shard: ShardRows) -> str:
        """The path of a shard's file below the folder that is written to."""

    def name_row(self, caption: Caption) -> str | None:
        """What no two rows of a file may be called; None where rows have no names."""

    def is_read(self, name: str) -> bool:
        """Whether a reader of the folder that is written to takes a file below it with this path for one of these."""

    def explain_link(self, shard: ShardRows, given: Given) -> str | None:
        """Why the shard itself is not that file, so that a hard link will not do; None where it is."""

    def make_index(self, counts: Sequence[tuple[ShardRows, int]]) -> Iterable[tuple[str, Pieces]]:
        """Files about all others, of shards and how many of their captions have rows: names and contents."""

    def make_shard(self, shard: ShardRows, rows: Iterator[tuple[Caption, Tensor]], given: Given) -> Iterator[Pieces]:
        """What is written one after the other; `rows` are those with an embedding, in order."""
