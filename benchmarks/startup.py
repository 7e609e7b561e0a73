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
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.corpus import add_text_options, draw_prompts, find_tokenizer, make_checkpoint, make_parser
from benchmarks.machine import Machine, publish

SHORT_TEXTS = 5000
MOST_TEXTS_A_CALL = 64


def main(arguments: Sequence[str] | None = None) -> None:
    """Start encoders in turn, and print; with `--child` be one of the processes that start."""
    options = _parse(arguments)
    if options.child:
        print(json.dumps(_be_child(json.loads(options.child))))
        return
    machine = Machine()
    with tempfile.TemporaryDirectory() as cache:
        starts = [_start(name, fields, options) for name, fields in _list_starts(cache).items()]
        graphs = [_count_graphs(name, fields, options) for name, fields in _list_paths(cache).items()]
    figures = {"benchmark": "startup", "starts": starts, "graphs": graphs}
    publish(make_table(starts, graphs, options.model), machine, figures, options)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    add_text_options(parser)
    parser.add_argument("--model", help="folder of a T5 checkpoint (default: t5-v1_1-base's shape, random weights)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--child", help=argparse.SUPPRESS)
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
    """Start an encoder in a process of its own."""
    encoder = {"model": options.model, "tokenizer": find_tokenizer(options.tokenizer), "device": options.device}
    began = time.perf_counter()
    ...
