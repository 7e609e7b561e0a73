"""The servers that a benchmark asks: `t5enc serve`, a plain Ray Serve app around transformers, and infinity.

N texts, M model dim.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import torch
import yaml
from safetensors.torch import load
from torch import Tensor

from serve_app.deploy.haproxy import find_port

SAFETENSORS = "application/vnd.safetensors"
MODULES = "sentence_transformers.models"
OPENAI: Mapping[str, Any] = {"encoding_format": "base64"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """How a server is asked for one prompt, and what its answer holds.

    `pooled` servers give one vector a text, of unit length; the others the embedding of every token.
    """

    name: str
    path: str
    field: str
    pooled: bool
    more: Mapping[str, Any] = field(default_factory=dict)

    def request(self, client: httpx2.AsyncClient, prompt: str) -> httpx2.Request:
        """A request for one prompt."""
        body = {self.field: [prompt]} | dict(self.more)
        return client.build_request("POST", self.path, json=body, headers={"Accept": f"{SAFETENSORS}, */*;q=0.5"})

    def read(self, answer: httpx2.Response) -> Tensor:
        """(tokens, M) or (1, M)."""
        if self.pooled:
            return read_vector(answer.json()["data"][0]["embedding"])[None]
        return load(answer.content)["values"].float()


def read_vector(embedding: str | Sequence[float]) -> Tensor:
    """OpenAI's embedding, as base64 or as numbers."""
    if isinstance(embedding, str):
        return torch.from_numpy(np.frombuffer(base64.b64decode(embedding), "<f4").copy())
    return torch.tensor(embedding)


T5ENC = Server(name="t5enc /encode", path="/encode", field="texts", pooled=False)
T5ENC_POOLED = Server(name="t5enc /v1/embeddings", path="/v1/embeddings", field="input", pooled=True, more=OPENAI)
PLAIN = Server(name="Ray Serve, @serve.batch, transformers", path="/", field="texts", pooled=False)
INFINITY = Server(name="infinity", path="/embeddings", field="input", pooled=True, more=OPENAI | {"model": "model"})


@contextmanager
def run_t5enc(model: str, tokenizer: str, threads: int, **options: object) -> Iterator[str]:
    """`t5enc serve` in a process of its own, and its address; no prompt is answered from memory."""
    settings = {"model": model, "tokenizer": tokenizer, "num_threads": threads, "cache_bytes": 0} | options
    port = find_port()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "service.yaml"
        path.write_text(yaml.safe_dump(settings | {"port": port}), encoding="utf-8")
        command = [sys.executable, "-m", "t5enc", "serve", "--config", str(path)]
        with run_server(command, f"http://127.0.0.1:{port}", "listening on") as address:
            yield address


@contextmanager
def run_plain(model: str, tokenizer: str, threads: int) -> Iterator[str]:
    """Ray Serve as its pages have it, around transformers."""
    port = find_port()
    command = [sys.executable, "-m", "benchmarks.service.plain_serve", model, tokenizer, str(threads), str(port)]
    with run_server(command, f"http://127.0.0.1:{port}", "ready") as address:
        yield address


@contextmanager
def run_infinity(program: str, model: str, tokenizer: str, threads: int) -> Iterator[str]:
    """infinity_emb with the mean of the tokens' embeddings."""
    port = find_port()
    with tempfile.TemporaryDirectory() as folder:
        make_sentence_model(Path(folder), Path(model), Path(tokenizer))
        command = [program, "v2", "--model-id", folder, "--served-model-name", "model", "--engine", "torch"]
        command += ["--device", "cpu", "--dtype", "float32", "--no-bettertransformer", "--no-model-warmup"]
        command += ["--port", str(port), "--host", "127.0.0.1"]
        environment = {"OMP_NUM_THREADS": str(threads), "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"}
        with run_server(command, f"http://127.0.0.1:{port}", "Uvicorn running", environment) as address:
            yield address


def make_sentence_model(folder: Path, model: Path, tokenizer: Path) -> None:
    """A checkpoint as sentence-transformers reads it: encoder, mean pooling, unit length."""
    for source in (model, tokenizer):
        shutil.copytree(source, folder, dirs_exist_ok=True)
    kinds = ("Transformer", "Pooling", "Normalize")
    modules = [
        {"idx": place, "name": str(place), "path": f"{place}_{kind}" if place else "", "type": f"{MODULES}.{kind}"}
        for place, kind in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 512, "do_lower_case": False}))
    width = json.loads((folder / "config.json").read_text())["d_model"]
    (folder / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": width, "pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    (folder / "2_Normalize").mkdir()


@contextmanager
def run_server(
    command: Sequence[str], address: str, ready: str, environment: Mapping[str, str] | None = None
) -> Iterator[str]:
    """A server from the moment at which it prints `ready` to the end of the block."""
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ
        | {"PYTHONUNBUFFERED": "1", "RAY_AUTH_MODE": "disabled", "RAY_worker_niceness": "0"}
        | dict(environment or {}),
    )
    try:
        wait_for(process, ready)
        yield address
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=120)


def wait_for(process: subprocess.Popen[str], ready: str) -> None:
    """Read what a process prints up to this; RuntimeError with all of it where it ends before."""
    assert process.stdout is not None
    printed = []
    for line in process.stdout:
        printed.append(line)
        if ready in line:
            return
    raise RuntimeError(f"the server ended before it was ready:\n{''.join(printed)}")
