"""A pretrained encoder as it lies on a disk or on the hub: its config, its tensors, its tokenizer's files.

Nothing here knows the engine: `weights.py` says which tensors must exist.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from t5enc.checkpoint.fingerprint import hash_files, hash_model, hash_parts
from t5enc.checkpoint.foreign.lora import Adapter
from t5enc.checkpoint.foreign.sentence_transformers import SentenceModules
from t5enc.checkpoint.repository import Repository
from t5enc.config import EncoderConfig

# A folder for AutoTokenizer, a sentencepiece model, "byt5" for plain bytes, or None when nothing is there.
TokenizerSource = Path | bytes | str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A model's config, tensors (names of one layout, not yet read, `adapters` already in them) and tokenizer files.

    `hf_config` is the config.json, where there is one, `repository` the pipeline that the model is part of, if any, and
    `modules` are what sentence-transformers puts after it, if anything.
    """

    name: str
    config: EncoderConfig
    tensors: Mapping[str, Tensor]
    tokenizer_source: TokenizerSource
    provenance: Mapping[str, str]
    files: tuple[Path, ...] = ()
    hf_config: Mapping[str, Any] = field(default_factory=dict)
    repository: Repository | None = None
    modules: SentenceModules | None = None
    adapters: tuple[Adapter, ...] = ()

    def fingerprint(self, cache_folder: Path | None = None) -> str:
        """SHA-256 of config and weights by content: the same wherever the files are.

        Of files, not of numbers: what `t5enc convert` makes of a checkpoint has another fingerprint than its source,
        though it encodes the same, so a job that began with one of them is not resumed with the other.

        Hashes of files are kept in `cache_folder`/hashes.json (default ~/.cache/t5enc). A model made in
        memory has no files: its tensors are hashed.
        """
        if not self.adapters:
            return hash_model(self.config, self.files, self.tensors, cache_folder)
        base = hash_model(self.config, self.files, {} if self.files else self.tensors, cache_folder)
        added = [(adapter.scale, *hash_files(list(adapter.files), cache_folder)) for adapter in self.adapters]
        return hash_parts([base, *added])
