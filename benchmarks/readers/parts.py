"""What belongs to reading besides passes over rows: opening, the order, decoding, and requests to a store.

python -m benchmarks.readers.parts PART < OPTIONS    a part's figures as JSON
"""

from __future__ import annotations

import json
import os
import resource
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import quote

import torch

BUCKET = "embeddings"


def open_many(*, folder: str) -> dict[str, Any]:
    """Seconds to open an output of very many shards, and milliseconds to the first batch after that."""
    from t5enc.dataset.dataset import EmbeddingDataset

    start, cpu = time.perf_counter(), time.process_time()
    data = EmbeddingDataset(folder)
    seconds = {"seconds": time.perf_counter() - start, "cpu": time.process_time() - cpu}
    start = time.perf_counter()
    data.__getitems__([0, len(data) // 2, len(data) - 1])
    return seconds | {"rows": len(data), "first_batch_ms": (time.perf_counter() - start) * 1e3}


class Billion:
    """A data set of which only its length is asked."""

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return self.rows


def draw_order(*, rows: int, batches: int, size: int) -> dict[str, Any]:
    """Milliseconds a batch of row numbers, and to go on in the middle of an epoch; memory that is kept."""
    from t5enc.dataset.sampler import EmbeddingSampler

    def make() -> EmbeddingSampler:
        return EmbeddingSampler(Billion(rows), seed=1, batch_size=size, rank=0, world_size=1)  # type: ignore[arg-type]

    sampler = make()
    drawn = iter(sampler)
    next(drawn)
    before, times = _read_peak(), []
    for _ in range(batches):
        start = time.perf_counter()
        next(drawn)
        times.append((time.perf_counter() - start) * 1e3)
    state, other = sampler.state_dict(), make()
    start = time.perf_counter()
    other.load_state_dict(state)
    resumed = next(iter(other))
    resume_ms = (time.perf_counter() - start) * 1e3
    assert resumed == next(drawn)
    size_of_state = len(json.dumps(state))
    grown = _read_peak() - before
    return {"rows": rows, "ms_a_batch": median(times), "resume_ms": resume_ms, "state": size_of_state, "grown": grown}


def decode(*, tokens: int, rounds: int, dim: int = 4096) -> dict[str, Any]:
    """Stored bytes, and bytes of numbers, that one thread decodes a second, for each codec that computes."""
    from t5enc.storage.codecs import decode_into, find_codec, to_bytes

    torch.set_num_threads(1)
    found = {}
    for name in ("int8g32", "fp8", "bf16z", "fp16z"):
        dtype = getattr(torch, find_codec(name).working)
        values = torch.randn(tokens, dim, generator=torch.Generator().manual_seed(0)).to(dtype)
        stored, out, times = to_bytes(values, name), torch.empty_like(values), []
        for _ in range(rounds):
            start = time.perf_counter()
            decode_into(stored, name, out)
            times.append(time.perf_counter() - start)
        found[name] = {"stored": stored.nbytes / min(times), "numbers": out.nbytes / min(times)}
    return found


def read_store(*, folder: str, rows: int) -> dict[str, Any]:
    """Requests that random rows of an output on S3 take; the server is moto's, on this machine."""
    from t5enc.dataset.dataset import EmbeddingDataset
    from t5enc.dataset.sampler import EmbeddingSampler

    os.environ.update(AWS_ACCESS_KEY_ID="a", AWS_SECRET_ACCESS_KEY="b", AWS_EC2_METADATA_DISABLED="true")
    with _serve_store() as (endpoint, requests):
        uri = _upload(Path(folder), endpoint)
        data = EmbeddingDataset(uri)
        data.lengths()
        opening = requests["GET"]
        requests.clear()
        read = 0
        for batch in EmbeddingSampler(data, seed=0, batch_size=8, rank=0, world_size=1):
            read += len(data.__getitems__(batch).lengths)
            if read >= rows:
                break
        return {"rows": read, "gets": requests["GET"], "heads": requests["HEAD"], "gets_to_open": opening}


@contextmanager
def _serve_store() -> Iterator[tuple[str, Counter[str]]]:
    """An S3 server's address, and how many requests of each method it has had."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Silent(WSGIRequestHandler):
        def log(self, type: str, message: str, *args: Any) -> None:
            """No lines among the figures."""

    requests: Counter[str] = Counter()
    application = DomainDispatcherApplication(create_backend_app)

    def count(environ: Any, start_response: Any) -> Any:
        requests[environ["REQUEST_METHOD"]] += 1
        return application(environ, start_response)

    server = make_server("127.0.0.1", 0, count, threaded=True, request_handler=Silent)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", requests
    finally:
        server.shutdown()


def _upload(folder: Path, endpoint: str) -> str:
    """The URI of a copy of an output."""
    from pyarrow.fs import FileSystem

    query = f"?region=us-east-1&allow_bucket_creation=true&endpoint_override={quote(endpoint, safe='')}"
    filesystem, _ = FileSystem.from_uri(f"s3://{BUCKET}{query}")
    filesystem.create_dir(BUCKET)
    for path in folder.rglob("*"):
        if path.is_file():
            with filesystem.open_output_stream(f"{BUCKET}/out/{path.relative_to(folder).as_posix()}") as stream:
                stream.write(path.read_bytes())
    return f"s3://{BUCKET}/out{query}"


def _read_peak() -> int:
    """The most bytes that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


PARTS: Mapping[str, Callable[..., dict[str, Any]]] = {
    "open": open_many,
    "order": draw_order,
    "decode": decode,
    "store": read_store,
}

if __name__ == "__main__":
    print(json.dumps(PARTS[sys.argv[1]](**json.load(sys.stdin))))
