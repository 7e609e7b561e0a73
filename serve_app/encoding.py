"""A batch of texts or token ids through one model, within its limits, and what that took.

N texts, M model dim.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from torch import Tensor

from serve_app.refused import RefusedError, refuse_empty, refuse_value
from serve_app.schema import Batch
from serve_app.service import ModelService, TokenizedRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """One (tokens, M) a text, which texts were cut, and the work behind them; times in seconds."""

    hidden: list[Tensor]
    truncated: list[bool]
    characters: int
    seconds_tokenizing: float
    seconds: float
    device: str

    @property
    def tokens(self) -> int:
        """Of all texts."""
        return sum(len(text) for text in self.hidden)

    @property
    def headers(self) -> dict[str, str]:
        """TEI's account of a request (times in milliseconds), and how many of its texts were cut."""
        return {
            "x-compute-type": self.device,
            "x-compute-characters": str(self.characters),
            "x-compute-tokens": str(self.tokens),
            "x-compute-time": str(round(1000 * self.seconds)),
            "x-total-time": str(round(1000 * self.seconds)),
            "x-tokenization-time": str(round(1000 * self.seconds_tokenizing)),
            "x-truncated-texts": str(sum(self.truncated)),
        }


async def encode_batch(service: ModelService, batch: Batch, *, truncate: bool, field: str) -> Encoded:
    """The embeddings of N texts or token lists; `field` is the request's name for them.

    Raises RefusedError for a batch that is empty or beyond the limits, and what ModelService raises.
    """
    check_count(batch, service, field)
    start = time.perf_counter()
    request = await _tokenize(service, batch, truncate)
    _check_tokens(request, service, field)
    tokenized = time.perf_counter()
    hidden = await service.encode(request.ids)
    return Encoded(
        hidden=hidden,
        truncated=request.truncated,
        characters=sum(len(text) for text in batch if isinstance(text, str)),
        seconds_tokenizing=tokenized - start,
        seconds=time.perf_counter() - start,
        device=str(service.options.device),
    )


def check_count(batch: Batch, service: ModelService, field: str) -> None:
    """RefusedError for no texts, or more than a request may have."""
    if not batch:
        raise refuse_empty(field)
    limit = service.limits.max_texts
    if len(batch) > limit:
        message = f"batch size {len(batch)} > maximum allowed batch size {limit}"
        raise RefusedError(422, "Validation", message, field=field)


async def _tokenize(service: ModelService, batch: Batch, truncate: bool) -> TokenizedRequest:
    texts = [text for text in batch if isinstance(text, str)]
    if texts:
        return await service.tokenize(texts, truncate=truncate)
    ids = [text for text in batch if isinstance(text, list)]
    lengths = [len(text) for text in ids]
    limit = service.limits.max_length
    kept = [_cut(text, limit) for text in ids] if truncate else ids
    return TokenizedRequest(service.check_ids(kept), [truncate and length > limit for length in lengths], lengths)


def _cut(ids: list[int], limit: int) -> list[int]:
    """At most `limit` ids, the last still last: as a text is cut, whose last is the end token."""
    return ids if len(ids) <= limit else [*ids[: limit - 1], ids[-1]]


def _check_tokens(request: TokenizedRequest, service: ModelService, field: str) -> None:
    """RefusedError for a request that could not be queued however long it waited."""
    tokens, limit = sum(len(text) for text in request.ids), service.limits.queue_tokens
    if tokens > limit:
        raise refuse_value(field, f"expected at most {limit} tokens in one request, got {tokens}")
