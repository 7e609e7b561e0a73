"""SimpleTuner: `<md5 of the caption>-<family>.pt`, padded tensors in one torch.save each, and one more for "".

Rows that no transformer reads are zeros, as this trainer writes them with `t5_padding: zero`; without, it writes what
its encoder made of pads. The files are those of `torch.save` to a stream, whatever they are called.

L tokens of a caption, S the family's length, M model dim.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor

from t5enc.errors import ConfigError
from t5enc.recipes.families import LTX, RECIPES, WAN
from t5enc.recipes.recipe import Recipe
from t5enc.trainers.acceptance import check_text, find_blank
from t5enc.trainers.contents.torch_file import Numbers, TorchFile, open_layout, save
from t5enc.trainers.format import Caption, Given, Pieces
from t5enc.trainers.tensors import pad_bytes, pad_rows, view_bytes, view_zeros

DIFFUSERS = "diffusers"


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """What the trainer keeps of a caption: key and dtype of its mask ("": none), and whether that has a batch."""

    recipe: Recipe
    mask: str = ""
    mask_dtype: torch.dtype = torch.int64
    mask_has_batch: bool = True
    lengths: tuple[int, ...] = ()

    def make_mask(self, count: int, length: int) -> Tensor:
        """(S,) ones for so many tokens."""
        return (torch.arange(length) < count).to(self.mask_dtype)


FAMILIES: Mapping[str, Family] = {
    "wan": Family(recipe=WAN),
    "pixart_sigma": Family(recipe=RECIPES["pixart_sigma"], mask="attention_mask", mask_has_batch=False),
    "chroma": Family(recipe=RECIPES["chroma"], mask="attention_masks", mask_dtype=torch.bool),
    "ltxvideo": Family(recipe=LTX, mask="attention_masks", mask_dtype=torch.bool),
    "auraflow": Family(recipe=RECIPES["aura_flow"], mask="prompt_attention_mask", lengths=(120, 768)),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SimpleTuner:
    """Options: `family` as the trainer calls it, `compress` (gzip), `negative` and `text_path`.

    `negative` writes Wan's second tensor, too, the rows of "" in each file, which the trainer never reads. `text_path`
    must be diffusers for Chroma: this trainer's own T5 attends to one pad, which no recipe computes.
    """

    family: str
    compress: bool = False
    negative: bool = False
    text_path: str = "own"

    name: ClassVar[str] = "simpletuner"
    needs_path: ClassVar[bool] = False
    more_columns: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise ConfigError(f"family: expected one of {', '.join(FAMILIES)}, got {self.family!r}")
        if self.negative and self.family != "wan":
            raise ConfigError(f"negative: expected the family wan, got {self.family}")
        if self.family == "chroma" and self.text_path != DIFFUSERS:
            raise ConfigError(
                "text_path: SimpleTuner's T5 attends to the first pad of Chroma's captions, and diffusers' does not; "
                f"expected --option text_path={DIFFUSERS}, which exports diffusers' rows, got {self.text_path!r}"
            )

    @property
    def recipes(self) -> tuple[Recipe, ...]:
        """The family's, at the lengths that the trainer takes."""
        family = FAMILIES[self.family]
        lengths = family.lengths or (family.recipe.max_length,)
        return tuple(replace(family.recipe, max_length=length) for length in lengths)

    def check_caption(self, caption: Caption, given: Given) -> str | None:
        """The trainer encodes the caption that it hashes."""
        return check_text(caption.text, caption, given)

    def make_extras(self, given: Given) -> Iterable[tuple[str, Pieces]]:
        """The file of the dropped caption, "", where the job has its rows."""
        if given.null is None or given.recipe.null_text != "":
            return ()
        return ((self._name(""), self._save(given.null, given)),)

    def name_file(self, caption: Caption) -> str:
        """By the caption alone: rows with one caption share a file."""
        return self._name(caption.text)

    def make_file(self, caption: Caption, values: Tensor, given: Given) -> Pieces:
        """A dict of tensors, the embeddings (1, S, M) in bfloat16."""
        return self._save(values, given)

    def measure_file(self, caption: Caption, given: Given) -> int | None:
        """The same for all captions, but compressed."""
        return None if self.compress else _measure(self, given.dim, given.recipe.max_length)

    def _name(self, text: str) -> str:
        return f"{hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()}-{self.family}.pt"

    def _save(self, values: Tensor, given: Given) -> Pieces:
        layout = _open_layout(self.family, self.negative, given.dim, given.recipe.max_length)
        if layout is None:
            pieces: Pieces = [save(self.make_tensors(values, given))]
        else:
            pieces = layout.fill(list(self._list_numbers(values, given)))
        return [gzip.compress(b"".join(pieces), mtime=0)] if self.compress else pieces

    def _list_numbers(self, values: Tensor, given: Given) -> Iterator[Numbers]:
        """The bytes of `make_tensors`, in order."""
        family, length = FAMILIES[self.family], given.recipe.max_length
        yield Numbers(*pad_bytes(values.to(torch.bfloat16), length))
        if family.mask:
            mask = family.make_mask(len(values), length)
            yield Numbers(view_bytes(mask), view_zeros(0))
        if self.negative:
            yield Numbers(*pad_bytes(find_blank(given).to(torch.bfloat16), length))

    def make_tensors(self, values: Tensor, given: Given) -> dict[str, Tensor]:
        """What is in the file of a caption with these rows (L, M)."""
        family, length = FAMILIES[self.family], given.recipe.max_length
        tensors = {"prompt_embeds": _pad(values, length)}
        if family.mask:
            mask = family.make_mask(len(values), length)
            tensors[family.mask] = mask[None] if family.mask_has_batch else mask
        if self.negative:
            tensors["attention_masks"] = _pad(find_blank(given), length)
        return tensors


def _pad(values: Tensor, length: int) -> Tensor:
    """(1, S, M) in bfloat16."""
    return pad_rows(values.to(torch.bfloat16), length)[None]


@lru_cache(maxsize=8)
def _open_layout(family: str, negative: bool, dim: int, length: int) -> TorchFile | None:
    made = SimpleTuner(family=family, negative=negative, text_path=DIFFUSERS)
    return open_layout(made.make_tensors(torch.zeros(1, dim), _make_given(family, dim, length)))


@lru_cache(maxsize=8)
def _measure(format_: SimpleTuner, dim: int, length: int) -> int:
    """Bytes of a file: sizes of tensors depend on no caption."""
    pieces = format_._save(torch.zeros(1, dim), _make_given(format_.family, dim, length))
    return sum(len(piece) for piece in pieces)


def _make_given(family: str, dim: int, length: int) -> Given:
    """An output of that form, which is not there."""
    return Given(
        root="",
        fingerprint="",
        recipe=replace(FAMILIES[family].recipe, max_length=length),
        dim=dim,
        storage="bfloat16",
        compute="bfloat16",
        null=torch.zeros(1, dim),
    )
