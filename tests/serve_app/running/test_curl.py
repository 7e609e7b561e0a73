"""curl, as people type it, for every route that the running service describes."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.numpy import load_file

from t5enc.storage import PREFIX
from tests.serve_app.running.real_serve import MODEL, load_encoder, pool_alone, tokenize
from tests.serve_app.running.service import KEY, Service

pytestmark = [
    pytest.mark.xdist_group("ray"),
    pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl (apt-get install curl)"),
]
TEXTS = ["a red fox in the snow", "two boats at dawn"]
METHODS = ("get", "post", "put", "patch", "delete")


def curl(service: Service, path: str, *options: str) -> bytes:
    """What curl writes; it fails for statuses from 400 on."""
    command = ["curl", "--silent", "--show-error", "--fail", "-H", f"Authorization: Bearer {KEY}"]
    done = subprocess.run([*command, *options, service.url + path], check=True, capture_output=True, timeout=60)
    return done.stdout


def send(service: Service, path: str, body: object, *options: str) -> Any:
    """The JSON that a JSON body is answered with."""
    return json.loads(curl(service, path, "--json", json.dumps(body), *options))


def assert_near(found: object, expected: torch.Tensor) -> None:
    torch.testing.assert_close(torch.from_numpy(np.array(found, np.float32)), expected, rtol=0, atol=1e-5)


def check_embed(service: Service, path: str) -> None:
    assert_near(send(service, path, {"inputs": TEXTS}), pool_alone(TEXTS))


def check_refused(service: Service, path: str) -> None:
    """Of TEI, for models of another kind."""
    with pytest.raises(subprocess.CalledProcessError) as failed:
        send(service, path, {})
    assert b"424" in failed.value.stderr


def check_embed_all(service: Service, path: str) -> None:
    for found, expected in zip(send(service, path, {"inputs": TEXTS}), load_encoder().encode(TEXTS), strict=True):
        assert_near(found, expected)


def check_similarity(service: Service, path: str) -> None:
    vectors = pool_alone(TEXTS)
    found = send(service, path, {"inputs": {"source_sentence": TEXTS[0], "sentences": TEXTS}})
    assert_near(found, vectors @ vectors[0])


def check_tokenize(service: Service, path: str) -> None:
    found = [[token["id"] for token in text] for text in send(service, path, {"inputs": TEXTS})]
    assert found == [ids.tolist() for ids in tokenize(TEXTS)]


def check_decode(service: Service, path: str) -> None:
    assert send(service, path, {"ids": [ids.tolist() for ids in tokenize(TEXTS)]}) == TEXTS


def check_info(service: Service, path: str) -> None:
    info = json.loads(curl(service, path))
    assert (info["model_id"], info["model_dim"], info["max_input_length"]) == (
        MODEL,
        load_encoder().config.model_dim,
        64,
    )


def check_recipes(service: Service, path: str) -> None:
    listed = json.loads(curl(service, path))
    assert listed["default"] is None
    assert "flux" in [recipe["name"] for recipe in listed["recipes"]]


def check_prepare(service: Service, path: str) -> None:
    shown = send(service, path, {"texts": TEXTS, "recipe": "ltx", "recipe_options": {"max_sequence_length": 32}})
    assert [(caption["texts"], caption["computed"]) for caption in shown] == [([text], 32) for text in TEXTS]


def check_nothing(service: Service, path: str) -> None:
    assert curl(service, path) == b""


def check_page(service: Service, path: str) -> None:
    assert curl(service, path) == b""
    assert curl(service, path, "-H", "Accept: text/html").lstrip().startswith(b"<!doctype html>")


def check_stats(service: Service, path: str) -> None:
    assert json.loads(curl(service, path))["models"][MODEL]["is_healthy"] is True


def check_metrics(service: Service, path: str) -> None:
    assert b"te_request_count" in curl(service, path)


def check_openai(service: Service, path: str) -> None:
    answer = send(service, path, {"input": TEXTS, "model": MODEL})
    assert_near([item["embedding"] for item in answer["data"]], pool_alone(TEXTS))


def check_models(service: Service, path: str) -> None:
    assert [model["id"] for model in json.loads(curl(service, path))["data"]] == [MODEL]


def check_model(service: Service, path: str) -> None:
    assert json.loads(curl(service, path.replace("{name}", MODEL)))["id"] == MODEL


def check_encode(service: Service, path: str) -> None:
    answer = send(service, path, {"texts": TEXTS}, "-H", "Accept: application/json")
    for found, expected in zip(answer["embeddings"], load_encoder().encode(TEXTS), strict=True):
        assert_near(found, expected)


ROUTES: dict[str, Callable[[Service, str], None]] = {
    "GET /": check_page,
    "POST /": check_embed,
    "POST /encode": check_encode,
    "POST /embed": check_embed,
    "POST /invocations": check_embed,
    "POST /embed_all": check_embed_all,
    "POST /embed_sparse": check_refused,
    "POST /predict": check_refused,
    "POST /rerank": check_refused,
    "POST /similarity": check_similarity,
    "POST /tokenize": check_tokenize,
    "POST /decode": check_decode,
    "GET /info": check_info,
    "GET /recipes": check_recipes,
    "POST /prepare": check_prepare,
    "GET /health": check_nothing,
    "GET /ping": check_nothing,
    "GET /stats": check_stats,
    "GET /metrics": check_metrics,
    "POST /v1/embeddings": check_openai,
    "POST /embeddings": check_openai,
    "GET /v1/models": check_models,
    "GET /v1/models/{name}": check_model,
}


def list_routes(service: Service) -> Sequence[str]:
    """Methods and paths of the service's own description."""
    paths = httpx2.get(f"{service.url}/openapi.json").raise_for_status().json()["paths"]
    return [f"{method.upper()} {path}" for path, routes in paths.items() for method in routes if method in METHODS]


def test_every_route_that_is_described_is_tried_here(service: Service) -> None:
    assert sorted(list_routes(service)) == sorted(ROUTES)


@pytest.mark.parametrize("route", ROUTES)
def test_a_route_answers_curl(service: Service, route: str) -> None:
    ROUTES[route](service, route.split()[1])


def read_npz(path: Path) -> np.ndarray[Any, Any]:
    with np.load(path) as arrays:
        return np.array(arrays["values"])


def read_arrow(path: Path) -> np.ndarray[Any, Any]:
    rows = pa.ipc.open_stream(path.read_bytes()).read_all()[f"{PREFIX}bytes"].to_pylist()
    return np.frombuffer(b"".join(rows), dtype="<f4").reshape(-1, load_encoder().config.model_dim)


FORMATS: dict[str, Callable[[Path], Any]] = {
    "application/vnd.safetensors": lambda path: load_file(path)["values"],
    "application/vnd.apache.arrow.stream": read_arrow,
    "application/x-npz": read_npz,
    "application/x-npy": np.load,
}


@pytest.mark.parametrize("media_type", FORMATS)
def test_curl_saves_embeddings_in_every_format(service: Service, tmp_path: Path, media_type: str) -> None:
    texts, path = TEXTS[:1], tmp_path / "saved"
    options = ["--json", json.dumps({"texts": texts}), "-H", f"Accept: {media_type}", "-o", str(path)]
    curl(service, "/encode", *options)
    assert_near(FORMATS[media_type](path), load_encoder().encode(texts).values)


def test_curl_saves_bare_numbers(service: Service) -> None:
    body = {"input": TEXTS, "encoding_format": "bytes_only"}
    numbers = np.frombuffer(curl(service, "/v1/embeddings", "--json", json.dumps(body)), dtype="<f4")
    assert_near(numbers.reshape(len(TEXTS), -1), pool_alone(TEXTS))


def test_curl_reads_the_docs(service: Service) -> None:
    assert b"/openapi.json" in curl(service, "/docs")


def test_curl_fails_where_a_request_is_refused(service: Service) -> None:
    with pytest.raises(subprocess.CalledProcessError) as failed:
        curl(service, "/embed", "--json", '{"inputs": 5}')
    assert b"422" in failed.value.stderr
