"""How many bytes an answer will have: known before anything is encoded, and bounded."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from serve_app.refused import RefusedError, refuse_value
from serve_app.served_recipes import PreparedRequest
from serve_app.service import ModelService

# A float32 as JSON: sign, up to nineteen digits and more of an exponent, comma.
JSON_NUMBER_BYTES = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerForm:
    """Bytes of one number; whether there is one row a text (pooled), or the padded rows of a recipe's pipeline."""

    number_bytes: int
    is_pooled: bool = False
    is_padded: bool = False

    def count_rows(self, request: PreparedRequest) -> int:
        """Rows of the model's width in the answer."""
        if self.is_pooled:
            return len(request.all_prompts)
        if self.is_padded and request.recipe is not None:
            # Of each text, and of the null beside it.
            return 2 * len(request.prompts) * find_padded_length(request)
        return sum(prompt.rows for prompt in request.all_prompts)


NESTED = AnswerForm(number_bytes=JSON_NUMBER_BYTES)
POOLED = AnswerForm(number_bytes=JSON_NUMBER_BYTES, is_pooled=True)


def find_padded_length(request: PreparedRequest) -> int:
    """Rows of each text of a recipe's pipeline, pads too."""
    length = 0 if request.recipe is None else request.recipe.max_length
    return max([length, *(prompt.rows for prompt in request.prompts)])


def hold_answer(form: AnswerForm, request: PreparedRequest, service: ModelService, field: str) -> None:
    """Hold the memory of a request's embeddings and of its answer until it is answered.

    RefusedError for an answer that is larger than any may be, OverloadedError where others hold too much. What comes
    out of the cache, or is computed for another request, too, counts: it is held for this one all the same.
    """
    _check_rows(form, request, service)
    answer = form.count_rows(request) * service.dim * form.number_bytes
    _check_bytes(answer, service.limits.max_answer_bytes, "an answer", field)
    rows = sum(prompt.rows for prompt in request.all_prompts)
    held = answer + rows * service.dim * measure_number(str(service.options.dtype))
    _check_bytes(held, service.limits.queue_bytes, "embeddings and an answer", field)
    service.answer_room.take(held)


def measure_number(dtype: str) -> int:
    """Bytes of a number of that name."""
    number: torch.dtype = getattr(torch, dtype)
    return number.itemsize


def _check_bytes(found: int, limit: int, what: str, field: str) -> None:
    if found > limit:
        message = f"{field}: expected {what} of at most {limit} bytes, got {found}; ask for fewer texts at once"
        raise RefusedError(422, "Validation", message, field=field, reason="batch_size")


def _check_rows(form: AnswerForm, request: PreparedRequest, service: ModelService) -> None:
    """RefusedError for padded tensors of more rows than a request may have tokens."""
    limit, count, length = service.limits.queue_tokens, len(request.prompts), find_padded_length(request)
    if form.is_padded and count * length > limit:
        raise refuse_value("pipeline", f"expected at most {limit} rows, pads too, got {count} texts of {length}")
