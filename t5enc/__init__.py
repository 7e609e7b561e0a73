"""t5enc: text encoding with T5-family models, packed, exact and fast.

Names load on first use: importing torch and transformers takes seconds, and `t5enc --help` should not.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from t5enc.actor import EncoderActor
    from t5enc.checkpoint.opening import open_pooler
    from t5enc.dataset.dataset import EmbeddingDataset
    from t5enc.dataset.loader import EmbeddingLoader
    from t5enc.dataset.sampler import EmbeddingSampler
    from t5enc.embeddings import Embeddings
    from t5enc.hf import AutoT5EncoderModel, MT5EncoderModel, T5EncoderModel, UMT5EncoderModel
    from t5enc.options import EncoderOptions
    from t5enc.output import iter_embeddings, load_embeddings
    from t5enc.text_encoder import TextEncoder

__all__ = [
    "AutoT5EncoderModel",
    "EmbeddingDataset",
    "EmbeddingLoader",
    "EmbeddingSampler",
    "Embeddings",
    "EncoderActor",
    "EncoderOptions",
    "MT5EncoderModel",
    "T5EncoderModel",
    "TextEncoder",
    "UMT5EncoderModel",
    "iter_embeddings",
    "load_embeddings",
    "open_pooler",
]

_HOMES = {
    "AutoT5EncoderModel": "t5enc.hf",
    "MT5EncoderModel": "t5enc.hf",
    "T5EncoderModel": "t5enc.hf",
    "UMT5EncoderModel": "t5enc.hf",
    "EmbeddingLoader": "t5enc.dataset.loader",
    "EmbeddingSampler": "t5enc.dataset.sampler",
    "EmbeddingDataset": "t5enc.dataset.dataset",
    "Embeddings": "t5enc.embeddings",
    "EncoderActor": "t5enc.actor",
    "EncoderOptions": "t5enc.options",
    "TextEncoder": "t5enc.text_encoder",
    "iter_embeddings": "t5enc.output",
    "load_embeddings": "t5enc.output",
    "open_pooler": "t5enc.checkpoint.opening",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 't5enc' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
