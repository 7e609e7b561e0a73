"""Many callers, one model: their texts wait in one queue and are encoded in batches of a token budget.

A batch is taken by the model's own thread at the moment it is free, so batches form while the last one runs, an idle
model starts at once, and a caller who gives up takes his texts along until the very last. First in, first out: a text
that does not fit ends the batch and is the first of the next. To fill batches with later, shorter texts, or to put the
text that did not fit behind them (as Ray Serve's `batch_size_fn` does), would let a stream of short prompts keep a long
one waiting for ever.

M model dim.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace

from torch import Tensor

from t5enc.errors import InputError, OverloadedError
from t5enc.online.calls import Call, Served, WaitingText
from t5enc.online.fault_isolation import TextResult, encode_isolating_faults, is_model_at_fault
from t5enc.online.prompt_cache import PromptCache
from t5enc.text.prompts import Prompt, count_tokens
from t5enc.text_encoder import TextEncoder

Submit = Callable[[Callable[[TextEncoder], None]], Future[None]]
# Seconds to come back after, while nothing is known of the model's speed.
SHORTEST_RETRY_AFTER = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BatcherSnapshot:
    """What waits and runs now, and what was done since the start.

    A text asked for is a hit or a miss; a miss joins an equal one in flight (`coalesced`) or is queued. `texts` and
    `tokens` are those that batches were made of, `seconds_queued` what they waited, summed over them. Pads that are
    computed are tokens. `delivered` are the texts whose callers got their embeddings. `failures_in_a_row` are batches
    in which every text failed, and the canary of `is_model_at_fault` too, or whose embeddings could not be kept: the
    model or its machine is at fault, and not what it was asked.
    """

    queued_texts: int = 0
    queued_tokens: int = 0
    running_tokens: int = 0
    batches: int = 0
    failures_in_a_row: int = 0
    texts: int = 0
    tokens: int = 0
    cache_hits: int = 0
    cache_misses: int = 0
    coalesced: int = 0
    delivered: int = 0
    seconds_queued: float = 0.0
    seconds_computing: float = 0.0
    last_batch_texts: int = 0
    last_batch_tokens: int = 0

    def plus(self, **amounts: float) -> BatcherSnapshot:
        """The same with amounts added."""
        return replace(self, **{name: getattr(self, name) + amount for name, amount in amounts.items()})


class Batcher:
    """The queue before a model. Calls may come from several event loops; batches run on the model's thread."""

    def __init__(
        self,
        submit: Submit,
        *,
        token_budget: int,
        queue_tokens: int,
        queue_texts: int,
        cache_bytes: int = 0,
        weights: str = "",
    ) -> None:
        """`submit` is an EncoderActor's; `weights` tells apart what different models make of equal prompts."""
        self._submit = submit
        self._budget = token_budget
        self._max_tokens, self._max_texts = queue_tokens, queue_texts
        self._weights = weights.encode()
        self._cache = PromptCache(cache_bytes)
        self._lock = threading.Lock()
        self._queue: OrderedDict[bytes, WaitingText] = OrderedDict()
        self._running: dict[bytes, WaitingText] = {}
        self._counts = BatcherSnapshot()
        self._batch_since: float | None = None
        self._has_turn = False
        self._is_draining = False

    async def encode(self, prompts: Sequence[Prompt]) -> Served:
        """The kept rows of N prompts in the compute dtype; other callers share them: do not write.

        Raises OverloadedError at once, and queues nothing, when the queue has no room for all of them; InputError
        for more than an empty queue takes; PrecisionError naming the texts that failed; whatever the model raised.
        """
        call = Call(asyncio.get_running_loop().create_future(), [None] * len(prompts))
        try:
            with self._lock:
                self._admit(call, prompts)
            if call.awaited:
                await call.done
        finally:
            with self._lock:
                self._release(call)
        served = call.result()
        with self._lock:
            self._add(delivered=len(prompts))
        return served

    def snapshot(self) -> BatcherSnapshot:
        """What waits and runs, and what was done, at one moment."""
        return self._counts

    def is_stuck(self, seconds: float) -> bool:
        """Whether a batch has been running for longer than `seconds`."""
        since = self._batch_since
        return since is not None and time.monotonic() - since > seconds

    async def drain(self) -> None:
        """Finish what is queued; from here on `encode` raises OverloadedError."""
        with self._lock:
            self._is_draining = True
        while self._is_busy():
            await asyncio.wrap_future(self._submit(_do_nothing))

    def _is_busy(self) -> bool:
        with self._lock:
            return self._has_turn or self._batch_since is not None

    def _admit(self, call: Call, prompts: Sequence[Prompt]) -> None:
        """Take a call's texts from the cache, from what is in flight, or into the queue; all of them or none."""
        keys = [self._weights + prompt.key for prompt in prompts]
        cached = {key: hidden for key in keys if (hidden := self._cache.get(key)) is not None}
        known = (cached, self._queue, self._running)
        pairs = zip(keys, prompts, strict=True)
        new = {key: prompt for key, prompt in pairs if not any(key in place for place in known)}
        self._check_room(new)
        now = call.since = time.monotonic()
        self._queue |= {key: WaitingText(key, prompt, now) for key, prompt in new.items()}
        for place, key in enumerate(keys):
            self._join(call, place, key, cached.get(key))
        hits = sum(key in cached for key in keys)
        self._add(
            queued_texts=len(new),
            queued_tokens=count_tokens(new.values()),
            cache_hits=hits,
            cache_misses=len(keys) - hits,
            coalesced=len(keys) - hits - len(new),
        )
        self._ask_for_turn()

    def _join(self, call: Call, place: int, key: bytes, hidden: Tensor | None) -> None:
        if hidden is not None:
            call.hidden[place] = hidden
        else:
            (self._queue.get(key) or self._running[key]).join(call, place)

    def _check_room(self, new: dict[bytes, Prompt]) -> None:
        texts, tokens = len(new), count_tokens(new.values())
        if texts > self._max_texts or tokens > self._max_tokens:
            raise InputError(
                f"expected at most {self._max_texts} texts and {self._max_tokens} tokens in a call, "
                f"got {texts} texts and {tokens} tokens"
            )
        if self._is_draining:
            raise OverloadedError(
                "the model is being closed: expected another replica to take this", SHORTEST_RETRY_AFTER
            )
        counts = self._counts
        if counts.queued_texts + texts > self._max_texts or counts.queued_tokens + tokens > self._max_tokens:
            raise OverloadedError(
                f"the queue is full: expected room for {texts} texts and {tokens} tokens, got {counts.queued_texts} of "
                f"{self._max_texts} texts and {counts.queued_tokens} of {self._max_tokens} tokens waiting",
                self._estimate_wait(),
            )

    def _estimate_wait(self) -> float:
        """Seconds until all that is in flight is done, at the speed so far."""
        counts = self._counts
        pace = counts.seconds_computing / counts.tokens if counts.tokens else 0.0
        return max(SHORTEST_RETRY_AFTER, pace * (counts.queued_tokens + counts.running_tokens))

    def _release(self, call: Call) -> None:
        """Forget a call; texts that nobody else waits for leave the queue."""
        for text in call.awaited:
            text.callers.pop(call, None)
            if not text.callers and self._queue.get(text.key) is text:
                del self._queue[text.key]
                self._add(queued_texts=-1, queued_tokens=-text.prompt.tokens)
        call.awaited.clear()

    def _ask_for_turn(self) -> None:
        """Have the model's thread take a batch when it is free; one request stands at a time."""
        if self._queue and not self._has_turn:
            self._submit(self._take_turn)
            self._has_turn = True

    def _take_turn(self, encoder: TextEncoder) -> None:
        """Runs on the model's thread."""
        with self._lock:
            batch = self._take_batch()
        if batch:
            results, kept, has_failed = self._compute(encoder, batch)
            with self._lock:
                self._finish(batch, results, kept, self._counts.failures_in_a_row + 1 if has_failed else 0)

    def _compute(
        self, encoder: TextEncoder, batch: Sequence[WaitingText]
    ) -> tuple[Sequence[TextResult], dict[bytes, Tensor], bool]:
        """Results of a batch, what the cache will keep of it, and whether it failed by no fault of its texts."""
        try:
            results = encode_isolating_faults(encoder, [text.prompt for text in batch])
            return results, self._copy_kept(batch, results), is_model_at_fault(encoder, results)
        except Exception as error:  # as when the host's memory is full: those who wait raise it
            return [error] * len(batch), {}, True

    def _take_batch(self) -> list[WaitingText]:
        """The longest run of waiting texts within the budget, the first one whatever its length."""
        self._has_turn = False
        batch: list[WaitingText] = []
        used = 0
        while self._queue:
            text = next(iter(self._queue.values()))
            if batch and used + text.prompt.tokens > self._budget:
                break
            self._running[text.key] = self._queue.pop(text.key)
            batch.append(text)
            used += text.prompt.tokens
        if batch:
            self._begin(batch, used)
        try:
            self._ask_for_turn()
        except Exception as error:  # the model's thread takes no more work: those who wait raise it
            self._dismiss(error)
        return batch

    def _dismiss(self, error: Exception) -> None:
        """Nothing that is queued will be computed."""
        now = time.monotonic()
        while self._queue:
            _, text = self._queue.popitem(last=False)
            self._add(queued_texts=-1, queued_tokens=-text.prompt.tokens)
            text.deliver(error, now)

    def _begin(self, batch: Sequence[WaitingText], tokens: int) -> None:
        self._batch_since = now = time.monotonic()
        for text in batch:
            text.begin(now)
        begun = self._counts.plus(
            queued_texts=-len(batch),
            queued_tokens=-tokens,
            running_tokens=tokens,
            batches=1,
            texts=len(batch),
            tokens=tokens,
            seconds_queued=sum(now - text.since for text in batch),
        )
        self._counts = replace(begun, last_batch_texts=len(batch), last_batch_tokens=tokens)

    def _copy_kept(self, batch: Sequence[WaitingText], results: Sequence[TextResult]) -> dict[bytes, Tensor]:
        """What the cache will keep of a batch: a view of it would keep all of the batch in memory."""
        pairs = zip(batch, results, strict=True)
        finished = {text.key: result for text, result in pairs if isinstance(result, Tensor)}
        return {key: finished[key].clone() for key in self._cache.choose(finished)}

    def _finish(
        self, batch: Sequence[WaitingText], results: Sequence[TextResult], kept: dict[bytes, Tensor], failures: int
    ) -> None:
        """Callers get what is kept, or a view that lives as long as they answer with it."""
        assert self._batch_since is not None
        now = time.monotonic()
        ended = self._counts.plus(seconds_computing=now - self._batch_since)
        self._counts = replace(ended, running_tokens=0, failures_in_a_row=failures)
        self._batch_since = None
        self._running.clear()
        for key, hidden in kept.items():
            self._cache.put(key, hidden)
        for text, result in zip(batch, results, strict=True):
            text.deliver(kept.get(text.key, result), now)

    def _add(self, **amounts: float) -> None:
        self._counts = self._counts.plus(**amounts)


def _do_nothing(encoder: TextEncoder) -> None:
    """Its end tells that all work submitted before it has ended."""
