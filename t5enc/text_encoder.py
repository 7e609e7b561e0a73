"""Texts in, embeddings out: tokenizes, packs, encodes stream by stream, and puts everything back in order.

N texts, M model dim.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from t5enc.checkpoint.checkpoint import Checkpoint
from t5enc.checkpoint.opening import find_pooler, open_model
from t5enc.checkpoint.repository import infer_options, open_projection
from t5enc.checkpoint.weights import load_encoder
from t5enc.config import EncoderConfig
from t5enc.embeddings import Embeddings
from t5enc.errors import PrecisionError
from t5enc.model.compile_cache import CompileCache, open_cache
from t5enc.model.encoder import Encoder
from t5enc.model.linear import can_pack
from t5enc.model.threads import set_num_threads
from t5enc.options import EncoderOptions, LoadNames
from t5enc.pooling import Pooler
from t5enc.recipes.conditioning import Conditioning
from t5enc.recipes.recipe import Recipe
from t5enc.text.id_checks import check_ids, check_prompt
from t5enc.text.placement import PlacedDocument, find_kept, group_identical, place_documents, scatter
from t5enc.text.preparer import PreparedTexts, Preparer, open_preparer
from t5enc.text.prompts import Document, Prompt, TokenIds, count_tokens
from t5enc.text.streams import EncoderCounters, StreamEncoder
from t5enc.text.tokenizer import TokenizedTexts, Tokenizer

logger = logging.getLogger(__name__)


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
        pooler: Pooler | None = None,
    ) -> None:
        """`options` must be resolved; `from_pretrained` does all of it."""
        self.encoder = encoder
        self.preparer = preparer
        self.options = options
        self.device = torch.device(options.device or "cpu")
        assert options.token_budget is not None
        self.token_budget = options.token_budget
        self.streams = StreamEncoder(
            encoder,
            device=self.device,
            attention=options.attention,
            token_budget=options.token_budget,
            deterministic=options.deterministic,
            projection=projection,
        )
        self.pooler = pooler
        self._cache = cache
        self._saved_graphs = 0
        self._conditioning: Conditioning | None = None

    @classmethod
    def from_pretrained(cls, model: str | os.PathLike[str], **options: Unpack[LoadNames]) -> TextEncoder:
        """Load a model by hub id, folder, single file, diffusers repository, or `builtin:NAME`.

        Options are the fields of EncoderOptions: subfolder, revision, variant, token, local_files_only, tokenizer,
        recipe, recipe_options, max_length (the recipe's, or 512), dtype, device, token_budget, attention,
        compile_cache, deterministic, num_threads.
        A diffusers repository tells its recipe, with which captions are encoded as its pipeline does; recipe="none"
        takes them as they are.
        Raises ConfigError for an option that cannot be honoured, CheckpointError for files that do not fit.
        """
        asked = EncoderOptions(model=model, **options)
        checkpoint = open_model(asked.source)
        return cls.load(infer_options(asked, checkpoint.repository), checkpoint)

    @classmethod
    def load(cls, options: EncoderOptions, checkpoint: Checkpoint | None = None) -> TextEncoder:
        """What `from_pretrained` does, from options made elsewhere; `checkpoint` is what `open_model` made of them."""
        checkpoint = checkpoint or open_model(options.source)
        preparer = open_preparer(options, checkpoint)
        options = options.resolve(checkpoint.config, max_length=preparer.longest)
        if options.num_threads:
            set_num_threads(options.num_threads)
        device = torch.device(options.device or "cpu")
        cache = _open_cache(options, device)
        dtype = getattr(torch, options.dtype or "float32")
        pack = device.type == "cpu" and options.attention == "sdpa" and can_pack(dtype)
        encoder = load_encoder(checkpoint.config, checkpoint.tensors, dtype=dtype, device=device, pack=pack)
        width, variant = checkpoint.config.model_dim, options.source.variant
        projection = open_projection(preparer.recipe, checkpoint.repository, variant, device, model_dim=width)
        return cls(encoder, preparer, options, projection, cache, find_pooler(checkpoint))

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
        projection = self.streams.projection
        return self.config.model_dim if projection is None else len(projection[0])

    @property
    def counters(self) -> EncoderCounters:
        """What was done since the encoder was loaded, or since they were set anew."""
        return self.streams.counters

    @counters.setter
    def counters(self, counters: EncoderCounters) -> None:
        self.streams.counters = counters

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
        pooler = self.pooler if conditioning is None else None
        return replace(encoded.embeddings, conditioning=conditioning, pooler=pooler)

    @torch.no_grad()
    def encode_ragged(
        self,
        prompts: Sequence[Sequence[int] | TokenIds | Prompt],
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        on_stream: Callable[[list[int]], None] | None = None,
        on_rows: Callable[[Tensor, NDArray[np.int64]], None] | None = None,
    ) -> EncodedTexts:
        """Embeddings of N prompts or token lists in `dtype` on `device`; texts that fail are reported, not raised.

        What is identical is encoded once. `on_stream` is told the texts of each stream before it is computed, and
        `on_rows` given its rows before they are rounded to `dtype`, with the numbers of those that are kept.
        """
        checked = self._check_prompts(prompts)
        lengths = np.array([prompt.rows for prompt in checked], dtype=np.int64)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        values = torch.empty(int(offsets[-1]), self.dim, dtype=dtype or self.dtype, device=device or self.device)
        copies = group_identical(place_documents(checked, offsets))
        failed: dict[int, str] = {}
        for stream in self.streams.pack([len(group[0].document.ids) for group in copies]):
            groups = [copies[place] for place in stream]
            if on_stream is not None:
                on_stream(list(dict.fromkeys(placed.text for group in groups for placed in group)))
            on_hidden = None if on_rows is None else functools.partial(_tell_rows, on_rows, groups)
            hidden, bad = self.streams.encode([group[0].document for group in groups], values.dtype, on_hidden)
            failed |= {placed.text: bad[place] for place in bad for placed in groups[place]}
            scatter(hidden, groups, values)
        self._count(checked, copies)
        self._save_compiled()
        return EncodedTexts(Embeddings(values, torch.from_numpy(offsets)), dict(sorted(failed.items())))

    @torch.no_grad()
    def warm_up(self, *, all_rungs: bool = False) -> None:
        """Run the largest stream once, and with `all_rungs` every stream length there is; not counted."""
        counters, self.counters = self.counters, EncoderCounters()
        for rung in self.streams.rungs if all_rungs else self.streams.rungs[-1:]:
            length = min(rung, self.preparer.longest)
            ids = np.full(length, self.tokenizer.eos_id, dtype=np.int32)
            self.streams.encode([Document.of(ids)] * max(1, rung // length), self.dtype)
        self.counters = counters
        self._save_compiled()

    def _save_compiled(self) -> None:
        """Share what was compiled since the last time, so that the next process starts warm."""
        if self._cache is not None and self.compiled_graphs > self._saved_graphs:
            self._saved_graphs = self.compiled_graphs
            self._cache.save()

    def check_ids(self, index: int, text: Sequence[int] | TokenIds) -> TokenIds:
        """One token list as an array; InputError, naming `index`, where the encoder could not take it."""
        return check_ids(index, text, longest=self.preparer.longest, vocab_size=self.config.vocab_size)

    def _check_prompts(self, prompts: Sequence[Sequence[int] | TokenIds | Prompt]) -> list[Prompt]:
        limits = {"longest": self.preparer.longest, "vocab_size": self.config.vocab_size}
        return [check_prompt(index, prompt, **limits) for index, prompt in enumerate(prompts)]

    def _count(self, prompts: Sequence[Prompt], copies: Sequence[Sequence[PlacedDocument]]) -> None:
        self.counters.texts += len(prompts)
        self.counters.tokens += count_tokens(prompts)
        self.counters.computed_texts += len(copies)


def _tell_rows(
    on_rows: Callable[[Tensor, NDArray[np.int64]], None], groups: Sequence[Sequence[PlacedDocument]], hidden: Tensor
) -> None:
    on_rows(hidden, find_kept(groups))


def _open_cache(options: EncoderOptions, device: torch.device) -> CompileCache | None:
    """The cache that resolved options name; a warning where nothing is compiled that it could keep."""
    if options.compile_cache is None:
        return None
    if options.attention != "flex":
        _tell_unused(options.attention)
        return None
    return open_cache(options.compile_cache, device)


@functools.cache
def _tell_unused(attention: str) -> None:
    logger.warning("compile_cache: expected attention flex, got %s, which compiles nothing: it is not used", attention)
