"""A batch of texts or token ids through one model, within its limits, and what that took.

N texts, M model dim.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from torch import Tensor

from serve_app.account import Work, find_account
from serve_app.refused import RefusedError, refuse_empty, refuse_value
from serve_app.schema import Batch, Input, as_batch
from serve_app.service import ModelService, TokenizedRequest
from t5enc.tokenizer import Cut, cut_ids


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """One (tokens, M) a text, which texts were cut, and the work behind them; `seconds` are those of all of it."""

    hidden: list[Tensor]
    truncated: list[bool]
    characters: int
    work: Work
    seconds: float
    device: str

    @property
    def tokens(self) -> int:
        """Of all texts."""
        return sum(self.work.lengths)

    @property
    def headers(self) -> dict[str, str]:
        """TEI's account of a request (times in milliseconds), and how many of its texts were cut."""
        return {
            "x-compute-type": self.device,
            "x-compute-characters": str(self.characters),
            "x-compute-tokens": str(self.tokens),
            "x-compute-time": _milliseconds(self.seconds),
            "x-total-time": _milliseconds(self.seconds),
            "x-tokenization-time": _milliseconds(self.work.seconds_tokenizing),
            "x-queue-time": _milliseconds(self.work.seconds_queued),
            "x-inference-time": _milliseconds(self.work.seconds_computing),
            "x-truncated-texts": str(sum(self.truncated)),
        }


async def encode_batch(
    service: ModelService, inputs: Input, *, truncate: bool, field: str, cut: Cut = "end"
) -> Encoded:
    """The embeddings of N texts or token lists; `field` is the request's name for them.

    Raises RefusedError for a batch that is empty or beyond the limits, and what ModelService raises.
    """
    batch = take_batch(inputs, service, field)
    start = time.perf_counter()
    request = await _tokenize(service, batch, truncate, cut)
    _check_tokens(request, service, field)
    tokenized = time.perf_counter()
    served = await service.encode(request.ids)
    work = Work(
        lengths=[len(text) for text in request.ids],
        seconds_tokenizing=tokenized - start,
        seconds_queued=served.seconds_queued,
        seconds_computing=served.seconds_computing,
    )
    find_account().work.append(work)
    return Encoded(
        hidden=served.hidden,
        truncated=request.truncated,
        characters=sum(len(text) for text in batch if isinstance(text, str)),
        work=work,
        seconds=time.perf_counter() - start,
        device=str(service.options.device),
    )


def take_batch(inputs: Input, service: ModelService, field: str) -> Batch:
    """Texts or token lists, also where a request gives a single one; RefusedError for none, or more than it may."""
    batch = as_batch(inputs)
    find_account().note_method("batch" if batch is inputs else "single")
    if not batch:
        raise refuse_empty(field)
    check_count(len(batch), service, field)
    return batch


def check_count(count: int, service: ModelService, field: str) -> None:
    """RefusedError for more texts than a request may have."""
    limit = service.limits.max_texts
    if count > limit:
        message = f"batch size {count} > maximum allowed batch size {limit}"
        raise RefusedError(422, "Validation", message, field=field, reason="batch_size")


async def _tokenize(service: ModelService, batch: Batch, truncate: bool, cut: Cut) -> TokenizedRequest:
    texts = [text for text in batch if isinstance(text, str)]
    if texts:
        return await service.tokenize(texts, truncate=truncate, cut=cut)
    ids = [text for text in batch if isinstance(text, list)]
    lengths = [len(text) for text in ids]
    limit = service.limits.max_length
    kept = [cut_ids(text, limit, cut) for text in ids] if truncate else ids
    return TokenizedRequest(service.check_ids(kept), [truncate and length > limit for length in lengths], lengths)


def _check_tokens(request: TokenizedRequest, service: ModelService, field: str) -> None:
    """RefusedError for a request that could not be queued however long it waited."""
    tokens, limit = sum(len(text) for text in request.ids), service.limits.queue_tokens
    if tokens > limit:
        raise refuse_value(field, f"expected at most {limit} tokens in one request, got {tokens}")


def _milliseconds(seconds: float) -> str:
    return str(round(1000 * seconds))
