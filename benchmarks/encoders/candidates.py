"""The ways to encode that are compared: transformers, nai-t5-wrapper and t5enc, each from token ids to hidden states.

B batch, S padded length, M model dim.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from t5enc.errors import ConfigError
from t5enc.text.prompts import TokenIds
from t5enc.text_encoder import TextEncoder

BATCH = 16
PADDED = 512
Encode = Callable[[Sequence[TokenIds]], list[Tensor]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What all candidates have in common."""

    model: str
    tokenizer: str
    device: str
    dtype: torch.dtype
    threads: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A way to encode: `encode` gives each text's (tokens, M); None, with the reason, where it cannot run here."""

    name: str
    encode: Encode | None = None
    reason: str = ""
    # t5enc's own path should be this many times faster; a slow candidate encodes a part of the texts.
    target: float | None = None
    is_slow: bool = False
    is_compiled: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Batching:
    """How texts are put together for a model that pads."""

    size: int = BATCH
    is_sorted: bool = False
    multiple: int = 1
    length: int | None = None

    def batches(self, ids: Sequence[TokenIds]) -> Iterator[tuple[list[int], int]]:
        """Indices of each batch, and the length to pad it to."""
        order = sorted(range(len(ids)), key=lambda i: len(ids[i])) if self.is_sorted else list(range(len(ids)))
        for start in range(0, len(order), self.size):
            batch = order[start : start + self.size]
            longest = max(len(ids[i]) for i in batch)
            yield batch, self.length or -(-longest // self.multiple) * self.multiple


def list_candidates(settings: Settings) -> list[Candidate]:
    """t5enc's default path first, then what it is measured against."""
    return [*_own(settings), *_transformers(settings), *_nai(settings)]


def _own(settings: Settings) -> Iterator[Candidate]:
    on_cuda = settings.device.startswith("cuda")
    paths = {"t5enc Flex, compiled": {"attention": "flex"}, "t5enc SDPA": {"attention": "sdpa"}}
    for name in paths if on_cuda else reversed(paths):
        yield _load_own(name, settings, paths[name])
    yield _load_own("t5enc SDPA, deterministic", settings, {"attention": "sdpa", "deterministic": True})


def _load_own(name: str, settings: Settings, options: dict[str, Any]) -> Candidate:
    try:
        encoder = TextEncoder.from_pretrained(
            settings.model,
            tokenizer=settings.tokenizer,
            device=settings.device,
            dtype=str(settings.dtype).removeprefix("torch."),
            num_threads=settings.threads,
            **options,
        )
    except ConfigError as error:
        return Candidate(name=name, reason=str(error))
    is_compiled = encoder.options.attention == "flex"
    return Candidate(name=name, encode=lambda ids: list(encoder.encode_tokens(ids)), is_compiled=is_compiled)


def leave_out_compiled(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The same, but that those which compile for a minute or so do not run."""
    return [replace(one, encode=None, reason="left out: it compiles") if one.is_compiled else one for one in candidates]


def load_transformers(settings: Settings, dtype: torch.dtype) -> Any:
    """transformers' encoder with SDPA."""
    from transformers import T5EncoderModel

    model = T5EncoderModel.from_pretrained(settings.model, dtype=dtype, attn_implementation="sdpa")
    return model.eval().to(settings.device)


def _transformers(settings: Settings) -> Iterator[Candidate]:
    model = load_transformers(settings, settings.dtype)
    compiled = torch.compile(model, dynamic=True)
    yield Candidate(
        name=f"transformers SDPA, padded to {PADDED}",
        encode=encode_padded(model, Batching(length=PADDED)),
        target=13,
        is_slow=True,
    )
    yield Candidate(
        name=f"transformers SDPA, random batches of {BATCH}", encode=encode_padded(model, Batching()), target=4
    )
    yield Candidate(name="transformers SDPA, sorted", encode=encode_padded(model, Batching(is_sorted=True)), target=1.4)
    yield Candidate(
        name="transformers SDPA, sorted, compiled",
        encode=encode_padded(compiled, Batching(is_sorted=True, multiple=16)),
        target=1.25,
        is_compiled=True,
    )


def _nai(settings: Settings) -> Iterator[Candidate]:
    """nai-t5-wrapper: its page's own setting is compiled Flex on one text of 512 tokens at a time."""
    flex, sdpa = f"nai-t5-wrapper Flex, compiled, padded to {PADDED}", "nai-t5-wrapper SDPA, sorted"
    if importlib.util.find_spec("nai_t5_wrapper") is None:
        yield from (Candidate(name=name, reason="not installed") for name in (flex, sdpa))
        return
    model = _load_nai(settings, use_flex=True).compile()
    one_by_one = encode_padded(model, Batching(size=1, length=PADDED))
    yield Candidate(name=flex, encode=one_by_one, target=8, is_slow=True, is_compiled=True)
    model = _load_nai(settings, use_flex=False)
    yield Candidate(name=sdpa, encode=encode_padded(model, Batching(is_sorted=True)))


def _load_nai(settings: Settings, *, use_flex: bool) -> Any:
    nai_t5_wrapper: Any = importlib.import_module("nai_t5_wrapper")
    return nai_t5_wrapper.NAIT5EncoderModel.from_pretrained(
        settings.model,
        dtype=settings.dtype,
        device_map=settings.device,
        max_seq_len=PADDED,
        use_flex_attention=use_flex,
    )


def encode_padded(model: Any, batching: Batching) -> Encode:
    """An encoder of padded batches, for a model with the interface of transformers."""
    device = next(iter(model.parameters())).device

    @torch.no_grad()
    def encode(ids: Sequence[TokenIds]) -> list[Tensor]:
        found: dict[int, Tensor] = {}
        for batch, length in batching.batches(ids):
            tokens, mask = pad([ids[i] for i in batch], length)
            hidden = model(input_ids=tokens.to(device), attention_mask=mask.to(device)).last_hidden_state
            found |= {index: hidden[row, : len(ids[index])] for row, index in enumerate(batch)}
        return [found[index] for index in range(len(ids))]

    return encode


def pad(ids: Sequence[TokenIds], length: int) -> tuple[Tensor, Tensor]:
    """(B, S) token ids padded with T5's zero, and the (B, S) mask of the real ones."""
    tokens = np.zeros((len(ids), length), dtype=np.int64)
    for row, text in enumerate(ids):
        tokens[row, : len(text)] = text
    mask = np.arange(length) < np.array([[len(text)] for text in ids])
    return torch.from_numpy(tokens), torch.from_numpy(mask.astype(np.int64))
