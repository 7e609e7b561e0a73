"""ai-toolkit, Wan 2.1 and 2.2 and Chroma: `<folder>/_t_e_cache/<stem>_<hash>.safetensors` beside each image.

The hash is of the caption as the trainer has it, so that a caption that changed is encoded anew. Caption dropout has a
file an image, too, with the rows of the blank caption. The Chroma of this trainer attends to pads: its rows are those
of recipe `flux`, all 512, and its mask says which are tokens, for which the tokenizer is asked.

L tokens of a caption, M model dim.
"""

from __future__ import annotations

import base64
import hashlib
import json
import posixpath
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor

from t5enc.errors import ConfigError
from t5enc.recipes.families import FLUX, WAN
from t5enc.recipes.recipe import Recipe
from t5enc.trainers.acceptance import check_text, find_blank
from t5enc.trainers.contents.padded_mask import count_real_tokens, open_tokenizer
from t5enc.trainers.format import Caption, Given, Pieces
from t5enc.trainers.tensors import make_header, pad_bytes, view_bytes

LENGTH = 512
CHROMA = "chroma"
ARCHITECTURES = ("wan21", "wan22_14b", "wan22_5b", CHROMA)
PLACEHOLDERS = re.compile(r"\[(?:name|trigger)\]")
FOLDER = "_t_e_cache"


@dataclass(frozen=True, slots=True, kw_only=True)
class AiToolkit:
    """Options: `arch` of the model, `trigger` word, `image_root` that paths lie in, `strip_tags`, `write`, `tokenizer`.

    `strip_tags` is what releases before 2026 did between commas. `write` is captions or blanks, the files of caption
    dropout. `tokenizer` is that of the job, which Chroma's masks are counted with.
    """

    arch: str
    trigger: str = ""
    image_root: str = ""
    strip_tags: bool = False
    write: str = "captions"
    tokenizer: str = ""

    name: ClassVar[str] = "ai-toolkit"
    needs_path: ClassVar[bool] = True
    more_columns: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        if self.arch not in ARCHITECTURES:
            raise ConfigError(f"arch: expected one of {', '.join(ARCHITECTURES)}, got {self.arch!r}")
        if self.write not in ("captions", "blanks"):
            raise ConfigError(f"write: expected captions or blanks, got {self.write!r}")
        if self.write == "blanks" and (self.trigger.strip() or self.arch == CHROMA):
            raise ConfigError('write: blanks are the rows of "", which stand neither for a trigger nor for Chroma\'s')
        if self.arch == CHROMA and not self.tokenizer:
            raise ConfigError(
                "tokenizer: Chroma's masks need the job's tokenizer (--option tokenizer=FOLDER), got none"
            )

    @property
    def recipes(self) -> tuple[Recipe, ...]:
        """That of Wan, or for Chroma that of Flux: pads are attended, and all rows are kept."""
        return (FLUX,) if self.arch == CHROMA else (WAN,)

    def check_caption(self, caption: Caption, given: Given) -> str | None:
        """Commas get a space after them, and a trigger word is put in front."""
        if self.write == "blanks":
            return None
        if self.arch == CHROMA:
            open_tokenizer(self.tokenizer, given)
        return check_text(self.make_text(caption.text), caption, given)

    def make_extras(self, given: Given) -> Iterable[tuple[str, Pieces]]:
        """None: the blank caption has a file an image."""
        return ()

    def name_file(self, caption: Caption) -> str | None:
        """Beside the image, whose path is taken below `image_root`; no blank where the caption is blank itself."""
        if self.write == "blanks":
            return self._locate(caption.path, "") if self.make_text(caption.text) else None
        return self._locate(caption.path, self.make_text(caption.text))

    def _locate(self, path: str, text: str) -> str:
        if self.image_root:
            root = self.image_root.rstrip("/") + "/"
            path = path.removeprefix(root)
        folder, base = posixpath.split(posixpath.normpath(path))
        stem, _ = posixpath.splitext(base)
        return posixpath.join(folder, FOLDER, f"{stem}_{hash_caption(text, self.arch)}.safetensors")

    def make_text(self, caption: str) -> str:
        """A caption as the trainer hashes and encodes it."""
        tags = caption.split(",")
        if self.strip_tags:
            tags = [tag for tag in map(str.strip, tags) if tag]
        text = PLACEHOLDERS.sub(lambda _: self.trigger, ", ".join(tags))
        is_missing = self.trigger.strip() and self.trigger not in text
        return f"{self.trigger} {text}" if is_missing else text

    def make_file(self, caption: Caption, values: Tensor, given: Given) -> Pieces:
        """(1, 512, M) in bfloat16, zeros after the rows; Chroma's mask (1, 512) before it."""
        rows = find_blank(given) if self.write == "blanks" else values
        head = _make_head(self.arch, given.dim)
        numbers = pad_bytes(rows.to(torch.bfloat16), LENGTH)
        if self.arch != CHROMA:
            return [head, *numbers]
        mask = torch.arange(LENGTH) < count_real_tokens(caption, given, self.tokenizer, None)
        return [head, view_bytes(mask.long()), *numbers]

    def measure_file(self, caption: Caption, given: Given) -> int:
        """The same for all captions."""
        mask = LENGTH * torch.int64.itemsize if self.arch == CHROMA else 0
        return len(_make_head(self.arch, given.dim)) + mask + LENGTH * given.dim * torch.bfloat16.itemsize


def hash_caption(text: str, arch: str) -> str:
    """The end of a file's name: what the trainer's cache is looked up by."""
    facts = {"caption": text, "text_embedding_space_version": arch, "text_embedding_version": 1}
    digest = hashlib.md5(json.dumps(facts, sort_keys=True).encode(), usedforsecurity=False).digest()
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")


@lru_cache(maxsize=8)
def _make_head(arch: str, dim: int) -> bytes:
    embeds = ("text_embed", torch.bfloat16, (1, LENGTH, dim))
    mask = ("attention_mask", torch.int64, (1, LENGTH))
    return make_header([mask, embeds] if arch == CHROMA else [embeds])
