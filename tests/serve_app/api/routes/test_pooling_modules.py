"""A served model of sentence-transformers: its one vector a text is by its own modules, or there is none."""

from __future__ import annotations

import base64
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fastapi import FastAPI

from serve_app.api.application import make_http
from serve_app.client import Client
from serve_app.served.models import Models
from serve_app.served.service import ModelService, ServiceLimits
from t5enc.errors import ConfigError
from t5enc.options import EncoderOptions
from t5enc.text_encoder import TextEncoder
from tests.serve_app.in_process import ask, post
from tests.serve_app.serving import serve
from tests.t5enc.checkpoint.foreign.sentence_models import DIM, NORMALIZE, Module, dense, draw, pooling, write_model

TEXTS = ["a red bird", "two dogs on a beach at night"]
WIDE = 3 * DIM
MODELS: dict[str, tuple[Module, ...]] = {
    "wide": (pooling(), dense(draw(WIDE)), NORMALIZE),
    "unknown": (pooling(), ("mine.Whitening", {}, {})),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    for name, modules in MODELS.items():
        write_model(root / name, modules)
    return root


@cache
def load_app(folder: Path) -> FastAPI:
    services = [ModelService(name, EncoderOptions(model=folder / name), ServiceLimits()) for name in MODELS]
    return make_http(Models(services))


def pool(folder: Path, **options: Any) -> torch.Tensor:
    return TextEncoder.from_pretrained(folder / "wide").encode(TEXTS).pooled(**options)


def test_every_route_gives_the_vector_that_the_models_modules_make(folder: Path) -> None:
    app = load_app(folder)
    expected = pool(folder)
    embedded = post("/embed", {"inputs": TEXTS}, app=app).json()
    torch.testing.assert_close(torch.tensor(embedded), expected, atol=1e-5, rtol=1e-5)
    raw = post("/embed", {"inputs": TEXTS, "normalize": False}, app=app).json()
    torch.testing.assert_close(torch.tensor(raw), pool(folder, normalize=False), atol=1e-5, rtol=1e-5)
    listed = post("/v1/embeddings", {"input": TEXTS, "dimensions": WIDE}, app=app).json()["data"]
    torch.testing.assert_close(torch.tensor([entry["embedding"] for entry in listed]), expected, atol=1e-5, rtol=1e-5)
    (alike,) = post("/similarity", {"inputs": {"source_sentence": TEXTS[0], "sentences": TEXTS[1:]}}, app=app).json()
    assert alike == pytest.approx(float(expected[0] @ expected[1]), abs=1e-5)


def test_binary_answers_say_their_width(folder: Path) -> None:
    answer = post("/v1/embeddings", {"input": TEXTS, "encoding_format": "bytes"}, app=load_app(folder))
    found = np.frombuffer(answer.content, "<f4").reshape(len(TEXTS), WIDE)
    assert [entry["shape"] for entry in json.loads(answer.headers["metadata"])["data"]] == [[WIDE]] * 2
    (first, _) = post("/v1/embeddings", {"input": TEXTS, "encoding_format": "base64"}, app=load_app(folder)).json()[
        "data"
    ]
    assert base64.b64decode(first["embedding"]) == found[0].tobytes()


def test_info_tells_the_modules_the_width_and_the_length(folder: Path) -> None:
    info = ask("GET", "/info", app=load_app(folder)).json()
    assert (info["model_dim"], info["pooled_dim"]) == (DIM, WIDE)
    assert info["pooling_modules"] == ["1_Pooling", "2_Dense", "3_Normalize"]
    assert info["max_input_length"] == 40


def test_another_width_is_refused(folder: Path) -> None:
    answer = post("/embed", {"inputs": TEXTS, "dimensions": DIM}, app=load_app(folder))
    assert (answer.status_code, f"the model's {WIDE}" in answer.json()["error"]) == (422, True)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/embed", {"inputs": TEXTS}),
        ("/similarity", {"inputs": {"source_sentence": TEXTS[0], "sentences": TEXTS[1:]}}),
        ("/v1/embeddings", {"input": TEXTS}),
    ],
)
def test_modules_that_are_not_known_are_named_and_tokens_are_served(
    folder: Path, path: str, body: dict[str, Any]
) -> None:
    answer = post(path, body | {"model": "unknown"}, app=load_app(folder))
    assert answer.status_code == 424
    assert "mine.Whitening" in answer.text
    assert post("/encode", {"texts": TEXTS, "model": "unknown"}, app=load_app(folder)).status_code == 200


def test_a_clients_embeddings_are_not_pooled_without_the_modules(folder: Path) -> None:
    with serve(load_app(folder)) as url, Client(url) as client:
        found = client.encode(TEXTS)
    with pytest.raises(ConfigError, match=r"expected pooler=t5enc.open_pooler\(MODEL\), .*1_Pooling, 2_Dense"):
        found.pooled()
    pooler = TextEncoder.from_pretrained(folder / "wide").pooler
    torch.testing.assert_close(found.pooled(pooler=pooler), pool(folder), atol=1e-5, rtol=1e-5)
