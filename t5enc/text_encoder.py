"""Texts in, embeddings out: tokenizes, packs, encodes stream by stream, and puts everything back in order.

N texts, T tokens in a stream, M model dim.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from t5enc.attention import AttentionPlan, flex_block_size, plan_flex, plan_sdpa
from t5enc.builtin import is_builtin, open_builtin
from t5enc.checkpoint import Checkpoint, open_checkpoint
from t5enc.config import EncoderConfig
from t5enc.embeddings import Embeddings
from t5enc.encoder import Encoder
from t5enc.errors import InputError, PrecisionError
from t5enc.linear import can_pack
from t5enc.options import EncoderOptions
from t5enc.packing import make_rungs, pack_full, pack_sorted, pick_rung, round_rows
from t5enc.repeatability import find_floor
from t5enc.tokenizer import TokenizedTexts, Tokenizer, load_tokenizer
from t5enc.weights import load_encoder

TokenIds = NDArray[np.int32]


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

    def __init__(self, encoder: Encoder, tokenizer: Tokenizer, options: EncoderOptions) -> None:
        """`options` must be resolved; `from_pretrained` does all of it."""
        self.encoder = encoder
        self.tokenizer = tokenizer
        self.options = options
        self.counters = EncoderCounters()
        self.device = torch.device(options.device or "cpu")
        assert options.token_budget is not None
        self.token_budget = options.token_budget
        self._rungs = make_rungs(options.token_budget)
        self._floor = find_floor(encoder, self.token_budget) if options.deterministic else 1

    @classmethod
    def from_pretrained(cls, model: str | os.PathLike[str], **options: Any) -> TextEncoder:
        """Load a model by hub id, folder, single file, diffusers repository, or `builtin:NAME`.

        Options are the fields of EncoderOptions: subfolder, revision, variant, token, local_files_only, tokenizer,
        recipe, max_length (512), dtype, device, token_budget, attention, compile_cache, deterministic, num_threads.
        Raises ConfigError for an option that cannot be honoured, CheckpointError for files that do not fit.
        """
        return cls.load(EncoderOptions.from_mapping({"model": os.fspath(model), **options}))

    @classmethod
    def load(cls, options: EncoderOptions) -> TextEncoder:
        """What `from_pretrained` does, from options made elsewhere."""
        checkpoint = open_model(options)
        options = options.resolve(checkpoint.config)
        if options.compile_cache:
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(Path(options.compile_cache).expanduser())
        if options.num_threads:
            torch.set_num_threads(options.num_threads)
        tokenizer = open_tokenizer(options, checkpoint)
        device = torch.device(options.device or "cpu")
        dtype = getattr(torch, options.dtype or "float32")
        pack = device.type == "cpu" and options.attention == "sdpa" and can_pack(dtype)
        encoder = load_encoder(checkpoint.config, checkpoint.tensors, dtype=dtype, device=device, pack=pack)
        return cls(encoder, tokenizer, options)

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
        """Ragged token ids with the end token, cut to max_length, and which texts were cut."""
        return self.tokenizer.encode(texts)

    def encode(self, texts: Sequence[str]) -> Embeddings:
        """Embeddings of N texts in the order given, in the compute dtype, on the encoder's device.

        Raises InputError for what is not a text, PrecisionError naming the texts whose activations left the range.
        """
        return self.encode_tokens(self.tokenize(texts).ids)

    def encode_tokens(self, ids: Sequence[Sequence[int] | TokenIds]) -> Embeddings:
        """Embeddings of N token lists, exactly as given: no end token is added."""
        encoded = self.encode_ragged(ids)
        if encoded.failed:
            raise PrecisionError(encoded.failed)
        return encoded.embeddings

    @torch.no_grad()
    def encode_ragged(
        self,
        ids: Sequence[Sequence[int] | TokenIds],
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        on_stream: Callable[[list[int]], None] | None = None,
    ) -> EncodedTexts:
        """Embeddings of N token lists in `dtype` on `device`; texts that fail are reported, not raised.

        Identical lists are encoded once. `on_stream` is told the texts of each stream before it is computed.
        """
        tokens = [self.check_ids(index, text) for index, text in enumerate(ids)]
        lengths = np.array([len(text) for text in tokens], dtype=np.int64)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        values = torch.empty(
            int(offsets[-1]), self.config.model_dim, dtype=dtype or self.dtype, device=device or self.device
        )
        copies = group_identical(tokens)
        distinct = [group[0] for group in copies]
        failed: dict[int, str] = {}
        for stream in self._pack([len(tokens[index]) for index in distinct]):
            groups = [copies[place] for place in stream]
            if on_stream is not None:
                on_stream([index for group in groups for index in group])
            hidden, bad = self._encode_stream([tokens[group[0]] for group in groups], values.dtype)
            failed |= {index: bad[place] for place in bad for index in groups[place]}
            _scatter(hidden, groups, lengths, offsets, values)
        self._count(lengths, len(distinct))
        return EncodedTexts(Embeddings(values, torch.from_numpy(offsets)), dict(sorted(failed.items())))

    @torch.no_grad()
    def warm_up(self, *, all_rungs: bool = False) -> None:
        """Run the largest stream once, and with `all_rungs` every stream length there is; not counted."""
        counters, self.counters = self.counters, EncoderCounters()
        for rung in self._rungs if all_rungs else self._rungs[-1:]:
            length = min(rung, self.options.max_length)
            ids = np.full(length, self.tokenizer.eos_id, dtype=np.int32)
            self._encode_stream([ids] * max(1, rung // length), self.dtype)
        self.counters = counters

    def check_ids(self, index: int, text: Sequence[int] | TokenIds) -> TokenIds:
        """One token list as an array; InputError, naming `index`, where the encoder could not take it."""
        limit = self.options.max_length
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

    def _encode_stream(self, texts: Sequence[TokenIds], dtype: torch.dtype) -> tuple[Tensor, dict[int, str]]:
        """(tokens, M) of texts end to end, and the places of those that failed with the reason."""
        hidden = self._forward(texts, self._plan([len(text) for text in texts])).to(dtype)
        if torch.isfinite(hidden).all():
            return hidden, {}
        self.counters.retried_streams += 1
        parts = [self._forward([text], plan_sdpa([len(text)], self._pad(len(text)))) for text in texts]
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

    def _plan(self, lengths: Sequence[int]) -> AttentionPlan:
        used = sum(lengths)
        if self.options.attention == "sdpa":
            return plan_sdpa(lengths, self._pad(used))
        size = flex_block_size(self.device)
        return plan_flex(lengths, pick_rung(used, self._rungs), block_size=size, device=self.device)

    def _pad(self, used: int) -> int:
        return round_rows(max(used, self._floor))

    def _forward(self, texts: Sequence[TokenIds], plan: AttentionPlan) -> Tensor:
        """(tokens, M) float32; the stream's padding is cut off again."""
        ids = np.zeros(plan.total, dtype=np.int64)
        flat = np.concatenate(texts)
        ids[: len(flat)] = flat
        hidden = self.encoder.embed(torch.from_numpy(ids).to(self.device))
        self.counters.streams += 1
        self.counters.useful_tokens += len(flat)
        self.counters.stream_tokens += plan.total
        return self.encoder(hidden, plan)[: len(flat)]  # type: ignore[no-any-return]

    def _count(self, lengths: NDArray[np.int64], distinct: int) -> None:
        self.counters.texts += len(lengths)
        self.counters.tokens += int(lengths.sum())
        self.counters.computed_texts += distinct


def open_model(options: EncoderOptions) -> Checkpoint:
    """The checkpoint that options name, its weights not yet read."""
    if is_builtin(options.model):
        return open_builtin(options.model)
    return open_checkpoint(
        options.model,
        subfolder=options.subfolder,
        revision=options.revision,
        variant=options.variant,
        token=options.token,
        local_files_only=options.local_files_only,
    )


def open_tokenizer(options: EncoderOptions, checkpoint: Checkpoint) -> Tokenizer:
    """The tokenizer that options name, or the checkpoint's own."""
    return load_tokenizer(
        options.tokenizer or checkpoint.tokenizer_source,
        max_length=options.max_length,
        token=options.token,
        local_files_only=options.local_files_only,
    )


def _as_array(index: int, text: Sequence[int] | TokenIds) -> NDArray[Any]:
    try:
        return np.asarray(text)
    except ValueError as error:
        raise InputError(f"ids[{index}]: expected a flat list of token ids, got {error}") from error


def group_identical(texts: Sequence[TokenIds]) -> list[list[int]]:
    """Indices of equal token lists together, in order of first appearance."""
    groups: dict[bytes, list[int]] = {}
    for index, text in enumerate(texts):
        groups.setdefault(text.tobytes(), []).append(index)
    return list(groups.values())


def _scatter(
    hidden: Tensor,
    groups: Sequence[Sequence[int]],
    lengths: NDArray[np.int64],
    offsets: NDArray[np.int64],
    values: Tensor,
) -> None:
    """Copy each text of a stream to its rows, and to those of its copies."""
    hidden = hidden.to(values.device)
    start = 0
    for group in groups:
        rows = hidden[start : start + lengths[group[0]]]
        for index in group:
            values[offsets[index] : offsets[index + 1]] = rows
        start += len(rows)
