"""What tests of the running service share: what the library makes of the same texts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from torch import Tensor

from t5enc.text.prompts import TokenIds
from t5enc.text_encoder import TextEncoder

MODEL = "builtin:tiny"


@cache
def load_encoder() -> TextEncoder:
    """The library's encoder of the model that the service has, with the service's limit."""
    return TextEncoder.from_pretrained(MODEL, max_length=64)


def tokenize(texts: Sequence[str]) -> list[TokenIds]:
    """The ids that the service makes of texts."""
    return load_encoder().tokenize(texts).ids


def pool_alone(texts: Sequence[str]) -> Tensor:
    """(N, M): each text encoded by itself, its tokens' mean at unit length."""
    return load_encoder().encode(texts).pooled("mean", normalize=True)
