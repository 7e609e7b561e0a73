"""A batch of texts, token ids or captions through one model, within its limits: all rows or pooled, and what it took.

N texts, M model dim.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from serve_app.api.answer_size import AnswerSize, hold_answer
from serve_app.api.schema import Batch, Input, as_batch
from serve_app.served.notes import Timings, find_notes
from serve_app.served.prepared import Prepared
from serve_app.served.refusals import RefusedError, refuse_count, refuse_empty, refuse_value
from serve_app.served.service import ModelService
from t5enc.errors import ConfigError, PrecisionError
from t5enc.online.calls import Served
from t5enc.pooling import Pooler
from t5enc.recipes.recipe import Recipe
from t5enc.text.prompts import Prompt, count_tokens
from t5enc.text.tokenizer import Cut


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """One (rows, M) a text, which texts were cut, and what it took; `seconds` are those of all of it.

    `null` are the rows of the recipe's null prompt, where it was asked for and is a text.
    """

    hidden: list[Tensor]
    truncated: list[bool]
    characters: int
    timings: Timings
    seconds: float
    device: str
    recipe: Recipe | None = None
    null: Tensor | None = None

    @property
    def tokens(self) -> int:
        """Of all texts."""
        return sum(self.timings.lengths)

    @property
    def headers(self) -> dict[str, str]:
        """TEI's figures of a request (times in milliseconds), and how many of its texts were cut."""
        return {
            "x-compute-type": self.device,
            "x-compute-characters": str(self.characters),
            "x-compute-tokens": str(self.tokens),
            "x-compute-time": _milliseconds(self.seconds),
            "x-total-time": _milliseconds(self.seconds),
            "x-tokenization-time": _milliseconds(self.timings.seconds_tokenizing),
            "x-queue-time": _milliseconds(self.timings.seconds_queued),
            "x-inference-time": _milliseconds(self.timings.seconds_computing),
            "x-truncated-texts": str(sum(self.truncated)),
        }


async def encode_batch(
    service: ModelService, inputs: Input, *, truncate: bool, field: str, size: AnswerSize, cut: Cut = "end"
) -> Encoded:
    """The embeddings of N texts or token lists; `field` is the request's name for them, `size` is the answer's.

    Raises RefusedError for a batch that is empty or beyond the limits, and what ModelService raises.
    """
    batch = take_batch(inputs, service, field)
    return await _encode(service, _tokenize(service, batch, truncate, cut), batch, field, size)


async def encode_captions(
    service: ModelService,
    texts: Sequence[str],
    recipe: str | None,
    options: Mapping[str, Any],
    *,
    truncate: bool | None,
    with_null: bool,
    size: AnswerSize,
) -> Encoded:
    """The kept rows of N texts under a recipe, or their tokens' embeddings where there is none; N may be 0 for a null.

    A text over the limit is cut under a recipe, as its pipeline does, unless `truncate` is False; without one it is
    refused, unless `truncate` is True. Raises what `encode_batch` raises.
    """
    if texts or not with_null:
        take_batch(list(texts), service, "texts")
    else:
        find_notes().note_method("single")
    preparing = _prepare(service, texts, recipe, options, truncate=truncate, with_null=with_null)
    return await _encode(service, preparing, texts, "texts", size)


def pool_texts(pooler: Pooler, encoded: Encoded, *, normalize: bool = True) -> Tensor:
    """(N, P) float32: one vector a text, by the model's own modules or else the mean; of unit length (Sentence-T5).

    Without `normalize` they are as long as they come.
    """
    return pooler.pool(encoded.hidden, encoded.hidden[0].shape[1], normalize=normalize)


def check_pooling(dimensions: int | None, service: ModelService) -> None:
    """RefusedError for vectors of another width than the model's, or of a model that cannot be pooled here (424)."""
    try:
        service.pooler.check()
    except ConfigError as error:
        raise RefusedError(424, "Backend", str(error), reason="model_type") from error
    if dimensions not in (None, service.pooled_dim):
        # T5 was not trained to have them cut.
        message = (
            f"expected none or the model's {service.pooled_dim}, got {dimensions}; its vectors cannot be shortened"
        )
        raise refuse_value("dimensions", message, code="unsupported_value")


async def _encode(
    service: ModelService,
    preparing: Awaitable[Prepared],
    batch: Sequence[str | list[int]],
    field: str,
    size: AnswerSize,
) -> Encoded:
    """The embeddings of a batch, within the limits, timed from here. Raises what `encode_batch` raises of it."""
    start = time.perf_counter()
    prepared = await preparing
    prompts = prepared.all_prompts
    _check_tokens(prompts, service, field)
    hold_answer(size, prepared, service, field)
    seconds_tokenizing = time.perf_counter() - start
    served = await _name_null(service.encode(prompts), prepared)
    timings = Timings(
        lengths=[prompt.tokens for prompt in prompts],
        seconds_tokenizing=seconds_tokenizing,
        seconds_queued=served.seconds_queued,
        seconds_computing=served.seconds_computing,
    )
    find_notes().timings.append(timings)
    count = len(prepared.prompts)
    return Encoded(
        hidden=served.hidden[:count],
        truncated=prepared.truncated,
        characters=_count_characters(batch),
        timings=timings,
        seconds=time.perf_counter() - start,
        device=str(service.options.device),
        recipe=prepared.recipe,
        null=served.hidden[count] if prepared.null is not None else None,
    )


async def _prepare(
    service: ModelService,
    texts: Sequence[str],
    recipe: str | None,
    options: Mapping[str, Any],
    *,
    truncate: bool | None,
    with_null: bool,
) -> Prepared:
    """Prompts under a recipe, or of the texts as they are where there is none."""
    prepared = await service.prepare(texts, recipe, options, truncate=truncate is not False, with_null=with_null)
    if prepared is not None:
        return prepared
    if with_null:
        raise refuse_value("null", "expected a recipe, whose null prompt it is, got none")
    return await service.tokenize(texts, truncate=truncate is True)


async def _name_null(served: Awaitable[Served], prepared: Prepared) -> Served:
    """What is served; RefusedError (424) where the null prompt alone has no embedding: no text is at fault."""
    try:
        return await served
    except PrecisionError as error:
        if set(error.failed) != {len(prepared.prompts)}:
            raise
        reason = error.failed[len(prepared.prompts)]
        raise RefusedError(424, "Backend", f"null: {reason}", field="null") from error


def take_batch(inputs: Input, service: ModelService, field: str) -> Batch:
    """Texts or token lists, also where a request gives a single one; RefusedError for none, or more than it may."""
    batch = as_batch(inputs)
    find_notes().note_method("batch" if batch is inputs else "single")
    if not batch:
        raise refuse_empty(field)
    limit = service.limits.max_texts
    if len(batch) > limit:
        raise refuse_count(len(batch), limit, field)
    return batch


async def _tokenize(service: ModelService, batch: Batch, truncate: bool, cut: Cut) -> Prepared:
    texts = [text for text in batch if isinstance(text, str)]
    if texts:
        return await service.tokenize(texts, truncate=truncate, cut=cut)
    return service.take_ids([text for text in batch if isinstance(text, list)], truncate=truncate, cut=cut)


def _check_tokens(prompts: Sequence[Prompt], service: ModelService, field: str) -> None:
    """RefusedError for a request that could not be queued however long it waited."""
    tokens, limit = count_tokens(prompts), service.limits.queue_tokens
    if tokens > limit:
        raise refuse_value(field, f"expected at most {limit} tokens in one request, got {tokens}")


def _count_characters(batch: Sequence[str | list[int]]) -> int:
    return sum(len(text) for text in batch if isinstance(text, str))


def _milliseconds(seconds: float) -> str:
    return str(round(1000 * seconds))
