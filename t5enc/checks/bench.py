"""Useful tokens a second of an encoder, beside what its matrix products alone reach on the same device.

T tokens in a stream.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table

from t5enc.checkpoint.builtin import sample_captions
from t5enc.config import EncoderConfig
from t5enc.errors import InputError
from t5enc.options import EncoderOptions
from t5enc.text.prompts import count_tokens
from t5enc.text_encoder import TextEncoder

SEGMENTS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchResult:
    """Figures of one run; rates are useful tokens a second."""

    encoder: float
    products: float
    tokens: int
    texts: int
    fill: float
    load_seconds: float
    graphs: int

    @property
    def share(self) -> float:
        """The encoder's rate as a share of the plain products'."""
        return self.encoder / self.products


def run_bench(options: EncoderOptions, texts: str | None, *, rounds: int) -> BenchResult:
    """Load, measure and print."""
    captions = read_lines(texts) if texts else sample_captions()
    started = time.perf_counter()
    encoder = TextEncoder.load(options)
    encoder.warm_up()
    loaded = time.perf_counter() - started
    result = measure(encoder, captions, rounds=rounds, load_seconds=loaded)
    print_result(encoder, result)
    return result


def read_lines(path: str) -> list[str]:
    """Captions of a text file, one a line."""
    try:
        lines = [line for line in Path(path).read_text(encoding="utf-8").splitlines() if line]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: expected a UTF-8 text file, got: {error}") from error
    if not lines:
        raise InputError(f"{path}: expected one caption a line, got none")
    return lines


def measure(encoder: TextEncoder, captions: Sequence[str], *, rounds: int, load_seconds: float = 0.0) -> BenchResult:
    """Encode the captions `rounds` times, with segments of plain products between."""
    prompts = encoder.prepare(captions).prompts
    tokens = count_tokens(prompts)
    products = make_products(encoder.config, encoder.token_budget, encoder.dtype, encoder.device)
    encoding, plain = [], []
    for _ in range(rounds):
        plain += [clock(products, encoder.device) for _ in range(-(-SEGMENTS // rounds))]
        encoding.append(clock(lambda: encoder.encode_ragged(prompts), encoder.device))
    computed = encoder.counters.computed_texts / max(1, encoder.counters.texts)
    return BenchResult(
        encoder=tokens / statistics.median(encoding),
        products=encoder.token_budget / min(plain),
        tokens=tokens,
        texts=len(prompts),
        fill=encoder.counters.fill * computed,
        load_seconds=load_seconds,
        graphs=encoder.compiled_graphs,
    )


def clock(work: Callable[[], object], device: torch.device) -> float:
    """Seconds that `work` takes, the device's queue included."""
    _synchronize(device)
    started = time.perf_counter()
    work()
    _synchronize(device)
    return time.perf_counter() - started


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def make_products(config: EncoderConfig, rows: int, dtype: torch.dtype, device: torch.device) -> Callable[[], None]:
    """All matrix products of one stream of T rows, as PyTorch's own linear does them, and nothing else."""
    wide = config.ff_dim * (2 if config.is_gated else 1)
    shapes = [
        (config.model_dim, 3 * config.inner_dim),
        (config.inner_dim, config.model_dim),
        (config.model_dim, wide),
        (config.ff_dim, config.model_dim),
    ]
    inputs = {size: torch.randn(rows, size, dtype=dtype, device=device) for size, _ in shapes}
    layers = [
        (size, torch.randn(out, size, dtype=dtype, device=device))
        for (size, out), _ in itertools.product(shapes, range(config.num_layers))
    ]

    @torch.no_grad()
    def run() -> None:
        for size, weight in layers:
            F.linear(inputs[size], weight)

    return run


def print_result(encoder: TextEncoder, result: BenchResult) -> None:
    """The figures as a table."""
    options = encoder.options
    table = Table("figure", "value", title=f"{options.source.model} on {options.device}", title_justify="left")
    for name, value in {
        "corpus": f"{result.texts:,} texts, {result.tokens:,} tokens",
        "settings": f"{options.dtype}, {options.attention}, streams of {options.token_budget} tokens",
        "load and warm-up": f"{result.load_seconds:.1f} s, {result.graphs} compiled graphs",
        "useful tokens/s": f"{result.encoder:,.0f}",
        "plain products alone": f"{result.products:,.0f} tokens/s",
        "share of the products": f"{result.share:.0%}",
        "stream fill": f"{result.fill:.1%}",
    }.items():
        table.add_row(name, value)
    Console().print(table)
