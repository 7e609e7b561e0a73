"""A program: one Ray that encodes a job with every kind of trouble and serves at the same time, to be looked at.

Prints the address of Ray's metrics, then the job's report as JSON when it is done, and goes when its input ends.
"""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path

import httpx2
import pyarrow as pa
import pyarrow.parquet as pq
import ray
from ray import serve

from pipelines import EncodeJob, encode_parquet
from pipelines import encode as encode_module
from pipelines.nodes.local_ray import start_local
from serve_app.app import build
from serve_app.deploy.haproxy import find_port
from t5enc.checkpoint.builtin import sample_captions
from tests.pipelines.killing import POISON, PoisonedWorker

ROWS = 600


def main(folder: Path) -> None:
    """Serve, encode, say so, and wait for the end."""
    start_local(num_cpus=4, _system_config={"metrics_report_interval_ms": 1000})
    print(f"http://127.0.0.1:{ray.nodes()[0]['MetricsExportPort']}/metrics", flush=True)
    port = find_port()
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(build({"model": "builtin:tiny", "num_cpus": "0", "max_texts": "8"}))
    is_over = threading.Event()
    asking = threading.Thread(target=ask_until, args=(is_over, f"http://127.0.0.1:{port}"))
    asking.start()
    encode_module.SpanWorker = PoisonedWorker  # type: ignore[misc]
    print(json.dumps(encode(folder)), flush=True)
    sys.stdin.read()
    is_over.set()
    asking.join()


def encode(folder: Path) -> dict[str, object]:
    """Encode captions of which some are null, too long, or kill; what report.json says."""
    texts: list[str | None] = [caption for _, caption in zip(range(ROWS), sample_captions() * ROWS, strict=False)]
    texts[7], texts[8], texts[300] = None, "long " * 300, POISON
    (folder / "in").mkdir()
    pq.write_table(pa.table({"caption": pa.array(texts, pa.string())}), folder / "in" / "a.parquet", row_group_size=50)
    options = {"inputs": [str(folder / "in")], "output": str(folder / "out"), "model": "builtin:tiny"}
    encode_parquet(EncodeJob.from_mapping(options | {"rows_per_shard": 25, "max_length": 128}))
    return dict(json.loads((folder / "out" / "report.json").read_text()))


def ask_until(is_over: threading.Event, url: str) -> None:
    """Requests that are answered, one after the other, some of them from the cache, and some that are refused."""
    texts = sample_captions()
    place = 0
    with httpx2.Client(base_url=url, timeout=60) as client:
        while not is_over.wait(0.2):
            place = (place + 3) % 300
            client.post("/embed", json={"inputs": texts[place : place + 4]}).raise_for_status()
            client.post("/embed", json={"inputs": ["too", "many"] * 8})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
