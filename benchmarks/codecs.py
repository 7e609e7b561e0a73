"""What each codec of stored embeddings takes, loses and costs: bits, relative errors, GB a second of one core.

Errors are medians over tokens of what storing changes, relative (L2). The numbers are drawn five ways, as distributions
of T5's hidden states are told to be, and computed by a stack of layers as wide as T5-XXL's, whose weights are random.
Speeds are of captions of 128 tokens of such hidden states, in bytes of the numbers in memory for each CPU second.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from rich.table import Table
from torch import Tensor

from benchmarks.conditions.corpus import make_parser
from benchmarks.conditions.machine import Machine, judge, publish
from t5enc.config import EncoderConfig
from t5enc.model.attention.plan import plan_sdpa
from t5enc.model.encoder import Encoder
from t5enc.storage import CODECS, decode_into, to_bytes, working_dtype
from t5enc.storage.codecs.error import measure_errors

CAPTION = 128
ROUNDS = 5
# How many times as large as the others the massive channels are, and how channels differ where all do.
MASSIVE, SPREAD = 100.0, 1.0
# What decoding int8g32 is to reach: GB of float32 for each second of a core.
TARGET = 1.0


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure every codec, and print."""
    parser = make_parser(__doc__)
    parser.add_argument("--layers", type=int, default=2, help="layers of the stack, of 0.8 GB each")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    machine = Machine()
    dim = 128 if options.quick else 4096
    inputs = draw_tokens(CAPTION if options.quick else 4 * CAPTION, dim)
    inputs["hidden states"] = compute_hidden(len(inputs["Gauss"]), dim, 1 if options.quick else options.layers)
    rows = [measure(storage, inputs) for storage in CODECS]
    figures = {"benchmark": "codecs", "dim": dim, "layers": options.layers, "massive": MASSIVE, "rows": rows}
    publish(make_figures(rows, list(inputs)), machine, figures, options)


def draw_tokens(tokens: int, dim: int) -> dict[str, Tensor]:
    """(T, M) float32 of each distribution."""
    random = np.random.default_rng(0)
    shape = (tokens, dim)
    gauss = random.standard_normal(shape)
    massive = gauss.copy()
    massive[:, random.choice(dim, 3, replace=False)] *= MASSIVE
    drawn = {
        "Gauss": gauss,
        "Laplace": random.laplace(size=shape),
        "Student t4": random.standard_t(4, shape),
        "lognormal channels": gauss * random.lognormal(0, SPREAD, dim),
        "3 massive channels": massive,
    }
    return {name: torch.from_numpy(numbers).float() for name, numbers in drawn.items()}


@torch.no_grad()
def compute_hidden(tokens: int, dim: int, layers: int) -> Tensor:
    """(T, M) float32 of a stack of T5-XXL's shape at this width, after its last norm."""
    config = EncoderConfig(
        family="t5",
        vocab_size=1000,
        model_dim=dim,
        num_layers=layers,
        num_heads=dim // 64,
        head_dim=64,
        ff_dim=dim * 5 // 2,
        activation="gelu_tanh",
        is_gated=True,
    )
    encoder, random = Encoder(config), torch.Generator().manual_seed(0)
    for weight in encoder.parameters():
        if weight.dim() == 1:  # scales of norms, which differ as much as channels do
            weight.log_normal_(0, SPREAD, generator=random)
        else:
            weight.normal_(0, weight.shape[-1] ** -0.5, generator=random)
    ids = torch.randint(config.vocab_size, (tokens,), generator=random)
    return encoder(encoder.embed(ids), plan_sdpa([CAPTION] * (tokens // CAPTION)))


def measure(storage: str, inputs: dict[str, Tensor]) -> dict[str, Any]:
    """Figures of one codec."""
    hidden = inputs["hidden states"]
    caption = hidden[:CAPTION].to(working_dtype(storage))
    stored = to_bytes(caption, storage).ravel()
    encoding = clock(lambda: to_bytes(caption, storage))
    out = torch.empty_like(caption)
    decoding = clock(lambda: decode_into(stored, storage, out))
    errors = {name: float(np.median(measure_errors(tokens, storage))) for name, tokens in inputs.items()}
    return {
        "codec": storage,
        "bits": 8 * stored.size / caption.numel(),
        "errors": errors,
        "encode_gb_a_second": caption.nbytes / encoding / 1e9,
        "decode_gb_a_second": caption.nbytes / decoding / 1e9,
    }


def clock(work: Callable[[], object]) -> float:
    """The CPU seconds of one call, the least of some rounds."""
    work()
    taken = []
    for _ in range(ROUNDS):
        started, calls = time.process_time(), 0
        while time.process_time() - started < 0.05:
            work()
            calls += 1
        taken.append((time.process_time() - started) / calls)
    return min(taken)


def make_figures(rows: Sequence[dict[str, Any]], inputs: Sequence[str]) -> Table:
    """A row a codec; plain ones are encoded by no work at all."""
    title = "bits a number; relative error, median; GB of numbers in memory for each CPU second"
    table = Table("codec", "bits", title=title, title_justify="left")
    for column in (*inputs, "encode GB/s", "decode GB/s"):
        table.add_column(column, justify="right")
    for row in rows:
        errors = [f"{100 * row['errors'][name]:.2f} %" for name in inputs]
        encode = "" if CODECS[row["codec"]].is_plain else f"{row['encode_gb_a_second']:.2f}"
        table.add_row(row["codec"], f"{row['bits']:.2f}", *errors, encode, f"{row['decode_gb_a_second']:.2f}")
    table.caption = f"int8g32 decoded, GB/s {judge(find_rate(rows, 'int8g32'), TARGET)}"
    return table


def find_rate(rows: Sequence[dict[str, Any]], codec: str) -> float:
    """GB a second that a codec is decoded at."""
    return next(float(row["decode_gb_a_second"]) for row in rows if row["codec"] == codec)


if __name__ == "__main__":
    main()
