"""t5enc beside its peers, in turn, on the same prompts: useful tokens a second (pads are not counted).

Every candidate's output is compared with that of transformers in float32 first, which is its warm-up, too. Then
each round runs every candidate once, in rotated order, with segments of plain matrix products between them:
the products of the encoder at t5enc's stream length and nothing else, which is what the machine can do at best.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from rich.table import Table
from torch import Tensor

from benchmarks.conditions.corpus import (
    add_prompts,
    add_tokenizer,
    draw_prompts,
    find_tokenizer,
    make_checkpoint,
    make_parser,
    quieten,
    relative_error,
)
from benchmarks.conditions.machine import Machine, judge, publish
from benchmarks.encoders.candidates import (
    Batching,
    Candidate,
    Settings,
    encode_padded,
    leave_out_compiled,
    list_candidates,
    load_transformers,
)
from t5enc.checkpoint.opening import open_checkpoint
from t5enc.checks.bench import SEGMENTS, clock, make_products
from t5enc.model.precision import resolve_dtype
from t5enc.options import EncoderOptions
from t5enc.text.prompts import TokenIds
from t5enc.text.tokenizer import load_tokenizer

# Relative error to transformers in float32 beyond which a candidate computes something else.
TOLERANCES = {torch.float32: 1e-4, torch.bfloat16: 0.1, torch.float16: 0.02}
SHARE_TARGET = 0.85
# A slow candidate encodes one text of so many.
PART = 6


@dataclass(slots=True)
class Result:
    """What came of a candidate; `texts` are the indices that it encodes."""

    candidate: Candidate
    texts: list[int]
    error: float = 0.0
    seconds: list[float] = field(default_factory=list)

    def rate(self, ids: Sequence[TokenIds]) -> float:
        """Useful tokens a second: the median of the rounds."""
        return sum(len(ids[i]) for i in self.texts) / statistics.median(self.seconds)


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare, and print."""
    options = _parse(arguments)
    quieten()
    machine = Machine()
    settings = _make_settings(options)
    torch.set_num_threads(settings.threads)
    prompts = draw_prompts(options.prompts, options.texts)
    ids = load_tokenizer(settings.tokenizer, max_length=512).encode(prompts).ids
    results = _choose_candidates(settings, ids, compiled=options.compiled)
    check(results, ids, settings)
    rows = summarize(results, ids, measure(results, ids, settings, rounds=options.rounds))
    mean = mean_length(ids, range(len(ids)))
    figures = {"benchmark": "peers", "texts": len(ids), "mean_length": mean, "rounds": options.rounds, "rows": rows}
    title = f"{len(ids)} texts of mean length {mean:.1f}, {options.dtype}, medians of {options.rounds} rounds"
    publish(make_table(rows, title), machine, figures, options)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    add_prompts(parser)
    add_tokenizer(parser)
    parser.add_argument("--model", help="folder of a T5 checkpoint (default: t5-v1_1-base's shape, random weights)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--texts", type=int, default=192, help="how many prompts (default 192)")
    parser.add_argument("--rounds", type=int, default=4, help="how often each candidate is timed (default 4)")
    boolean = argparse.BooleanOptionalAction
    parser.add_argument("--compiled", action=boolean, help="with candidates that compile (default, but for --quick)")
    options = parser.parse_args(arguments)
    if options.compiled is None:
        options.compiled = not options.quick
    if options.quick:
        options.model = options.model or str(make_checkpoint("smoke"))
        options.texts, options.rounds = min(options.texts, 24), 1
    return options


def _make_settings(options: argparse.Namespace) -> Settings:
    return Settings(
        model=options.model or str(make_checkpoint("base")),
        tokenizer=find_tokenizer(options.tokenizer),
        device=options.device,
        dtype=resolve_dtype(options.dtype, torch.device(options.device)),
        threads=options.threads,
    )


def _choose_candidates(settings: Settings, ids: Sequence[TokenIds], *, compiled: bool) -> list[Result]:
    candidates = list_candidates(settings)
    if not compiled:
        candidates = leave_out_compiled(candidates)
    return [Result(candidate, choose_texts(candidate, ids)) for candidate in candidates]


def choose_texts(candidate: Candidate, ids: Sequence[TokenIds]) -> list[int]:
    """All texts, or for a slow candidate every sixth by length, from where their mean is nearest to that of all."""
    everything = list(range(len(ids)))
    if not candidate.is_slow:
        return everything
    by_length = sorted(everything, key=lambda i: len(ids[i]))
    wanted = mean_length(ids, everything)
    parts = [by_length[start::PART] for start in range(PART)]
    return sorted(min(parts, key=lambda part: abs(mean_length(ids, part) - wanted)))


def mean_length(ids: Sequence[TokenIds], texts: Iterable[int]) -> float:
    """Mean tokens of these texts."""
    return statistics.fmean(len(ids[i]) for i in texts)


def check(results: Sequence[Result], ids: Sequence[TokenIds], settings: Settings) -> None:
    """Each candidate's error against transformers in float32; SystemExit for one that computes something else."""
    reference = load_transformers(settings, torch.float32)
    expected = [text.cpu() for text in encode_padded(reference, Batching(is_sorted=True))(ids)]
    for result in results:
        encode = result.candidate.encode
        if encode is None:
            continue
        found: list[Tensor] = [text.cpu() for text in encode([ids[i] for i in result.texts])]
        result.error = relative_error(found, [expected[i] for i in result.texts])
        if not result.error <= TOLERANCES[settings.dtype]:
            raise SystemExit(f"{result.candidate.name}: expected transformers' output, its error is {result.error:.1e}")


def measure(results: Sequence[Result], ids: Sequence[TokenIds], settings: Settings, *, rounds: int) -> float:
    """Time every candidate `rounds` times; the tokens a second of the best segment of plain products."""
    runnable = [result for result in results if result.candidate.encode is not None]
    rows, products = _make_products(settings)
    device = torch.device(settings.device)
    repeats = -(-SEGMENTS // (rounds * len(runnable)))
    plain: list[float] = []
    for result in _take_turns(runnable, rounds):
        encode, texts = result.candidate.encode, [ids[i] for i in result.texts]
        assert encode is not None
        plain += [clock(products, device) for _ in range(repeats)]
        result.seconds.append(clock(partial(encode, texts), device))
    return rows / min(plain)


def _make_products(settings: Settings) -> tuple[int, Callable[[], None]]:
    """Rows of t5enc's streams, and all products of one."""
    config = open_checkpoint(settings.model).config
    options = EncoderOptions(model=settings.model, device=settings.device).resolve(config)
    assert options.token_budget is not None
    rows = options.token_budget
    return rows, make_products(config, rows, settings.dtype, torch.device(settings.device))


def _take_turns(results: Sequence[Result], rounds: int) -> Iterator[Result]:
    for index in range(rounds):
        first = index * len(results) // rounds
        yield from itertools.chain(results[first:], results[:first])


def summarize(results: Sequence[Result], ids: Sequence[TokenIds], plain: float) -> list[dict[str, Any]]:
    """A row of figures for each candidate, and one for the plain products."""
    ours = next(result for result in results if result.seconds).rate(ids)
    rows = [_summarize(result, ids, ours) for result in results]
    share = {"name": "plain products alone", "rate": plain, "ratio": ours / plain, "target": SHARE_TARGET}
    return [*rows, share]


def _summarize(result: Result, ids: Sequence[TokenIds], ours: float) -> dict[str, Any]:
    row = {"name": result.candidate.name, "target": result.candidate.target}
    if not result.seconds:
        return row | {"note": result.candidate.reason}
    part = f"on {len(result.texts)} texts of mean length {mean_length(ids, result.texts):.1f}"
    return row | {
        "rate": result.rate(ids),
        "ratio": ours / result.rate(ids),
        "error": result.error,
        "seconds": result.seconds,
        "note": part if result.candidate.is_slow else "",
    }


def make_table(rows: Sequence[dict[str, Any]], title: str) -> Table:
    """The rows as they are printed; the ratio is the rate of t5enc's default path to the row's own."""
    table = Table(title=title, title_justify="left")
    for column in ("candidate", "useful tokens/s", "t5enc / this", "target", "error", "note"):
        table.add_column(column, justify="left" if column in ("candidate", "target", "note") else "right")
    for row in rows:
        has_run, target = "rate" in row, row["target"]
        table.add_row(
            row["name"],
            f"{row['rate']:,.0f}" if has_run else "-",
            f"{row['ratio']:.2f}" if has_run else "-",
            judge(row["ratio"], target) if has_run and target else "",
            f"{row['error']:.1e}" if "error" in row else "",
            row.get("note", ""),
        )
    return table


if __name__ == "__main__":
    main()
