"""Texts in, embeddings out: tokenizes, packs, encodes stream by stream, and puts everything back in order.

N texts, T tokens in a stream, M model dim.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from t5enc.checkpoint.checkpoint import Checkpoint
from t5enc.checkpoint.opening import open_model
from t5enc.checkpoint.repository import infer_options, open_projection
from t5enc.checkpoint.weights import load_encoder
from t5enc.config import EncoderConfig
from t5enc.embeddings import Embeddings
from t5enc.errors import InputError, PrecisionError
from t5enc.model.attention import AttentionPlan, flex_block_size, plan_flex, plan_sdpa
from t5enc.model.compile_cache import CompileCache, open_cache
from t5enc.model.encoder import Encoder
from t5enc.model.linear import can_pack
from t5enc.model.packing import make_rungs, pack_full, pack_sorted, pick_rung, round_rows
from t5enc.model.repeatability import find_floor
from t5enc.options import EncoderOptions
from t5enc.recipes.conditioning import Conditioning
from t5enc.recipes.recipe import Recipe
from t5enc.text.finishing import finish
from t5enc.text.placement import PlacedDocument, group_identical, place_documents, scatter
from t5enc.text.preparer import PreparedTexts, Preparer, open_preparer
from t5enc.text.prompts import Document, Prompt, TokenIds, count_tokens
from t5enc.text.tokenizer import TokenizedTexts, Tokenizer

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class EncoderCounters:
    """What an encoder has done since it was loaded."""

    texts: int = 0
    tokens: int = 0
    computed_texts: int = 0
    useful_tokens: int = 0
    stream_tokens: int = 0
    streams: int = 0
    retried_streams: int = 0

    @property
    def fill(self) -> float:
        """Share of the computed tokens that belong to a text."""
        return self.useful_tokens / self.stream_tokens if self.stream_tokens else 1.0


@dataclass(frozen=True, slots=True)
class EncodedTexts:
    """Embeddings in the order given; `failed` texts (index to reason) have rows of no meaning."""

    embeddings: Embeddings
    failed: dict[int, str] = field(default_factory=dict)


class TextEncoder:
    """A T5-family encoder with its tokenizer.

    Not for several threads at once: one owner calls it, as one model fills one device.
    """

    def __init__(
        self,
        encoder: Encoder,
        preparer: Preparer,
        options: EncoderOptions,
        projection: tuple[Tensor, Tensor] | None = None,
        cache: CompileCache | None = None,
    ) -> None:
        """`options` must be resolved; `from_pretrained` does all of it."""
        self.encoder = encoder
        self.preparer = preparer
        self.options = options
        self._projection = projection
        self._cache = cache
        self._saved_graphs = 0
        self.counters = EncoderCounters()
        self.device = torch.device(options.device or "cpu")
        assert options.token_budget is not None
        self.token_budget = options.token_budget
        self._rungs = make_rungs(options.token_budget)
        self._conditioning: Conditioning | None = None
        self._floor = find_floor(encoder, self.token_budget) if options.deterministic else 1

    @classmethod
    def from_pretrained(cls, model: str | os.PathLike[str], **options: Any) -> TextEncoder:
        """Load a model by hub id, folder, single file, diffusers repository, or `builtin:NAME`.

        Options are the fields of EncoderOptions: subfolder, revision, variant, token, local_files_only, tokenizer,
        recipe, recipe_options, max_length (the recipe's, or 512), dtype, device, token_budget, attention,
        compile_cache, deterministic, num_threads.
        A diffusers repository tells its recipe, with which captions are encoded as its pipeline does; recipe="none"
        takes them as they are.
        Raises ConfigError for an option that cannot be honoured, CheckpointError for files that do not fit.
        """
        asked = EncoderOptions.from_mapping({"model": os.fspath(model), **options})
        checkpoint = open_model(asked)
        return cls.load(infer_options(asked, checkpoint), checkpoint)

    @classmethod
    def load(cls, options: EncoderOptions, checkpoint: Checkpoint | None = None) -> TextEncoder:
        """What `from_pretrained` does, from options made elsewhere; `checkpoint` is what `open_model` made of them."""
        checkpoint = checkpoint or open_model(options)
        preparer = open_preparer(options, checkpoint)
        options = options.resolve(checkpoint.config, max_length=preparer.longest)
        if options.num_threads:
            torch.set_num_threads(options.num_threads)
        device = torch.device(options.device or "cpu")
        cache = _open_cache(options, device)
        dtype = getattr(torch, options.dtype or "float32")
        pack = device.type == "cpu" and options.attention == "sdpa" and can_pack(dtype)
        encoder = load_encoder(checkpoint.config, checkpoint.tensors, dtype=dtype, device=device, pack=pack)
        projection = open_projection(preparer.recipe, checkpoint, options.variant, device)
        return cls(encoder, preparer, options, projection, cache)

    @property
    def tokenizer(self) -> Tokenizer:
        """Texts to ids, cut to the longest text."""
        return self.preparer.tokenizer

    @property
    def recipe(self) -> Recipe | None:
        """What the embeddings are made for, its length known."""
        return self.preparer.recipe

    @property
    def dim(self) -> int:
        """The width of a token's embedding: the model's, or that of the recipe's projection."""
        return self.config.model_dim if self._projection is None else len(self._projection[0])

    @property
    def config(self) -> EncoderConfig:
        """The encoder's shape and arithmetic."""
        return self.encoder.config

    @property
    def dtype(self) -> torch.dtype:
        """What the matrix products compute in."""
        return self.encoder.dtype

    @property
    def compiled_graphs(self) -> int:
        """Graphs compiled so far: at most one a rung, however many texts."""
        return self.encoder.compiled.graphs

    def tokenize(self, texts: Sequence[str]) -> TokenizedTexts:
        """Ragged token ids with the end token, cut to max_length, and which texts were cut; no recipe is applied."""
        return self.tokenizer.encode(texts)

    def prepare(self, texts: Sequence[str]) -> PreparedTexts:
        """Texts as they are encoded, under the recipe if there is one, and which of them were cut."""
        return self.preparer.prepare(texts)

    def encode(self, texts: Sequence[str]) -> Embeddings:
        """Embeddings of N texts in the order given, in the compute dtype, on the encoder's device.

        Under a recipe they are the rows that its pipeline keeps, and `to_pipeline()` gives its tensors.
        Raises InputError for what is not a text, PrecisionError naming the texts whose activations left the range.
        """
        return self._encode(self.prepare(texts).prompts, self.conditioning)

    def encode_tokens(self, ids: Sequence[Sequence[int] | TokenIds]) -> Embeddings:
        """Embeddings of N token lists, exactly as given: no end token is added, no recipe applied."""
        return self._encode(ids, None)

    @property
    def conditioning(self) -> Conditioning | None:
        """The recipe, and its null prompt's rows in the compute dtype on the encoder's device."""
        if self._conditioning is None and self.recipe is not None:
            null = self.preparer.prepare_null()
            self._conditioning = Conditioning(self.recipe, None if null is None else self._encode([null], None).values)
        return self._conditioning

    def _encode(
        self, prompts: Sequence[Sequence[int] | TokenIds | Prompt], conditioning: Conditioning | None
    ) -> Embeddings:
        encoded = self.encode_ragged(prompts)
        if encoded.failed:
            raise PrecisionError(encoded.failed)
        return replace(encoded.embeddings, conditioning=conditioning)

    @torch.no_grad()
    def encode_ragged(
        self,
        prompts: Sequence[Sequence[int] | TokenIds | Prompt],
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        on_stream: Callable[[list[int]], None] | None = None,
    ) -> EncodedTexts:
        """Embeddings of N prompts or token lists in `dtype` on `device`; texts that fail are reported, not raised.

        What is identical is encoded once. `on_stream` is told the texts of each stream before it is computed.
        """
        checked = [self._check_prompt(index, prompt) for index, prompt in enumerate(prompts)]
        lengths = np.array([prompt.rows for prompt in checked], dtype=np.int64)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        values = torch.empty(int(offsets[-1]), self.dim, dtype=dtype or self.dtype, device=device or self.device)
        copies = group_identical(place_documents(checked, offsets))
        failed: dict[int, str] = {}
        for stream in self._pack([len(group[0].document.ids) for group in copies]):
            groups = [copies[place] for place in stream]
            if on_stream is not None:
                on_stream(list(dict.fromkeys(placed.text for group in groups for placed in group)))
            hidden, bad = self._encode_stream([group[0].document for group in groups], values.dtype)
            failed |= {placed.text: bad[place] for place in bad for placed in groups[place]}
            scatter(hidden, groups, values)
        self._count(checked, copies)
        self._save_compiled()
        return EncodedTexts(Embeddings(values, torch.from_numpy(offsets)), dict(sorted(failed.items())))

    @torch.no_grad()
    def warm_up(self, *, all_rungs: bool = False) -> None:
        """Run the largest stream once, and with `all_rungs` every stream length there is; not counted."""
        counters, self.counters = self.counters, EncoderCounters()
        for rung in self._rungs if all_rungs else self._rungs[-1:]:
            length = min(rung, self.preparer.longest)
            ids = np.full(length, self.tokenizer.eos_id, dtype=np.int32)
            self._encode_stream([Document.of(ids)] * max(1, rung // length), self.dtype)
        self.counters = counters
        self._save_compiled()

    def _save_compiled(self) -> None:
        """Share what was compiled since the last time, so that the next process starts warm."""
        if self._cache is not None and self.compiled_graphs > self._saved_graphs:
            self._saved_graphs = self.compiled_graphs
            self._cache.save()

    def _check_prompt(self, index: int, prompt: Sequence[int] | TokenIds | Prompt) -> Prompt:
        if not isinstance(prompt, Prompt):
            return Prompt.of(self.check_ids(index, prompt))
        for document in prompt.documents:
            self.check_ids(index, document.ids)
        return prompt

    def check_ids(self, index: int, text: Sequence[int] | TokenIds) -> TokenIds:
        """One token list as an array; InputError, naming `index`, where the encoder could not take it."""
        limit = self.preparer.longest
        ids = _as_array(index, text)
        if ids.ndim != 1 or not 1 <= len(ids) <= limit:
            raise InputError(f"ids[{index}]: expected 1 to {limit} token ids, got shape {ids.shape}")
        if ids.dtype.kind not in "iu":
            raise InputError(f"ids[{index}]: expected integers, got {ids.dtype}")
        low, high = int(ids.min()), int(ids.max())
        if low < 0 or high >= self.config.vocab_size:
            worst = low if low < 0 else high
            raise InputError(f"ids[{index}]: expected ids from 0 to {self.config.vocab_size - 1}, got {worst}")
        return ids.astype(np.int32, copy=False)

    def _pack(self, lengths: Sequence[int]) -> list[list[int]]:
        pack = pack_full if self.options.attention == "flex" else pack_sorted
        return pack(lengths, self.token_budget)

    def _encode_stream(self, documents: Sequence[Document], dtype: torch.dtype) -> tuple[Tensor, dict[int, str]]:
        """(tokens, M) of documents end to end, and the places of those that failed with the reason."""
        hidden = self._forward(documents, self._plan(documents)).to(dtype)
        if torch.isfinite(hidden).all():
            return hidden, {}
        self.counters.retried_streams += 1
        parts = [self._forward([document], self._plan_sdpa([document])) for document in documents]
        reasons = {place: self._find_overflow(part, dtype) for place, part in enumerate(parts)}
        bad = {place: reason for place, reason in reasons.items() if reason is not None}
        return torch.cat(parts).to(dtype), bad

    def _find_overflow(self, hidden: Tensor, dtype: torch.dtype) -> str | None:
        """Why a text has no embedding: it left the range while it was computed, or leaves it in `dtype`."""
        if not torch.isfinite(hidden).all():
            return f"activations left the range of {str(self.dtype).removeprefix('torch.')}"
        if not torch.isfinite(hidden.to(dtype)).all():
            return f"embedding is out of the range of {str(dtype).removeprefix('torch.')}"
        return None

    def _plan(self, documents: Sequence[Document]) -> AttentionPlan:
        if self.options.attention == "sdpa":
            return self._plan_sdpa(documents)
        lengths = [len(document.ids) for document in documents]
        return plan_flex(
            lengths,
            pick_rung(sum(lengths), self._rungs),
            block_size=flex_block_size(self.device),
            device=self.device,
            keys=[document.keys for document in documents],
        )

    def _plan_sdpa(self, documents: Sequence[Document]) -> AttentionPlan:
        lengths = [len(document.ids) for document in documents]
        total = round_rows(max(sum(lengths), self._floor))
        return plan_sdpa(lengths, total, keys=[document.keys for document in documents])

    def _forward(self, documents: Sequence[Document], plan: AttentionPlan) -> Tensor:
        """(tokens, M) float32; the stream's padding is cut off again."""
        ids = np.zeros(plan.total, dtype=np.int64)
        flat = np.concatenate([document.ids for document in documents])
        ids[: len(flat)] = flat
        embedded = self.encoder.embed(torch.from_numpy(ids).to(self.device))
        self.counters.streams += 1
        self.counters.useful_tokens += sum(document.keys for document in documents)
        self.counters.stream_tokens += plan.total
        return self._finish(documents, self.encoder(embedded, plan)[: len(flat)], embedded[: len(flat)])

    def _finish(self, documents: Sequence[Document], hidden: Tensor, embedded: Tensor) -> Tensor:
        """What each document's recipe does to its rows."""
        if all(document.finish == "none" for document in documents):
            return hidden
        lengths = [len(document.ids) for document in documents]
        parts = zip(documents, torch.split(hidden, lengths), torch.split(embedded, lengths), strict=True)
        return torch.cat([finish(document.finish, rows, before, self._projection) for document, rows, before in parts])

    def _count(self, prompts: Sequence[Prompt], copies: Sequence[Sequence[PlacedDocument]]) -> None:
        self.counters.texts += len(prompts)
        self.counters.tokens += count_tokens(prompts)
        self.counters.computed_texts += len(copies)


def _open_cache(options: EncoderOptions, device: torch.device) -> CompileCache | None:
    """The cache that resolved options name; a warning where nothing is compiled that it could keep."""
    if options.compile_cache is None:
        return None
    if options.attention != "flex":
        _tell_unused(options.attention)
        return None
    return open_cache(os.path.expanduser(options.compile_cache), device)


@functools.cache
def _tell_unused(attention: str) -> None:
    logger.warning("compile_cache: expected attention flex, got %s, which compiles nothing: it is not used", attention)


def _as_array(index: int, text: Sequence[int] | TokenIds) -> NDArray[Any]:
    try:
        return np.asarray(text)
    except ValueError as error:
        raise InputError(f"ids[{index}]: expected a flat list of token ids, got {error}") from error
