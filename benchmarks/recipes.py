"""Captions a second that one core cleans and tokenizes, and how many cores feed one H100.

Each cleaning routine beside transformers' tokenizer alone, on the same prompts in the same process, with one thread.
What an H100 takes is an assumption that the output repeats: 55 thousand tokens a second of T5-XXL, and for base as
many more as its matrix products are fewer. `--table` prints the table of docs/recipes.md instead.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.conditions.corpus import (
    DATA,
    add_prompts,
    add_tokenizer,
    draw_prompts,
    find_tokenizer,
    make_parser,
    quieten,
)
from benchmarks.conditions.machine import Machine, publish
from benchmarks.paper.recipe_table import make_table
from pipelines.run.resolved_job import flops_per_token
from t5enc.config import EncoderConfig
from t5enc.recipes import RECIPES
from t5enc.recipes.cleaning import CLEANERS
from t5enc.recipes.recipe import Recipe
from t5enc.text.preparer import Preparer
from t5enc.text.tokenizer import Tokenizer, load_tokenizer

XXL_RATE = 55_000
ROUNDS = 5
LENGTH = 512
SHAPE: dict[str, Any] = {"family": "t5", "vocab_size": 32128, "activation": "gelu_tanh", "is_gated": True}
XXL = EncoderConfig(**SHAPE, model_dim=4096, num_layers=24, num_heads=64, head_dim=64, ff_dim=10240)
BASE = EncoderConfig(**SHAPE, model_dim=768, num_layers=12, num_heads=12, head_dim=64, ff_dim=2048)
RATES = {"T5-XXL": XXL_RATE, "base": XXL_RATE * flops_per_token(XXL) / flops_per_token(BASE)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure every routine, and print."""
    parser = make_parser(__doc__)
    add_prompts(parser)
    add_tokenizer(parser)
    parser.add_argument("--table", action="store_true", help="print what captions take on disk, and nothing else")
    options = parser.parse_args(arguments)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    quieten()
    prompts = draw_prompts(options.prompts, 40 if options.quick else 3000)
    if options.table:
        print(make_table(find_medians(prompts, load_tokenizers())))
        return
    machine = Machine()
    place = find_tokenizer(options.tokenizer)
    rows = [measure(name, prompts, load_tokenizer(Path(place), max_length=LENGTH)) for name in CLEANERS]
    rows.insert(0, measure_transformers(prompts, Path(place)))
    figures = {"benchmark": "recipes", "rates": RATES, "prompts": len(prompts), "tokenizer": place, "rows": rows}
    publish(make_figures(rows, len(prompts)), machine, figures, options)


def measure(name: Any, prompts: Sequence[str], tokenizer: Tokenizer) -> dict[str, Any]:
    """One routine: cleaning alone, and cleaning with tokenizing as an encoder is fed."""
    preparer = Preparer.under(Recipe(name=name, clean=name, max_length=LENGTH), tokenizer)
    clean = CLEANERS[name]
    tokens = sum(prompt.tokens for prompt in preparer.prepare(prompts).prompts) / len(prompts)
    cleaning = clock(lambda: [clean(prompt) for prompt in prompts]) / len(prompts)
    both = clock(lambda: preparer.prepare(prompts)) / len(prompts)
    return describe(f"clean {name}, tokenized", both, tokens) | {"cleaned_a_second": 1 / cleaning}


def measure_transformers(prompts: Sequence[str], place: Path) -> dict[str, Any]:
    """transformers' tokenizer alone, cutting and adding nothing; of a lone sentencepiece model there is none."""
    if place.is_file():
        return {"name": "transformers' tokenizer alone", "note": f"none for {place.name}"}
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(place)
    texts = list(prompts)
    tokens = sum(map(len, tokenizer(texts, truncation=True, max_length=LENGTH)["input_ids"])) / len(texts)
    seconds = clock(lambda: tokenizer(texts, truncation=True, max_length=LENGTH)) / len(texts)
    return describe("transformers' tokenizer alone", seconds, tokens)


def describe(name: str, seconds: float, tokens: float) -> dict[str, Any]:
    """Figures of one way, which takes so many seconds for a caption of so many tokens."""
    cores = {model: rate / tokens * seconds for model, rate in RATES.items()}
    return {"name": name, "captions_a_second": 1 / seconds, "tokens_a_caption": tokens, "cores": cores}


def clock(work: Callable[[], object]) -> float:
    """The median of the seconds that `work` takes on one core."""
    work()
    taken = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def make_figures(rows: Sequence[dict[str, Any]], count: int) -> Table:
    """A row a way; the last columns say how many such cores one H100 keeps busy."""
    assumed = ", ".join(f"{model} {rate:,.0f} tokens/s" for model, rate in RATES.items())
    table = Table(title=f"one core, {count:,} prompts; an H100 taken to encode {assumed}", title_justify="left")
    for column in ("", "cleaned/s", "captions/s", "tokens a caption", *(f"cores for {model}" for model in RATES)):
        table.add_column(column, justify="left" if not column else "right")
    for row in rows:
        if "note" in row:
            table.add_row(row["name"], row["note"])
            continue
        cleaned = f"{row['cleaned_a_second']:,.0f}" if "cleaned_a_second" in row else ""
        cores = [f"{value:.2f}" for value in row["cores"].values()]
        table.add_row(
            row["name"], cleaned, f"{row['captions_a_second']:,.0f}", f"{row['tokens_a_caption']:.1f}", *cores
        )
    return table


def load_tokenizers() -> dict[str, Tokenizer]:
    """The real ones beside the checkout by kind of encoder, and bytes."""
    places = {kind: DATA / "tokenizers" / kind for kind in ("t5", "umt5", "mt5")}
    found = {kind: load_tokenizer(place, max_length=LENGTH) for kind, place in places.items()}
    return found | {"byt5": load_tokenizer("byt5", max_length=LENGTH)}


def find_medians(
    prompts: Sequence[str], tokenizers: dict[str, Tokenizer], names: Sequence[str] = tuple(RECIPES)
) -> dict[str, int]:
    """The median of the rows that these families store of a prompt; no tokenizer's own limit counts."""
    found = {}
    for name in names:
        recipe = RECIPES[name]
        preparer = Preparer.under(recipe, replace(tokenizers[recipe.encoder], limit=None))
        rows = [prompt.rows for prompt in preparer.prepare(prompts).prompts]
        found[name] = int(statistics.median(rows))
    return found


if __name__ == "__main__":
    main()
