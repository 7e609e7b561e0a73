"""Seconds until an encoder is ready, and the graphs that it has compiled after thousands of short, varied texts.

"Ready" is what an actor waits for: loaded, and its largest stream run once. Each start is a process of its own;
"from nothing" counts from its creation, imports included. The cold cache of compiled kernels is an empty folder, the
warm one is the same folder again.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

from rich.table import Table

from benchmarks.conditions.corpus import (
    add_prompts,
    add_tokenizer,
    find_tokenizer,
    make_checkpoint,
    make_parser,
    make_short_texts,
)
from benchmarks.conditions.machine import Machine, publish

SHORT_TEXTS = 5000
MOST_TEXTS_A_CALL = 64


def main(arguments: Sequence[str] | None = None) -> None:
    """Start encoders in turn, and print; with `--child` be one of the processes that start."""
    options = _parse(arguments)
    if options.child:
        print(json.dumps(_be_child(**json.load(sys.stdin))))
        return
    machine = Machine()
    with tempfile.TemporaryDirectory() as cache:
        starts = [_start(name, fields, options) for name, fields in _list_starts(cache).items()]
        graphs = [_count(name, fields, options) for name, fields in _list_paths(cache).items()]
    figures = {"benchmark": "startup", "model": options.model, "starts": starts, "graphs": graphs}
    publish(make_table(starts, graphs), machine, figures, options)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    add_prompts(parser)
    add_tokenizer(parser)
    parser.add_argument("--model", help="folder of a T5 checkpoint (default: t5-v1_1-base's shape, random weights)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if not options.child:
        options.model = options.model or str(make_checkpoint("smoke" if options.quick else "base"))
    return options


def _list_starts(cache: str) -> dict[str, dict[str, Any]]:
    return {
        "SDPA": {"attention": "sdpa"},
        "Flex, cold cache": {"attention": "flex", "compile_cache": cache},
        "Flex, warm cache": {"attention": "flex", "compile_cache": cache},
    }


def _list_paths(cache: str) -> dict[str, dict[str, Any]]:
    return {"SDPA": {"attention": "sdpa"}, "Flex": {"attention": "flex", "compile_cache": cache}}


def _start(name: str, fields: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    model = {"model": options.model, "tokenizer": find_tokenizer(options.tokenizer)}
    return {"name": name} | _run_child(model | fields, [], options)


def _count(name: str, fields: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Graphs of the tiny built-in model, after texts in calls of any size."""
    short = {"max_length": 32, "token_budget": 32} if options.quick else {}
    texts = make_short_texts(options.prompts, 50 if options.quick else SHORT_TEXTS)
    return {"name": name, "texts": len(texts)} | _run_child({"model": "builtin:tiny"} | fields | short, texts, options)


def _run_child(encoder: dict[str, Any], texts: list[str], options: argparse.Namespace) -> dict[str, Any]:
    encoder |= {"device": options.device, "num_threads": options.threads}
    task = {"encoder": encoder, "texts": texts, "began": time.time()}
    command = [sys.executable, "-m", "benchmarks.startup", "--child"]
    child = subprocess.run(command, input=json.dumps(task), stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(child.stdout))


def _be_child(*, encoder: dict[str, Any], texts: list[str], began: float) -> dict[str, Any]:
    from t5enc.text_encoder import TextEncoder

    started = time.perf_counter()
    ready = TextEncoder.from_pretrained(**encoder)
    loaded = time.perf_counter()
    ready.warm_up()
    seconds = {"load": loaded - started, "warm_up": time.perf_counter() - loaded, "from_nothing": time.time() - began}
    for call in _cut_calls(texts):
        ready.encode(call)
    return seconds | {"compiled_graphs": ready.compiled_graphs}


def _cut_calls(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    draw, start = random.Random(1), 0
    while start < len(texts):
        size = draw.randint(1, MOST_TEXTS_A_CALL)
        yield texts[start : start + size]
        start += size


def make_table(starts: Sequence[dict[str, Any]], graphs: Sequence[dict[str, Any]]) -> Table:
    """Starts, and below them the graphs."""
    table = Table(title="seconds until ready", title_justify="left")
    for column in ("encoder", "load", "first stream", "from nothing", "compiled graphs"):
        table.add_column(column, justify="left" if column == "encoder" else "right")
    for row in starts:
        times = (f"{row[name]:.1f}" for name in ("load", "warm_up", "from_nothing"))
        table.add_row(row["name"], *times, str(row["compiled_graphs"]))
    for row in graphs:
        name = f"{row['name']}, builtin:tiny, {row['texts']:,} texts"
        table.add_row(name, "", "", "", str(row["compiled_graphs"]))
    return table


if __name__ == "__main__":
    main()
