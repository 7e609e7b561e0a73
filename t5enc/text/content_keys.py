"""Content keys: 16 bytes that are equal where embeddings are of the same computation, wherever their captions stand.

The computation is what all captions of a job have in common: the weights, the projection of a recipe that has one, and
the dtype of the products. A caption's key is a hash of that and of its prompt: each document's ids, how many of them
are attended to, which rows are kept, and what is done to them. How numbers are stored has no bearing on it, nor has
which of several kernels computed them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from t5enc.text.prompts import Document, Prompt

KEY_BYTES = 16
# Grows when what is computed of the same weights and ids changes.
VERSION = 1


def hash_computation(*, weights: str, dtype: str, projection: str | None = None) -> bytes:
    """32 bytes of the fingerprints of weights and projection, and of the compute dtype."""
    parts = {"version": VERSION, "weights": weights, "dtype": dtype, "projection": projection}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).digest()


def hash_prompt(computation: bytes, prompt: Prompt) -> bytes:
    """The key of a caption under a computation."""
    digest = hashlib.sha256(computation)
    for document in prompt.documents:
        digest.update(_describe(document))
    return digest.digest()[:KEY_BYTES]


def _describe(document: Document) -> bytes:
    """Where each part begins is told by those before it, so that no two documents are described alike."""
    numbers = np.array([document.kept, document.keys, len(document.finish), len(document.ids)], "<i4")
    return numbers.tobytes() + document.finish.encode() + document.ids.astype("<i4", copy=False).tobytes()


def hash_prompts(computation: bytes, prompts: Sequence[Prompt | None]) -> NDArray[np.uint8]:
    """(N, 16) keys of N captions, zeros for those without a prompt."""
    nothing = bytes(KEY_BYTES)
    keys = [nothing if prompt is None else hash_prompt(computation, prompt) for prompt in prompts]
    return np.frombuffer(b"".join(keys), np.uint8).reshape(-1, KEY_BYTES)


def split_keys(keys: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """(2, N) first and second halves of (N, 16) keys, as numbers: these are sorted and compared faster than bytes."""
    return np.ascontiguousarray(np.ascontiguousarray(keys).view("<u8").reshape(-1, 2).T, np.uint64)
