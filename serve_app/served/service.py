"""One model as a service: texts are tokenized beside the event loop, and encoded in batches by the model's thread.

M model dim.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, ParamSpec, TypeVar

from serve_app.served.loading import load_actor, open_to_all
from serve_app.served.memory import Memory
from serve_app.served.prepared import Prepared
from serve_app.served.recipes import ServedRecipes, ShownCaption, prepare_captions, show_captions
from serve_app.served.refusals import refuse_value
from t5enc.checkpoint.opening import open_model
from t5enc.checkpoint.repository import infer_options
from t5enc.errors import ConfigError, InputError, TooLongError
from t5enc.online.batcher import Batcher, BatcherSnapshot
from t5enc.online.calls import Served
from t5enc.options import EncoderOptions
from t5enc.pooling import Pooler
from t5enc.recipes.recipe import Recipe
from t5enc.text.preparer import Preparer, open_preparer
from t5enc.text.prompts import Prompt, TokenIds
from t5enc.text.token_spans import TokenSpan
from t5enc.text.tokenizer import Cut, cut_ids

P = ParamSpec("P")
R = TypeVar("R")

TOKENIZER_THREADS = 2
# Requests for tokens or decoded texts, of the largest kind, that may wait for the tokenizer's threads.
LARGEST_WAITING = 4
# A batch that fails is the fault of what is in it; so many one after the other, of the model.
MOST_FAILURES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceLimits:
    """What one model takes: of a request, of all that wait, and of memory for finished prompts."""

    max_texts: int = 256
    max_length: int = 512
    queue_tokens: int = 262_144
    queue_texts: int = 8192
    queue_bytes: int = 4 << 30
    max_answer_bytes: int = 256 << 20
    max_characters: int = 256 << 10
    cache_bytes: int = 64 << 20
    stuck_seconds: float = 120.0

    def __post_init__(self) -> None:
        for name in (entry.name for entry in fields(self) if entry.name != "cache_bytes"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name}: expected more than 0, got {getattr(self, name)}")
        if self.cache_bytes < 0:
            raise ConfigError(f"cache_bytes: expected 0 (no cache) or more, got {self.cache_bytes}")
        if self.queue_texts < self.max_texts:
            raise ConfigError(f"queue_texts: expected at least max_texts ({self.max_texts}), got {self.queue_texts}")
        if self.queue_tokens < self.max_length:
            raise ConfigError(
                f"queue_tokens: expected at least max_length ({self.max_length}), got {self.queue_tokens}"
            )
        if self.queue_bytes < self.max_answer_bytes:
            raise ConfigError(
                f"queue_bytes: expected at least max_answer_bytes ({self.max_answer_bytes}), got {self.queue_bytes}"
            )


class ModelService:
    """A loaded model, the threads that tokenize for it, and the queue before it.

    The async methods may be awaited from any event loop, the others called from any thread.
    """

    def __init__(self, name: str, options: EncoderOptions, limits: ServiceLimits) -> None:
        """Loads the model and warms it up, which takes as long as it takes.

        A recipe among the options, or that of the model's repository, is what `/encode` does where a request names
        none; its length is then the limit of other texts, too. Another recipe may be longer, up to 512 tokens,
        unless `max_length` is given.

        Raises ConfigError for options that cannot be honoured, CheckpointError for files that do not fit.
        """
        self.name = name
        checkpoint = open_model(options.source)
        options = infer_options(options, checkpoint.repository)
        preparer = open_preparer(options, checkpoint)
        self.limits = _limit(limits, options, preparer)
        self.fingerprint = checkpoint.fingerprint()
        self._actor = load_actor(open_to_all(options, preparer), checkpoint)
        self._recipes = ServedRecipes(options, checkpoint, preparer, self._actor.encoder.tokenizer)
        self.options = self._actor.encoder.options
        self.dim = self._actor.encoder.config.model_dim
        self.pooler = self._actor.encoder.pooler or Pooler()
        # Bytes of embeddings and answers, of all requests that are not yet answered.
        self.answer_memory = Memory("bytes of answers", limits.queue_bytes)
        self.text_memory = Memory("characters or ids of /tokenize and /decode", LARGEST_WAITING * limits.max_characters)
        self._tokenizers = ThreadPoolExecutor(TOKENIZER_THREADS, thread_name_prefix="tokenizer")
        self._batcher = Batcher(
            self._actor.submit,
            token_budget=self._actor.encoder.token_budget,
            queue_tokens=limits.queue_tokens,
            queue_texts=limits.queue_texts,
            cache_bytes=limits.cache_bytes,
            weights=self.fingerprint,
        )

    async def tokenize(self, texts: Sequence[str], *, truncate: bool, cut: Cut = "end") -> Prepared:
        """Prompts of N texts with the end token, cut to the limit's `max_length` where `truncate` says so.

        The end token stays where a text is cut at its end, too.

        Raises TooLongError for the first text that would have to be cut and may not, InputError for what is not
        text. How many texts a request may have is the caller's to check.
        """
        return await self._beside_loop(self._tokenize, texts, truncate, cut)

    def take_ids(self, ids: Sequence[list[int]], *, truncate: bool, cut: Cut = "end") -> Prepared:
        """Prompts of N token lists of a caller's own making; no end token is added.

        Raises TooLongError for the first that would have to be cut and may not, InputError for one that is empty or
        no list of the model's ids.
        """
        limit = self.limits.max_length
        truncated = [len(text) > limit for text in ids]
        if any(truncated) and not truncate:
            index = truncated.index(True)
            raise TooLongError(index, tokens=len(ids[index]), limit=limit)
        taken = [self._actor.encoder.check_ids(index, cut_ids(text, limit, cut)) for index, text in enumerate(ids)]
        return Prepared([Prompt.of(text) for text in taken], truncated)

    @property
    def pooled_dim(self) -> int:
        """The width of a text's one vector: the model's, or that of its last dense layer."""
        return self.pooler.find_width(self.dim)

    @property
    def recipe(self) -> Recipe | None:
        """What `/encode` does where a request names no recipe, its length known."""
        return self._recipes.default

    def list_recipes(self) -> list[dict[str, Any]]:
        """The recipes that fit the model, as plain values."""
        return self._recipes.describe()

    async def prepare(
        self, texts: Sequence[str], recipe: str | None, options: Mapping[str, Any], *, truncate: bool, with_null: bool
    ) -> Prepared | None:
        """Prompts of N captions under a recipe, by default the service's own; None where there is none.

        Raises RefusedError for a recipe that does not fit, TooLongError for the first caption that would have to be
        cut and may not, InputError for what is no text.
        """
        return await self._beside_loop(self._prepare, list(texts), recipe, options, truncate, with_null)

    async def show(
        self, texts: Sequence[str], recipe: str | None, options: Mapping[str, Any]
    ) -> list[ShownCaption] | None:
        """What `prepare` makes of N captions, none refused for its length; None where there is no recipe."""
        return await self._beside_loop(self._show, list(texts), recipe, options)

    async def encode(self, prompts: Sequence[Prompt]) -> Served:
        """One (rows, M) CPU tensor a prompt in the compute dtype, which others share: do not write; and what it took.

        Prompts are those that `tokenize`, `take_ids` or `prepare` made. Raises OverloadedError at once when the queue
        is full, PrecisionError naming the prompts whose activations left the range. Cancelled, it takes what still
        waits out of the queue.
        """
        return await self._batcher.encode(prompts)

    async def decode_lists(self, lists: Sequence[Sequence[int]], skip_special_tokens: bool = True) -> list[str]:
        """The texts that lists of ids stand for, as `decode` has them, for a request that is being answered.

        Raises RefusedError for more ids than a request may have, OverloadedError where too many wait.
        """
        self._take_texts(sum(map(len, lists)), "ids", "ids")
        return await self._beside_loop(lambda: [self.decode(ids, skip_special_tokens) for ids in lists])

    async def split_texts(self, texts: Sequence[str]) -> list[list[TokenSpan]]:
        """The tokens of texts, as `split_text` has them, for a request that is being answered.

        Raises RefusedError for more characters than a request may have, OverloadedError where too many wait.
        """
        self._take_texts(sum(map(len, texts)), "inputs", "characters")
        return await self._beside_loop(lambda: [self.split_text(text) for text in texts])

    def decode(self, ids: Sequence[int] | TokenIds, skip_special_tokens: bool = True) -> str:
        """The text that ids stand for; InputError for an id that the model does not have."""
        size = self._actor.encoder.config.vocab_size
        for token in ids:
            if not 0 <= token < size:
                raise InputError(f"ids: expected ids from 0 to {size - 1}, got {token}")
        return self._actor.encoder.tokenizer.decode(ids, skip_special_tokens=skip_special_tokens)

    def split_text(self, text: str) -> list[TokenSpan]:
        """What the tokenizer makes of a whole text, never cut: (id, token, special, start, stop) a token.

        `text[start:stop]` is what the token was read from; None and None for tokens that were added.
        """
        return self._actor.encoder.tokenizer.split(text)

    def snapshot(self) -> BatcherSnapshot:
        """What waits, what runs, and what has been done."""
        return self._batcher.snapshot()

    def is_healthy(self) -> bool:
        """Whether the model still answers: no batch runs for longer than `stuck_seconds`, and not all of them fail."""
        is_failing = self._batcher.snapshot().failures_in_a_row >= MOST_FAILURES
        return not is_failing and not self._batcher.is_stuck(self.limits.stuck_seconds)

    async def close(self) -> None:
        """Finish what is queued, and take nothing new: `encode` raises OverloadedError from here on.

        A model that is stuck is not waited for.
        """
        if not self._batcher.is_stuck(self.limits.stuck_seconds):
            await self._batcher.drain()

    def _tokenize(self, texts: Sequence[str], truncate: bool, cut: Cut) -> Prepared:
        limit = self.limits.max_length
        tokenized = replace(self._actor.encoder.tokenizer, max_length=limit).encode(texts, cut=cut)
        truncated = tokenized.truncated.tolist()
        if any(truncated) and not truncate:
            index = truncated.index(True)
            raise TooLongError(index, tokens=int(tokenized.lengths[index]), limit=limit)
        return Prepared([Prompt.of(ids) for ids in tokenized.ids], truncated)

    def _take_texts(self, count: int, field: str, unit: str) -> None:
        limit = self.limits.max_characters
        if count > limit:
            raise refuse_value(field, f"expected at most {limit} {unit} in one request, got {count}")
        self.text_memory.take(count)

    def _prepare(
        self, texts: list[str], recipe: str | None, options: Mapping[str, Any], truncate: bool, with_null: bool
    ) -> Prepared | None:
        preparer = self._recipes.find(recipe, options)
        if preparer is None:
            return None
        return prepare_captions(preparer, texts, truncate=truncate, with_null=with_null)

    def _show(self, texts: list[str], recipe: str | None, options: Mapping[str, Any]) -> list[ShownCaption] | None:
        preparer = self._recipes.find(recipe, options)
        return None if preparer is None else show_captions(preparer, texts)

    async def _beside_loop(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        call = partial(function, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._tokenizers, call)


def _limit(limits: ServiceLimits, options: EncoderOptions, preparer: Preparer) -> ServiceLimits:
    """The limits, with the length of the recipe where there is one, or of the model's own files."""
    if preparer.recipe is not None:
        return replace(limits, max_length=preparer.recipe.max_length)
    if limits.max_length > options.length:
        raise ConfigError(
            f"max_length: expected limits of at most the model's {options.length}, got {limits.max_length}"
        )
    return replace(limits, max_length=min(limits.max_length, preparer.longest))
