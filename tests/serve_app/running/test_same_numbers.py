"""What `/encode` answers is what the library and `t5enc encode` make of the same texts, however busy the service is."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from serve_app.client import Client
from t5enc import load_embeddings
from t5enc.checkpoint.builtin import sample_captions
from t5enc.embeddings import Embeddings
from tests.serve_app.running.real_serve import MODEL, load_encoder
from tests.serve_app.running.service import KEY, Service

pytestmark = pytest.mark.xdist_group("ray")
# Two sets, so that nothing asked for under load is answered from what was asked for before.
QUIET = sample_captions()
BUSY = [f"Seen in a busy hour: {caption}" for caption in QUIET]
READERS, OTHERS = 4, 4
Stored = dict[str, Embeddings]


def write_stored(folder: Path, *options: str) -> Stored:
    """What `t5enc encode` writes to Parquet for both sets, in float32."""
    pq.write_table(pa.table({"caption": [*QUIET, *BUSY]}), folder / "captions.parquet")
    command = [sys.executable, "-m", "t5enc", "encode", str(folder / "captions.parquet"), "-o", str(folder / "out")]
    command += ["--model", MODEL, "--max-length", "64", "--storage-dtype", "float32", "--actors", "1", *options]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    _, embeddings = load_embeddings(folder / "out")
    return {"quiet": embeddings[: len(QUIET)], "busy": embeddings[len(QUIET) :]}


def encode_alone(client: Client, texts: Sequence[str]) -> Embeddings:
    """A request a text, one after the other."""
    return Embeddings.concatenate([client.encode([text]) for text in texts])


def encode_busily(service: Service, texts: Sequence[str]) -> Embeddings:
    """All texts in requests of mixed sizes from several threads, in any order, while others ask for other things."""
    done = threading.Event()
    with Client(service.url, key=KEY) as client, ThreadPoolExecutor(READERS + OTHERS) as pool:
        others = [pool.submit(disturb, service, number, done) for number in range(OTHERS)]
        try:
            parts = deal(len(texts))
            found = pool.map(lambda part: client.encode([texts[place] for place in part]), parts)
            answers = {place: text for part, answer in zip(parts, found, strict=True) for place, text in
                       zip(part, answer, strict=True)}  # fmt: skip
        finally:
            done.set()
        assert all(other.result() > 0 for other in others)
    tokens = [answers[place] for place in range(len(texts))]
    return Embeddings.from_lengths(torch.cat(tokens), [len(text) for text in tokens])


def deal(count: int) -> list[list[int]]:
    """All places in a random order, in runs of 1 to 12."""
    chance = random.Random(4)
    places = chance.sample(range(count), count)
    return list(_cut(places, chance))


def _cut(places: list[int], chance: random.Random) -> Iterator[list[int]]:
    while places:
        size = chance.randint(1, 12)
        yield places[:size]
        places = places[size:]


def disturb(service: Service, number: int, done: threading.Event) -> int:
    """Ask for many other things until told to stop; how many were answered."""
    chance = random.Random(number)
    asked = 0
    with httpx2.Client(base_url=service.url, headers=service.headers, timeout=60) as http:
        while not done.is_set():
            texts = [f"{number} {asked} " + "bird " * chance.randint(1, 28) for _ in range(chance.randint(1, 8))]
            path, body = chance.choice(
                [("/embed", {"inputs": texts}), ("/v1/embeddings", {"input": texts}), ("/tokenize", {"inputs": texts}),
                 ("/encode", {"texts": texts, "dtype": "float16"})]
            )  # fmt: skip
            http.post(path, json=body).raise_for_status()
            asked += 1
    return asked


def assert_same(found: Embeddings, expected: Embeddings) -> None:
    assert torch.equal(found.lengths, expected.lengths)
    torch.testing.assert_close(found.values, expected.values, rtol=0, atol=1e-5)


def test_texts_one_by_one_have_the_numbers_of_the_library(service: Service) -> None:
    with Client(service.url, key=KEY) as client:
        assert_same(encode_alone(client, QUIET), load_encoder().encode(QUIET))


def test_texts_under_mixed_load_have_the_numbers_of_the_library(service: Service) -> None:
    assert_same(encode_busily(service, BUSY), load_encoder().encode(BUSY))


@pytest.mark.own_service
def test_deterministic_texts_have_the_bits_that_were_stored(
    start_service: Callable[..., Service], tmp_path: Path
) -> None:
    stored = write_stored(tmp_path, "--deterministic", "--cpus-per-actor", "1")
    service = start_service(settings="deterministic: true\nnum_threads: 1\n")
    with Client(service.url) as client:
        assert torch.equal(encode_alone(client, QUIET).values, stored["quiet"].values)
    assert torch.equal(encode_busily(service, BUSY).values, stored["busy"].values)
