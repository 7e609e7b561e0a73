"""`t5enc serve` under load, beside the engine alone and beside other servers that can host a T5 encoder.

Clients send one prompt a request, over HTTP on the same machine, and their work counts too. Closed loop: 1, 8 and 64
clients, each of which waits for its answer. Open loop: prompts at random moments, at 80 % of what 64 clients got.
Then one short prompt at a time, by HTTP and by the engine in turn. Every prompt is sent once and nothing is answered
from memory. All servers run one after the other, and the answers of each are compared with the engine's first.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from functools import partial

import httpx2
import torch
from rich.table import Table
from torch import Tensor

from benchmarks.conditions.corpus import (
    add_prompts,
    add_tokenizer,
    draw_prompts,
    find_tokenizer_folder,
    make_checkpoint,
    make_parser,
    quieten,
    relative_error,
)
from benchmarks.conditions.machine import Machine, judge, publish
from benchmarks.service.servers import INFINITY, PLAIN, T5ENC, T5ENC_POOLED, Server, run_infinity, run_plain, run_t5enc
from benchmarks.service.traffic import Ask, Run, run_closed, run_open
from t5enc.checks.bench import clock
from t5enc.embeddings import Embeddings
from t5enc.text_encoder import TextEncoder

# Clients, and prompts for each of them.
CLOSED = {1: 20, 8: 10, 64: 4}
MOST_CLIENTS = 64
OPEN_SHARE = 0.8
OPEN_PROMPTS = 100
SHORT_ROUNDS, SHORT_RUN = 3, 20
CHECKED = 8
TOLERANCE = 1e-4
THROUGHPUT_TARGET = 0.9
OVERHEAD_TARGET = 5.0
SHORT_PROMPT = "a red fox in the snow"
TIMEOUT = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One server under one kind of load; latencies in milliseconds."""

    server: str
    load: str
    rate: float
    p50: float
    p99: float


class Corpus:
    """Prompts that are drawn once each, with their lengths in tokens."""

    def __init__(self, prompts: Sequence[str], encoder: TextEncoder) -> None:
        self.lengths = dict(zip(prompts, map(len, encoder.tokenize(prompts).ids), strict=True))
        self.prompts = list(self.lengths)

    def rate(self, prompts: Sequence[str], seconds: float) -> float:
        """Useful tokens a second."""
        return sum(self.lengths[prompt] for prompt in prompts) / seconds


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print."""
    options = parse(arguments)
    quieten()
    machine = Machine(counts_others=False)
    model = str(make_checkpoint("smoke" if options.quick else "base"))
    tokenizer = find_tokenizer_folder(options.tokenizer)
    encoder = TextEncoder.from_pretrained(model, tokenizer=tokenizer, device="cpu", num_threads=options.threads)
    corpus = Corpus(draw_prompts(options.prompts, MOST_CLIENTS * options.closed[MOST_CLIENTS]), encoder)
    encoder.warm_up()
    rows, overhead = [], {}
    engine = [measure_engine(encoder, corpus)]
    for server, start in list_servers(options, model, tokenizer):
        with start() as address:
            found, single = asyncio.run(measure_server(server, address, corpus, encoder, options))
        rows += found
        overhead[server.name] = single
        engine.append(measure_engine(encoder, corpus))
    figures = {"benchmark": "serve", "engine": engine, "rows": [asdict(row) for row in rows], "single": overhead}
    publish(make_table(rows, engine, overhead), machine, figures, options)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Options of the command line."""
    parser = make_parser(__doc__)
    add_prompts(parser)
    add_tokenizer(parser)
    parser.add_argument("--infinity", metavar="PROGRAM", help="infinity_emb of an environment of its own")
    parser.add_argument("--no-peers", action="store_true", help="t5enc alone")
    options = parser.parse_args(arguments)
    options.closed, options.open_prompts, options.rounds = CLOSED, OPEN_PROMPTS, SHORT_ROUNDS
    if options.quick:
        options.closed, options.open_prompts, options.rounds = {1: 2, MOST_CLIENTS: 1}, 8, 2
    return options


def list_servers(
    options: argparse.Namespace, model: str, tokenizer: str
) -> Iterator[tuple[Server, Callable[[], AbstractContextManager[str]]]]:
    """What is measured, and how each is started."""
    same = (model, tokenizer, options.threads)
    yield T5ENC, partial(run_t5enc, *same)
    yield T5ENC_POOLED, partial(run_t5enc, *same)
    if not options.no_peers:
        yield PLAIN, partial(run_plain, *same)
        if program := options.infinity or shutil.which("infinity_emb"):
            yield INFINITY, partial(run_infinity, program, *same)


def measure_engine(encoder: TextEncoder, corpus: Corpus) -> float:
    """Useful tokens a second of the engine with all prompts in one call, which it sorts by length."""
    ids = encoder.tokenize(corpus.prompts).ids
    return corpus.rate(corpus.prompts, clock(lambda: encoder.encode_ragged(ids), encoder.device))


async def measure_server(
    server: Server, address: str, corpus: Corpus, encoder: TextEncoder, options: argparse.Namespace
) -> tuple[list[Row], dict[str, float]]:
    """Rows of every load, and the milliseconds of a short prompt."""
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=MOST_CLIENTS)
    async with httpx2.AsyncClient(base_url=address, timeout=TIMEOUT, limits=limits) as client:
        await check(server, client, corpus, encoder)
        ask = partial(fetch, server, client)
        rows = [await measure_closed(server, ask, corpus, clients, each) for clients, each in options.closed.items()]
        rows.append(await measure_open(server, ask, corpus, rows[-1].rate, options.open_prompts))
        return rows, await measure_single(ask, encoder, options.rounds)


async def fetch(server: Server, client: httpx2.AsyncClient, prompt: str) -> httpx2.Response:
    """A whole answer; what is no success ends the benchmark."""
    answer = await client.send(server.request(client, prompt))
    return answer.raise_for_status()


async def check(server: Server, client: httpx2.AsyncClient, corpus: Corpus, encoder: TextEncoder) -> None:
    """ValueError where a server computes something else than the engine does."""
    prompts = corpus.prompts[:CHECKED]
    answers = [server.read(await fetch(server, client, prompt)) for prompt in prompts]
    expected = make_expected(server, encoder.encode(prompts))
    error = relative_error(answers, expected)
    if not error < TOLERANCE:
        raise ValueError(f"{server.name}: expected the engine's embeddings within {TOLERANCE}, got {error:.1e}")


def make_expected(server: Server, embeddings: Embeddings) -> list[Tensor]:
    """What the server should answer, text by text."""
    if server.pooled:
        return list(embeddings.pooled("mean", normalize=True)[:, None])
    return [text.float() for text in embeddings]


async def measure_closed(server: Server, ask: Ask, corpus: Corpus, clients: int, each: int) -> Row:
    """So many clients at once."""
    prompts = corpus.prompts[: clients * each]
    run = await run_closed(ask, prompts, clients)
    return describe(server, f"{clients} clients", corpus.rate(prompts, run.seconds), run)


async def measure_open(server: Server, ask: Ask, corpus: Corpus, capacity: float, count: int) -> Row:
    """Prompts at random moments, at a share of the rate that was reached before."""
    prompts = corpus.prompts[:count]
    mean = statistics.mean(corpus.lengths[prompt] for prompt in prompts)
    rate = OPEN_SHARE * capacity / mean
    run = await run_open(ask, prompts, rate)
    return describe(server, f"{rate:.1f} prompts/s", corpus.rate(prompts, run.seconds), run)


def describe(server: Server, load: str, rate: float, run: Run) -> Row:
    """A run's figures."""
    return Row(server=server.name, load=load, rate=rate, p50=1000 * run.quantile(0.5), p99=1000 * run.quantile(0.99))


async def measure_single(ask: Ask, encoder: TextEncoder, rounds: int) -> dict[str, float]:
    """Median milliseconds of one short prompt alone, by HTTP and by the engine, some of each in turn.

    Not one of each: for some milliseconds after its work, a thread of the one spins on a core that the other needs.
    """
    sent: list[float] = []
    alone: list[float] = []
    for _ in range(rounds):
        sent += [await _time_request(ask) for _ in range(SHORT_RUN)]
        alone += [clock(lambda: encoder.encode([SHORT_PROMPT]), torch.device("cpu")) for _ in range(SHORT_RUN)]
    http, engine = 1000 * statistics.median(sent), 1000 * statistics.median(alone)
    return {"http_ms": http, "engine_ms": engine, "overhead_ms": http - engine}


async def _time_request(ask: Ask) -> float:
    started = time.perf_counter()
    await ask(SHORT_PROMPT)
    return time.perf_counter() - started


def make_table(rows: Sequence[Row], engine: Sequence[float], single: dict[str, dict[str, float]]) -> Table:
    """Every load of every server, and what a short prompt takes."""
    alone = statistics.mean(engine)
    table = Table("server", "load", "useful tokens/s", "to the engine", "p50 ms", "p99 ms", title_justify="left")
    table.title = f"engine alone: {alone:,.0f} useful tokens/s ({min(engine):,.0f} to {max(engine):,.0f})"
    for row in rows:
        share = f"{row.rate / alone:.2f}"
        if row.server == T5ENC.name and row.load == f"{MOST_CLIENTS} clients":
            share += f" ({judge(row.rate / alone, THROUGHPUT_TARGET)})"
        table.add_row(row.server, row.load, f"{row.rate:,.0f}", share, f"{row.p50:,.0f}", f"{row.p99:,.0f}")
    for name, figures in single.items():
        text = "{http_ms:.1f}, the engine alone {engine_ms:.1f}".format_map(figures)
        verdict = f" ({judge(figures['overhead_ms'], OVERHEAD_TARGET, at_most=True)})" if name == T5ENC.name else ""
        table.add_row(name, "a short prompt", "", "", text, f"{figures['overhead_ms']:+.1f}{verdict}")
    return table


if __name__ == "__main__":
    main()
