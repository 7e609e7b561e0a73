"""A batch encoded so that one text's fault is no other's, and whether the model is to blame. On the model's thread.

M model dim.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from t5enc.text.prompts import Prompt
from t5enc.text_encoder import TextEncoder

# What became of a text: (rows, M), the reason why it has no embedding, or what the model raised.
TextResult = Tensor | str | Exception
# The end token alone, which is the empty text: as little as a model can be asked for.
CANARY = Prompt.of(np.array([1], np.int32))


def encode_isolating_faults(encoder: TextEncoder, prompts: Sequence[Prompt]) -> list[TextResult]:
    """One result a text, on the CPU; embeddings are views of one tensor.

    Where the model raises, each half is tried again, down to single texts: only those at fault fail.
    """
    try:
        encoded = encoder.encode_ragged(prompts, device="cpu")
        return [encoded.failed.get(index, hidden) for index, hidden in enumerate(encoded.embeddings)]
    except Exception as error:  # those who wait raise it
        if len(prompts) == 1:
            return [error]
    half = len(prompts) // 2
    return encode_isolating_faults(encoder, prompts[:half]) + encode_isolating_faults(encoder, prompts[half:])


def is_model_at_fault(encoder: TextEncoder, results: Sequence[TextResult]) -> bool:
    """Whether a batch shows that the model is at fault: no text of it has an embedding, nor has the canary.

    Without the canary whoever sends one bad text again and again would have the model replaced.
    """
    if any(isinstance(result, Tensor) for result in results):
        return False
    return not isinstance(encode_isolating_faults(encoder, [CANARY])[0], Tensor)
