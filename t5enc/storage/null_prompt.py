"""`_t5enc/null.safetensors`: the null prompt of a job's recipe, stored once for all of its captions.

K rows, M model dim.
"""

from __future__ import annotations

import json
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from t5enc.errors import OutputError
from t5enc.recipes.conditioning import Conditioning
from t5enc.recipes.recipe import Recipe
from t5enc.storage.layout import NULL

VALUES = "values"


def serialize_null(conditioning: Conditioning, *, dim: int, dtype: torch.dtype, fingerprint: str) -> bytes:
    """The rows (K, M) in `dtype`, none where the null is zeros or nothing, and what they are of."""
    recipe, null = conditioning.recipe, conditioning.null
    rows = torch.empty(0, dim, dtype=dtype) if null is None else null.detach().to("cpu", dtype).contiguous()
    facts = {"recipe": recipe.name, "version": str(recipe.version), "null": recipe.null, "text": recipe.null_text}
    content: bytes = save({VALUES: rows}, metadata=facts | {"fingerprint": fingerprint})
    return content


def read_fingerprint(data: bytes) -> str | None:
    """The job that a file's null is of; None for what is no such file."""
    size = int.from_bytes(data[:8], "little")
    try:
        header: dict[str, Any] = json.loads(data[8 : 8 + size])
        found = header["__metadata__"]["fingerprint"]
    except (ValueError, KeyError, TypeError):
        return None
    return found if isinstance(found, str) else None


def deserialize_null(data: bytes, recipe: Recipe, fingerprint: str) -> Conditioning:
    """The conditioning of a job with this recipe; OutputError where the file is of another job, or damaged."""
    if read_fingerprint(data) != fingerprint:
        raise OutputError(f"{NULL}: expected the null prompt of this job, got that of another, or a damaged file")
    try:
        rows = load(data)[VALUES]
    except (SafetensorError, KeyError) as error:
        raise OutputError(f"{NULL}: expected safetensors with `{VALUES}`, got: {error}") from error
    return Conditioning(recipe, rows if recipe.null == "text" else None)
