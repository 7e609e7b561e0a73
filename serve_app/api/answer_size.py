"""How many bytes an answer will have: known before anything is encoded, and bounded."""

from __future__ import annotations

import json
from dataclasses import dataclass

import torch

from serve_app.api.wire import describe_recipe
from serve_app.served.prepared import Prepared
from serve_app.served.refusals import RefusedError, refuse_value
from serve_app.served.service import ModelService
from t5enc.recipes.conditioning import Conditioning, build_inputs

# A float32 as JSON: sign, up to nineteen digits and more of an exponent, comma.
JSON_NUMBER_BYTES = 24
# What any format has beside the numbers: names, types and zip members of all arrays; of a text its offset, length,
# shape, dtype and flag, or its place in OpenAI's list; of a row its brackets.
FRAME_BYTES, TEXT_BYTES, ROW_BYTES = 8192, 128, 2
# A character of what names the model and the recipe: NumPy takes four, JSON within JSON escapes it twice.
CHARACTER_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerSize:
    """Bytes of one number; whether there is one row a text (pooled); the dtype of a recipe's pipeline's tensors.

    Without that dtype, the rows of texts are answered as they are.
    """

    number_bytes: int
    is_pooled: bool = False
    padded: torch.dtype | None = None

    def count_rows(self, prepared: Prepared) -> int:
        """Rows of the model's width in the answer, those of a pipeline's tensors not among them."""
        if self.is_pooled:
            return len(prepared.all_prompts)
        texts = [] if self.padded else prepared.prompts
        return sum(prompt.rows for prompt in [*texts, *prepared.nulls])


NESTED = AnswerSize(number_bytes=JSON_NUMBER_BYTES)
POOLED = AnswerSize(number_bytes=JSON_NUMBER_BYTES, is_pooled=True)


def find_padded_length(prepared: Prepared) -> int:
    """Rows of each text of a recipe's pipeline, pads too."""
    length = 0 if prepared.recipe is None else prepared.recipe.max_length
    return max([length, *(prompt.rows for prompt in prepared.prompts)])


def hold_answer(size: AnswerSize, prepared: Prepared, service: ModelService, field: str) -> None:
    """Hold the memory of a request's embeddings and of its answer until it is answered.

    RefusedError for an answer that is larger than any may be, OverloadedError where others hold too much. What comes
    out of the cache, or is computed for another request, too, counts: it is held for this one all the same.
    """
    _check_rows(size, prepared, service)
    answer = measure_answer(size, prepared, service)
    _check_bytes(answer, service.limits.max_answer_bytes, "an answer", field)
    rows = sum(prompt.rows for prompt in prepared.all_prompts)
    held = answer + rows * service.dim * measure_number(str(service.options.dtype))
    _check_bytes(held, service.limits.queue_bytes, "embeddings and an answer", field)
    service.answer_memory.take(held)


def measure_answer(size: AnswerSize, prepared: Prepared, service: ModelService) -> int:
    """Bytes that an answer has at most, in whatever format."""
    rows = size.count_rows(prepared)
    tensors = measure_tensors(prepared, service.dim, size.padded) if size.padded else 0
    # An Arrow stream has the null's rows in base64: four bytes for three.
    null = sum(prompt.rows for prompt in prepared.nulls) * service.dim * size.number_bytes // 3
    width = service.pooled_dim if size.is_pooled else service.dim
    return rows * (width * size.number_bytes + ROW_BYTES) + tensors + null + _measure_frame(prepared, service)


def measure_tensors(prepared: Prepared, dim: int, dtype: torch.dtype) -> int:
    """Bytes of the tensors of a recipe's pipeline, made by the very code that makes them, but without memory.

    InputError for a null that cannot go with these texts.
    """
    if prepared.recipe is None:
        return 0
    with torch.device("meta"):
        texts, nulls = (
            [torch.empty(prompt.rows, dim, dtype=dtype) for prompt in prompts]
            for prompts in (prepared.prompts, prepared.nulls)
        )
        found = build_inputs(texts, Conditioning(prepared.recipe, *nulls))
    tensors = (found.prompt_embeds, found.prompt_mask, found.null_embeds, found.null_mask)
    return sum(tensor.numel() * tensor.itemsize for tensor in tensors if tensor is not None)


def _measure_frame(prepared: Prepared, service: ModelService) -> int:
    facts = {} if prepared.recipe is None else describe_recipe(prepared.recipe)
    characters = sum(
        len(json.dumps(fact)) for fact in (service.name, service.fingerprint, service.pooler.names, *facts.values())
    )
    return FRAME_BYTES + TEXT_BYTES * len(prepared.prompts) + CHARACTER_BYTES * characters


def measure_number(dtype: str) -> int:
    """Bytes of a number of that name."""
    number: torch.dtype = getattr(torch, dtype)
    return number.itemsize


def _check_bytes(found: int, limit: int, what: str, field: str) -> None:
    if found > limit:
        message = f"{field}: expected {what} of at most {limit} bytes, got {found}; ask for fewer texts at once"
        raise RefusedError(422, "Validation", message, field=field, reason="batch_size")


def _check_rows(size: AnswerSize, prepared: Prepared, service: ModelService) -> None:
    """RefusedError for padded tensors of more rows than a request may have tokens."""
    limit, count, length = service.limits.queue_tokens, len(prepared.prompts), find_padded_length(prepared)
    if size.padded and count * length > limit:
        raise refuse_value("pipeline", f"expected at most {limit} rows, pads too, got {count} texts of {length}")
