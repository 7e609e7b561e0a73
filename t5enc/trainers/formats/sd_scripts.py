"""sd-scripts, Flux and SD3: `<image>_flux_te.npz` and `<image>_sd3_te.npz`, T5's rows padded, and CLIP's beside them.

CLIP's numbers are those of files that the trainer wrote before; for Flux also of a column, or of CLIP-L.
L tokens of a caption, S padded length, M model dim.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from t5enc.errors import ConfigError
from t5enc.recipes.families import FLUX, RECIPES
from t5enc.recipes.recipe import Recipe
from t5enc.trainers.acceptance import check_text
from t5enc.trainers.contents.clip import CLIP_L, SD3_ARRAYS, SD3_FLAG, encode_pooled, read_column, read_npz
from t5enc.trainers.contents.npz import Array, make_npz, measure_npz
from t5enc.trainers.contents.padded_mask import count_real_tokens
from t5enc.trainers.format import Caption, Given, Pieces
from t5enc.trainers.tensors import find_dtype, narrow, pad_bytes

DTYPES = ("float32", "float16")


@dataclass(frozen=True, slots=True, kw_only=True)
class Flux:
    """Options.

    `clip_from`: a folder with `_flux_te.npz` files of the trainer's own, whose `l_pooled` is taken; or `clip_column`: a
    column with those 768 numbers; or `clip`: CLIP-L, a folder or a hub id, in float32. `max_length`: the trainer's
    --t5xxl_max_token_length. `apply_mask`: its --apply_t5_attn_mask, under which T5 does not attend to pads. `dtype`:
    the trainer writes float32, and reads float16 of half the size. `tokenizer`: a model or folder by whose tokenizer a
    caption's mask is found.
    """

    clip_from: str = ""
    clip_column: str = ""
    clip: str = ""
    max_length: int = 512
    apply_mask: bool = False
    dtype: str = "float32"
    tokenizer: str = ""

    name: ClassVar[str] = "sd-scripts-flux"
    needs_path: ClassVar[bool] = True
    suffix: ClassVar[str] = "_flux_te.npz"

    def __post_init__(self) -> None:
        find_dtype(self.dtype, DTYPES)
        if sum(map(bool, (self.clip_from, self.clip_column, self.clip))) != 1:
            raise ConfigError(f"{self.name}: expected CLIP's vectors from one of clip_from, clip_column and clip")

    @property
    def more_columns(self) -> tuple[str, ...]:
        """That of CLIP's vectors."""
        return (self.clip_column,) if self.clip_column else ()

    @property
    def recipes(self) -> tuple[Recipe, ...]:
        """Flux's, or with a mask the same where T5 does not attend to pads."""
        return list_recipes(FLUX, self.max_length, applies_mask=self.apply_mask)

    def check_caption(self, caption: Caption, given: Given) -> str | None:
        """Captions are tokenized as they stand."""
        return check_text(caption.text, caption, given)

    def make_extras(self, given: Given) -> Iterable[tuple[str, Pieces]]:
        """None: the trainer refuses to drop captions that are cached."""
        return ()

    def name_file(self, caption: Caption) -> str:
        """`a/b.png` has `a/b_flux_te.npz`, beside it."""
        return name_beside(caption.path, self.suffix)

    def make_file(self, caption: Caption, values: Tensor, given: Given) -> Pieces:
        """The five arrays of the trainer."""
        dtype = find_dtype(self.dtype, DTYPES)
        if self.clip_column:
            pooled, mask = read_column(caption.columns[self.clip_column], self.clip_column, caption.row), None
        elif self.clip:
            pooled, mask = encode_pooled(self.clip, caption.text), None
        else:
            found = read_npz(self.clip_from, self.name_file(caption), {"l_pooled": CLIP_L})
            pooled, mask = found["l_pooled"], found.get("t5_attn_mask")
        real = count_real_tokens(caption, given, self.tokenizer, mask)
        arrays = {
            "l_pooled": Array.of(pooled),
            "t5_out": make_padded(narrow(values, dtype, f"row {caption.row}"), self.max_length),
            "txt_ids": Array.of(torch.zeros(self.max_length, 3)),
            "t5_attn_mask": Array.of(make_mask(real, self.max_length)),
            "apply_t5_attn_mask": Array.of(torch.tensor(self.apply_mask)),
        }
        return make_npz(arrays)

    def measure_file(self, caption: Caption, given: Given) -> int | None:
        """The same for all captions."""
        length, dtype = self.max_length, find_dtype(self.dtype, DTYPES)
        return measure_npz(
            {
                "l_pooled": (torch.float32, CLIP_L),
                "t5_out": (dtype, (length, given.dim)),
                "txt_ids": (torch.float32, (length, 3)),
                "t5_attn_mask": (torch.int64, (length,)),
                "apply_t5_attn_mask": (torch.bool, ()),
            }
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SD3:
    """Options: as Flux's; `clip_from` is a folder with `_sd3_te.npz` files, of which all but T5's part is taken."""

    clip_from: str = ""
    max_length: int = 256
    apply_mask: bool = False
    dtype: str = "float32"
    tokenizer: str = ""

    name: ClassVar[str] = "sd-scripts-sd3"
    needs_path: ClassVar[bool] = True
    more_columns: ClassVar[tuple[str, ...]] = ()
    suffix: ClassVar[str] = "_sd3_te.npz"

    def __post_init__(self) -> None:
        find_dtype(self.dtype, DTYPES)
        if not self.clip_from:
            raise ConfigError(
                f"{self.name}: expected CLIP's vectors from clip_from, a folder with files *{self.suffix}"
            )

    @property
    def recipes(self) -> tuple[Recipe, ...]:
        """SD3's, or with a mask the same where T5 does not attend to pads."""
        return list_recipes(RECIPES["stable_diffusion_3"], self.max_length, applies_mask=self.apply_mask)

    def check_caption(self, caption: Caption, given: Given) -> str | None:
        """Captions are tokenized as they stand."""
        return check_text(caption.text, caption, given)

    def make_extras(self, given: Given) -> Iterable[tuple[str, Pieces]]:
        """None: the trainer puts zeros for captions that it drops."""
        return ()

    def name_file(self, caption: Caption) -> str:
        """`a/b.png` has `a/b_sd3_te.npz`, beside it."""
        return name_beside(caption.path, self.suffix)

    def make_file(self, caption: Caption, values: Tensor, given: Given) -> Pieces:
        """The eight arrays of the trainer."""
        dtype = find_dtype(self.dtype, DTYPES)
        found = read_npz(self.clip_from, self.name_file(caption), {**SD3_ARRAYS, **SD3_FLAG})
        real = count_real_tokens(caption, given, self.tokenizer, found.get("t5_attn_mask"))
        clip = {name: Array.of(found[name]) for name in SD3_ARRAYS}
        arrays = {
            "lg_out": clip["lg_out"],
            "lg_pooled": clip["lg_pooled"],
            "t5_out": make_padded(narrow(values, dtype, f"row {caption.row}"), self.max_length),
            "clip_l_attn_mask": clip["clip_l_attn_mask"],
            "clip_g_attn_mask": clip["clip_g_attn_mask"],
            "t5_attn_mask": Array.of(make_mask(real, self.max_length)),
            "apply_lg_attn_mask": Array.of(found["apply_lg_attn_mask"]),
            "apply_t5_attn_mask": Array.of(torch.tensor(self.apply_mask)),
        }
        return make_npz(arrays)

    def measure_file(self, caption: Caption, given: Given) -> int | None:
        """Unknown: CLIP's part has the dtypes of the file that it is taken from."""
        return None


def list_recipes(recipe: Recipe, length: int, *, applies_mask: bool) -> tuple[Recipe, ...]:
    """Without a mask pads are tokens like others; with one their rows are computed unseen, or left out as zeros."""
    if not applies_mask:
        return (replace(recipe, max_length=length, longest=None),)
    masked = replace(
        recipe, name=f"{recipe.name} with attends_pads: false", max_length=length, longest=None, attends_pads=False
    )
    return replace(masked, rows="all"), replace(masked, rows="real")


def name_beside(path: str, suffix: str) -> str:
    """The path of an image without its extension, and the suffix."""
    return posixpath.splitext(path)[0] + suffix


def make_padded(values: Tensor, length: int) -> Array:
    """Rows (L, M) as (S, M), zeros after them."""
    return Array(dtype=values.dtype, shape=(length, values.shape[1]), pieces=pad_bytes(values, length))


def make_mask(real: int, length: int) -> Tensor:
    """(S,) int64, ones for so many tokens."""
    return (torch.arange(length) < real).long()
