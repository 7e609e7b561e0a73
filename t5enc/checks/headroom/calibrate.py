"""How large a model's activations grow on a set of texts, layer by layer, and what room a 16-bit dtype leaves them.

Measured in float32 by hooks on a plain encoder. T tokens in a stream, H heads, D head dim, F feed-forward dim.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t5enc.checkpoint.opening import open_model
from t5enc.checkpoint.weights import load_encoder
from t5enc.checks.json_report import read_versions
from t5enc.errors import PrecisionError
from t5enc.model.attention.plan import plan_sdpa
from t5enc.model.encoder import Encoder
from t5enc.model.layers import Block
from t5enc.model.packing import pack_sorted
from t5enc.model.precision import input_scale, resolve_dtype
from t5enc.options import EncoderOptions
from t5enc.text.preparer import open_tokenizer
from t5enc.text.prompts import TokenIds


@dataclass(frozen=True, slots=True)
class Site:
    """A place in a block, and how activations are held there: plainly in the compute dtype, in it after `input_scale`
    ("scaled"), or in float32. The title has the line breaks of a narrow column.
    """

    name: str
    title: str
    holds: str


# What attention returns is held as it is before it is scaled for the output product. The two products that write to
# the residual see scaled inputs, so they are as small; CUDA does not even round them.
SITES = (
    Site("normed", "normed\ninputs", "plain"),
    Site("queries_keys", "queries,\nkeys", "plain"),
    Site("values", "values", "plain"),
    Site("attended", "attended", "plain"),
    Site("attention_output", "attention\noutput", "scaled"),
    Site("up", "up\nproduct", "plain"),
    Site("gated", "gated,\ninput of\ndown", "scaled"),
    Site("down_output", "down\noutput", "scaled"),
    Site("residual", "residual\n(float32)", "float32"),
)


@dataclass(frozen=True, slots=True)
class Peak:
    """The largest absolute value at a site, and the powers of two from there to the dtype's largest number.

    `headroom` is None for what stays in float32, infinite where all values are zero.
    """

    largest: float
    headroom: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Peaks of every layer by site; `tightest` is the (layer, site) with the least headroom."""

    model: str
    dtype: str
    device: str
    texts: int
    tokens: int
    limit: float
    input_scale: float
    versions: dict[str, str]
    layers: tuple[dict[str, Peak], ...]
    tightest: tuple[int, str]

    @property
    def headroom(self) -> float:
        """Powers of two between the dtype's largest number and what it has to hold; negative where that is larger."""
        layer, site = self.tightest
        found = self.layers[layer][site].headroom
        assert found is not None
        return found


def calibrate(options: EncoderOptions, texts: Sequence[str]) -> Calibration:
    """Encode the texts in float32 and note the largest value at every site of every layer.

    `options.dtype` is the dtype to judge (float16 if none). PrecisionError where even float32 is left.
    """
    dtype = resolve_dtype(options.dtype or "float16", torch.device("cpu"))
    checkpoint = open_model(options.source)
    resolved = options.resolve(checkpoint.config)
    ids = open_tokenizer(options, checkpoint).encode(texts).ids
    device = torch.device(resolved.device or "cpu")
    encoder = load_encoder(checkpoint.config, checkpoint.tensors, dtype=torch.float32, device=device)
    assert resolved.token_budget is not None
    layers = [add_headroom(peaks, dtype) for peaks in find_peaks(encoder, ids, resolved.token_budget)]
    return Calibration(
        model=options.source.model,
        dtype=str(dtype).removeprefix("torch."),
        device=str(device),
        texts=len(ids),
        tokens=sum(len(text) for text in ids),
        limit=torch.finfo(dtype).max,
        input_scale=input_scale(dtype),
        versions=read_versions(),
        layers=tuple(layers),
        tightest=find_tightest(layers),
    )


@torch.no_grad()
def find_peaks(encoder: Encoder, ids: Sequence[TokenIds], token_budget: int) -> list[dict[str, float]]:
    """The largest absolute value at each site, a dictionary a layer, of an unpacked float32 encoder."""
    watches = [Watch() for _ in encoder.blocks]
    handles = [handle for block, watch in zip(encoder.blocks, watches, strict=True) for handle in watch.attach(block)]
    for stream in pack_sorted([len(text) for text in ids], token_budget):
        _encode(encoder, {text: ids[text] for text in stream})
    for handle in handles:
        handle.remove()
    return [watch.peaks for watch in watches]


def _encode(encoder: Encoder, texts: dict[int, TokenIds]) -> None:
    """One stream of texts by number; PrecisionError names those that are not finite."""
    lengths = [len(text) for text in texts.values()]
    flat = torch.from_numpy(np.concatenate(list(texts.values()))).long().to(encoder.embedding.weight.device)
    is_finite = encoder(encoder.embed(flat), plan_sdpa(lengths)).isfinite().all(-1)
    bad = [number for number, rows in zip(texts, torch.split(is_finite, lengths), strict=True) if not rows.all()]
    if bad:
        raise PrecisionError(dict.fromkeys(bad, "activations left the range of float32"))


@dataclass(slots=True)
class Watch:
    """Hooks on one block, and the peaks that they have seen."""

    peaks: dict[str, float] = field(default_factory=lambda: dict.fromkeys((site.name for site in SITES), 0.0))

    def attach(self, block: nn.Module) -> list[Any]:
        """Watch a block; returns the handles of the hooks."""
        assert isinstance(block, Block)
        attention, feed_forward = block.attention, block.feed_forward
        hooks: list[tuple[nn.Module, Callable[..., None]]] = [
            (block.attention_norm, partial(self._see_result, "normed")),
            (block.feed_forward_norm, partial(self._see_result, "normed")),
            (attention.qkv, self._see_qkv),
            (attention.output, partial(self._see_sum, "attended", "attention_output")),
            (feed_forward.up, self._see_up),
            (feed_forward.down, partial(self._see_sum, "gated", "down_output")),
            (block, partial(self._see_result, "residual")),
        ]
        return [module.register_forward_hook(hook, with_kwargs=True) for module, hook in hooks]

    def _note(self, site: str, values: Tensor) -> None:
        self.peaks[site] = max(self.peaks[site], float(values.abs().max()))

    def _see_result(self, site: str, _: nn.Module, inputs: Any, named: Any, result: Tensor) -> None:
        self._note(site, result)

    def _see_qkv(self, _: nn.Module, inputs: Any, named: Any, result: Tensor) -> None:
        """(T, 3 H D): queries, keys, values."""
        queries, keys, values = result.chunk(3, dim=-1)
        self._note("queries_keys", queries)
        self._note("queries_keys", keys)
        self._note("values", values)

    def _see_up(self, layer: nn.Linear, inputs: tuple[Tensor, ...], named: Any, result: Tensor) -> None:
        """The layer returns the product activated and gated: it is computed once more to see it bare."""
        self._note("up", F.linear(inputs[0], layer.weight))

    def _see_sum(
        self, before: str, after: str, _: nn.Module, inputs: tuple[Tensor, ...], named: dict[str, Any], result: Tensor
    ) -> None:
        """The layer returns the residual plus its product, which is the difference within the residual's rounding."""
        self._note(before, inputs[0])
        self._note(after, result - named["residual"])


def add_headroom(peaks: dict[str, float], dtype: torch.dtype) -> dict[str, Peak]:
    """Peaks of one layer with the room that `dtype` leaves each."""
    return {site.name: Peak(peaks[site.name], _headroom(peaks[site.name], site, dtype)) for site in SITES}


def _headroom(largest: float, site: Site, dtype: torch.dtype) -> float | None:
    if site.holds == "float32":
        return None
    held = largest * (input_scale(dtype) if site.holds == "scaled" else 1.0)
    return math.log2(torch.finfo(dtype).max / held) if held else math.inf


def find_tightest(layers: Sequence[dict[str, Peak]]) -> tuple[int, str]:
    """The layer and site with the least headroom."""
    rooms = {
        (layer, site): peak.headroom
        for layer, peaks in enumerate(layers)
        for site, peak in peaks.items()
        if peak.headroom is not None
    }
    return min(rooms, key=rooms.__getitem__)
