"""ai-toolkit's cache of Wan: padded rows beside images, whose captions lie in text files and are known by a hash.

L tokens of a caption, M model dim.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import ClassVar

from torch import Tensor

from pipelines.imports.cache import Entry, Found, cut_zeros, list_files
from pipelines.imports.musubi import read_tensor
from t5enc.recipes.families import WAN
from t5enc.recipes.recipe import Recipe
from t5enc.trainers.formats.ai_toolkit import FOLDER, AiToolkit, hash_caption

SUFFIX = ".safetensors"
# Characters of the hash in a name, after which its `_` stands.
HASH = 22


class AiToolkitCache:
    """What ai-toolkit writes for Wan below the folder of the images, `arch` and `trigger` as it was told."""

    name: ClassVar[str] = "ai-toolkit"
    recipe: ClassVar[Recipe] = WAN

    def __init__(self, arch: str = "wan21", trigger: str = "", strip_tags: bool = False, ending: str = ".txt") -> None:
        self.trainer = AiToolkit(arch=arch, trigger=trigger, strip_tags=strip_tags)
        self.ending = ending

    def find(self, folder: Path) -> Found:
        """The files whose hash is that of the caption beside the image, or of no caption."""
        found = Found()
        for file in list_files(folder, SUFFIX):
            where, _, name = file.rpartition("/")
            if where.rpartition("/")[2] != FOLDER:
                continue
            stem, mark = name[: -len(SUFFIX) - HASH - 1], name[-len(SUFFIX) - HASH : -len(SUFFIX)]
            text = self._find_text(folder / where, stem, mark)
            if text is None:
                found.left_out[f"not of the caption in the {self.ending} beside its image"] += 1
            else:
                found.entries.append(Entry(file=file, text=text, stem=stem))
        return found

    def read(self, path: Path, place: int = 0) -> Tensor:
        """(1, 512, M) without its pads."""
        return cut_zeros(read_tensor(path, "text_embed")[0])

    def _find_text(self, cache: Path, stem: str, mark: str) -> str | None:
        """The caption, as it was encoded, that has this hash."""
        caption = cache.parent / f"{stem}{self.ending}"
        texts = [""]
        with contextlib.suppress(FileNotFoundError, IsADirectoryError, UnicodeDecodeError):
            found = caption.read_text(encoding="utf-8")
            texts += [self.trainer.make_text(text) for text in (found.strip(), found)]
        return next((text for text in texts if hash_caption(text, self.trainer.arch) == mark), None)
