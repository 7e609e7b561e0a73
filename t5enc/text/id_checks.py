"""Token ids from outside: what an encoder can take, and what it is told where it cannot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from t5enc.errors import InputError
from t5enc.text.prompts import Prompt, TokenIds


def check_ids(index: int, text: Sequence[int] | TokenIds, *, longest: int, vocab_size: int) -> TokenIds:
    """One token list as an array; InputError, naming `index`, where the encoder could not take it."""
    ids = _as_array(index, text)
    if ids.ndim != 1 or not 1 <= len(ids) <= longest:
        raise InputError(f"ids[{index}]: expected 1 to {longest} token ids, got shape {ids.shape}")
    if ids.dtype.kind not in "iu":
        raise InputError(f"ids[{index}]: expected integers, got {ids.dtype}")
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= vocab_size:
        worst = low if low < 0 else high
        raise InputError(f"ids[{index}]: expected ids from 0 to {vocab_size - 1}, got {worst}")
    return ids.astype(np.int32, copy=False)


def check_prompt(index: int, prompt: Sequence[int] | TokenIds | Prompt, *, longest: int, vocab_size: int) -> Prompt:
    """A prompt, or one made of a token list, each of its documents checked by `check_ids`."""
    if not isinstance(prompt, Prompt):
        return Prompt.of(check_ids(index, prompt, longest=longest, vocab_size=vocab_size))
    for document in prompt.documents:
        check_ids(index, document.ids, longest=longest, vocab_size=vocab_size)
    return prompt


def _as_array(index: int, text: Sequence[int] | TokenIds) -> NDArray[Any]:
    try:
        return np.asarray(text)
    except ValueError as error:
        raise InputError(f"ids[{index}]: expected a flat list of token ids, got {error}") from error
