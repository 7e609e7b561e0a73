"""One vector a text: the mean of its tokens' embeddings, of unit length unless told otherwise (Sentence-T5).

N texts, M model dim.
"""

from __future__ import annotations

import torch
from torch import Tensor

from serve_app.api.encoding import Encoded
from serve_app.served.refusals import refuse_value
from serve_app.served.service import ModelService


def pool_texts(service: ModelService, encoded: Encoded, *, normalize: bool = True) -> Tensor:
    """(N, M) float32."""
    return torch.stack([service.pool(text, normalize=normalize) for text in encoded.hidden])


def check_dimensions(asked: int | None, service: ModelService) -> None:
    """RefusedError for vectors of another width than the model's: T5 was not trained to have them cut."""
    if asked not in (None, service.dim):
        message = f"expected none or the model's {service.dim}, got {asked}; its vectors cannot be shortened"
        raise refuse_value("dimensions", message, code="unsupported_value")
