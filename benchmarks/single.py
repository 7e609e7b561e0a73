"""One text of 512 tokens at a time, as nai-t5-wrapper's page measures: milliseconds and FLOP/s of one forward.

t5enc's drop-in beside transformers and nai-t5-wrapper, with SDPA and Flex, compiled and not, with 512 real tokens and
with one (the other 511 masked; t5enc also without computing them). On CPUs the shape of t5-v1_1-base in float32; with
`--device cuda` that of t5-v1_1-xxl in bfloat16, the page's own H100 table. Random weights. FLOPs are counted once, by
torch's FlopCounterMode on transformers with SDPA, and are the same for all: what a candidate saves shows as FLOP/s.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import statistics
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from rich.table import Table
from torch import Tensor

from benchmarks.conditions.corpus import SHAPES, make_parser, quieten
from benchmarks.conditions.machine import Machine, publish
from t5enc.checks.bench import clock
from t5enc.model.precision import resolve_dtype

LENGTH = 512
XXL = SHAPES["base"] | {"d_model": 4096, "num_layers": 24, "num_heads": 64, "d_ff": 10240}
TOLERANCES = {torch.float32: 1e-4, torch.bfloat16: 0.1, torch.float16: 0.02}
Forward = Callable[[], Tensor]


@dataclass(slots=True)
class Candidate:
    """A way to encode the one text, with its times in seconds."""

    name: str
    is_compiled: bool
    real: int
    forward: Forward | None
    reason: str = ""
    seconds: list[float] = field(default_factory=list)
    error: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """(1, S) ids, and the mask with so many real tokens; None where all are."""

    ids: Tensor
    masks: dict[int, Tensor | None]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure in turn, and print."""
    options = _parse(arguments)
    quieten()
    torch.set_num_threads(options.threads)
    machine, device = Machine(), torch.device(options.device)
    dtype = resolve_dtype(options.dtype, device)
    theirs = _make_theirs(options, device, dtype)
    inputs = _make_inputs(theirs, 1 if options.quick else 0)
    candidates = list(_list_candidates(theirs, inputs, has_compiled=not options.quick))
    flops = count_flops(partial(_run, theirs, inputs.ids, None))
    _check(candidates, theirs, inputs, dtype)
    for index in range(options.rounds):
        for place in range(len(candidates)):
            _time(candidates[(index + place) % len(candidates)], device, options.repeats)
    rows = [_summarize(candidate, flops) for candidate in candidates]
    title = f"1 text of {inputs.ids.shape[1]} tokens, {options.shape}, {dtype}, {flops / 1e9:,.1f} GFLOP"
    publish(make_table(rows, title), machine, {"benchmark": "single", "flops": flops, "rows": rows}, options)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default=None, help="default: float32 on CPUs, bfloat16 on CUDA")
    parser.add_argument("--shape", choices=["base", "xxl", "smoke"], help="default: base on CPUs, xxl on CUDA")
    parser.add_argument("--rounds", type=int, default=5, help="how often the candidates take turns (default 5)")
    parser.add_argument("--repeats", type=int, default=5, help="forwards timed in a turn (default 5)")
    options = parser.parse_args(arguments)
    options.shape = options.shape or ("xxl" if options.device.startswith("cuda") else "base")
    if options.quick:
        options.shape, options.rounds, options.repeats = "smoke", 1, 1
    return options


def _make_theirs(options: argparse.Namespace, device: torch.device, dtype: torch.dtype) -> Any:
    """transformers' model with random weights, made where it will run."""
    from transformers import T5Config, T5EncoderModel

    torch.manual_seed(0)
    config = T5Config(**(SHAPES | {"xxl": XXL})[options.shape])
    with device:
        model = T5EncoderModel._from_config(config, dtype=dtype, attn_implementation="sdpa")
    return model.eval().requires_grad_(False)


def _make_inputs(theirs: Any, quick: int) -> Inputs:
    length = 32 if quick else LENGTH
    ids = torch.arange(length, device=theirs.device)[None]
    one = torch.zeros_like(ids)
    one[0, 0] = 1
    return Inputs(ids=ids, masks={length: None, 1: one})


@torch.no_grad()
def _run(model: Any, ids: Tensor, mask: Tensor | None) -> Tensor:
    hidden: Tensor = model(input_ids=ids, attention_mask=mask)[0]
    return hidden


def _list_candidates(theirs: Any, inputs: Inputs, *, has_compiled: bool) -> Iterator[Candidate]:
    is_static: dict[str, Any] = {"dynamic": False, "fullgraph": True}
    yield from _variants("transformers SDPA", theirs, False, inputs)
    ours = _make_ours(theirs, "sdpa")
    yield from _variants("t5enc SDPA", ours, False, inputs)
    yield from _variants("t5enc SDPA, no pads", _make_ours(theirs, "sdpa", pad_outputs="zero"), False, inputs, only=1)
    yield from _nai(theirs, inputs, flex=False, compiled=False)
    if not has_compiled:
        return
    yield from _variants("transformers SDPA", torch.compile(theirs, **is_static), True, inputs)
    yield from _variants("t5enc SDPA", _make_ours(theirs, "sdpa").compile(), True, inputs)
    yield from _variants("t5enc Flex", _make_ours(theirs, "flex_attention"), True, inputs)
    no_pads = _make_ours(theirs, "flex_attention", pad_outputs="zero")
    yield from _variants("t5enc Flex, no pads", no_pads, True, inputs, only=1)
    yield from _nai(theirs, inputs, flex=False, compiled=True)
    yield from _nai(theirs, inputs, flex=True, compiled=True)


def _variants(
    name: str, model: Any, is_compiled: bool, inputs: Inputs, *, only: int | None = None
) -> Iterator[Candidate]:
    for real, mask in inputs.masks.items():
        if only in (None, real):
            yield Candidate(name, is_compiled, real, partial(_run, model, inputs.ids, mask))


def _make_ours(theirs: Any, attention: str, **options: Any) -> Any:
    """Our drop-in with the same weights."""
    from t5enc.hf import T5EncoderModel

    with torch.device("meta"):
        model = T5EncoderModel._from_config(deepcopy(theirs.config), attn_implementation=attention, **options)
    model.load_state_dict(theirs.state_dict(), assign=True)
    return model.to(theirs.device).eval().requires_grad_(False)


def _nai(theirs: Any, inputs: Inputs, *, flex: bool, compiled: bool) -> Iterator[Candidate]:
    """nai-t5-wrapper has no way to take a model in memory but its own converter's."""
    name = f"nai-t5-wrapper {'Flex' if flex else 'SDPA'}"
    if importlib.util.find_spec("nai_t5_wrapper") is None:
        yield Candidate(name, compiled, inputs.ids.shape[1], None, "not installed")
        return
    model = _load_nai(theirs, flex=flex)
    yield from _variants(name, model.compile() if compiled else model, compiled, inputs)


def _load_nai(theirs: Any, *, flex: bool) -> Any:
    import tempfile

    nai_t5_wrapper: Any = importlib.import_module("nai_t5_wrapper")
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        return nai_t5_wrapper.NAIT5EncoderModel.from_pretrained(
            folder, dtype=theirs.dtype, device_map=str(theirs.device), max_seq_len=LENGTH, use_flex_attention=flex
        )


def count_flops(forward: Forward) -> int:
    """Of matrix products and attention, as torch counts them."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        forward()
    return int(counter.get_total_flops())


def _check(candidates: Sequence[Candidate], theirs: Any, inputs: Inputs, dtype: torch.dtype) -> None:
    """Every output is transformers' at the real tokens; this is the warm-up, too."""
    for candidate in candidates:
        if candidate.forward is None:
            continue
        found = candidate.forward()[0, : candidate.real].float()
        expected = _run(theirs, inputs.ids, inputs.masks[candidate.real])[0, : candidate.real].float()
        candidate.error = float((found - expected).norm() / expected.norm())
        if not candidate.error < TOLERANCES[dtype]:
            raise SystemExit(f"{candidate.name}: {candidate.error:.1e} from transformers, which is something else")


def _time(candidate: Candidate, device: torch.device, repeats: int) -> None:
    if candidate.forward is not None:
        candidate.forward()
        candidate.seconds += [clock(candidate.forward, device) for _ in range(repeats)]


def _summarize(candidate: Candidate, flops: int) -> dict[str, Any]:
    row: dict[str, Any] = {"name": candidate.name, "compiled": candidate.is_compiled, "real": candidate.real}
    if not candidate.seconds:
        return row | {"note": candidate.reason}
    median = statistics.median(candidate.seconds)
    return row | {
        "ms": 1e3 * median,
        "fastest_ms": 1e3 * min(candidate.seconds),
        "flops_per_second": flops / median,
        "error": candidate.error,
        "seconds": candidate.seconds,
    }


def make_table(rows: Sequence[dict[str, Any]], title: str) -> Table:
    """The rows as they are printed."""
    table = Table(title=title, title_justify="left")
    for column in ("implementation", "compiled", "real tokens", "FLOP/s", "ms/iter", "fastest", "iter/s", "error"):
        table.add_column(column, justify="left" if column in ("implementation", "compiled") else "right")
    for row in rows:
        cells = [row["name"], "yes" if row["compiled"] else "no", str(row["real"])]
        if "ms" not in row:
            table.add_row(*cells, row["note"])
            continue
        rate = row["flops_per_second"] / 1e9
        speed = f"{rate / 1e3:,.1f} T" if rate > 1e4 else f"{rate:,.1f} G"
        times = (f"{row['ms']:.1f}", f"{row['fastest_ms']:.1f}", f"{1e3 / row['ms']:.1f}")
        table.add_row(*cells, speed, *times, f"{row['error']:.1e}")
    return table


if __name__ == "__main__":
    main()
