"""POST /encode: the embeddings of the bare encoder in every format, and refusals that say why. No body gives a 500."""

from __future__ import annotations

import asyncio
import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors.torch import load

from serve_app.api.application import make_http
from serve_app.api.wire import ARROW, JSON, NPY, NPZ, SAFETENSORS
from serve_app.served.models import Models
from serve_app.served.service import ModelService, ServiceLimits
from t5enc.embeddings import Embeddings
from t5enc.errors import ConfigError, PrecisionError
from t5enc.options import EncoderOptions
from t5enc.storage import read_column
from tests.serve_app.in_process import LIMITS, LONG, NAME, ask, encode_alone, list_ids, load_app, load_service, post

TEXTS = ["a red bird", "", "two dogs on a beach at night", "Ü 🐦"]
POSTED = ["/", "/encode", "/prepare", "/embed", "/embed_all", "/tokenize", "/decode", "/similarity", "/v1/embeddings"]
ROUNDING = 1e-5


def read(answer: httpx2.Response) -> Embeddings:
    """Embeddings of a safetensors answer."""
    assert answer.status_code == 200, answer.text
    tensors = load(answer.content)
    return Embeddings(tensors["values"], tensors["offsets"])


def check_same(embeddings: Embeddings, texts: list[str], *, atol: float = ROUNDING) -> None:
    """Equal to what the bare encoder makes of the texts one by one."""
    alone = encode_alone(texts)
    assert len(embeddings) == len(alone)
    for found, expected in zip(embeddings, alone, strict=True):
        torch.testing.assert_close(found.float(), torch.tensor(expected), atol=atol, rtol=atol)


@contextmanager
def held(service: ModelService) -> Iterator[None]:
    """The model's thread does nothing else until the end of the block."""
    release = threading.Event()
    service._actor.submit(lambda _: release.wait())
    try:
        yield
    finally:
        release.set()


def test_safetensors_of_texts_are_the_bare_encoders_embeddings() -> None:
    answer = post("/encode", {"texts": TEXTS})
    assert answer.headers["content-type"] == SAFETENSORS
    check_same(read(answer), TEXTS)


def test_token_ids_are_encoded_exactly_as_given() -> None:
    check_same(read(post("/encode", {"ids": list_ids(TEXTS)})), TEXTS)


def test_every_format_holds_the_same_numbers() -> None:
    values = read(post("/encode", {"texts": TEXTS})).values
    table = pa.ipc.open_stream(post("/encode", {"texts": TEXTS}, accept=ARROW).content).read_all()
    assert torch.equal(read_column(table["text_embedding_bytes"], "float32", values.shape[1]).values, values)
    with np.load(io.BytesIO(post("/encode", {"texts": TEXTS}, accept=NPZ).content)) as arrays:
        np.testing.assert_array_equal(arrays["values"], values.numpy())
    nested = post("/encode", {"texts": TEXTS}, accept=JSON).json()["embeddings"]
    assert torch.equal(torch.cat([torch.tensor(text) for text in nested]), values)
    single = np.load(io.BytesIO(post("/encode", {"texts": TEXTS[:1]}, accept=NPY).content))
    np.testing.assert_allclose(single, values[: len(single)].numpy(), atol=ROUNDING)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_embeddings_come_in_the_dtype_asked_for(dtype: str) -> None:
    embeddings = read(post("/encode", {"texts": TEXTS, "dtype": dtype}))
    assert embeddings.values.dtype == getattr(torch, dtype)
    check_same(embeddings, TEXTS, atol=0.02)


def test_a_text_over_the_limit_is_422_unless_it_may_be_cut() -> None:
    refused = post("/encode", {"texts": ["a bird", LONG]})
    assert refused.status_code == 422
    assert refused.json()["error_type"] == "Validation"
    assert "texts[1]: expected at most 64 tokens, got" in refused.json()["error"]
    cut = post("/encode", {"texts": ["a bird", LONG], "truncate": True})
    tensors = load(cut.content)
    assert tensors["truncated"].tolist() == [False, True]
    assert tensors["lengths"].tolist()[1] == 64
    assert cut.headers["x-truncated-texts"] == "1"


def test_ids_over_the_limit_are_cut_with_their_last_token_kept() -> None:
    ids = [*range(5, 105), 1]
    assert post("/encode", {"ids": [ids]}).status_code == 422
    cut = read(post("/encode", {"ids": [ids], "truncate": True}))
    whole = read(post("/encode", {"ids": [[*ids[:63], 1]]}))
    torch.testing.assert_close(cut.values, whole.values, atol=ROUNDING, rtol=ROUNDING)


@pytest.mark.parametrize(
    ("body", "status", "kind", "message"),
    [
        ({}, 422, "Validation", "body: expected texts or ids, got neither"),
        ({"texts": ["a"], "ids": [[1]]}, 422, "Validation", "body: expected texts or ids, got both"),
        ({"texts": ["a"], "recept": "flux"}, 422, "Validation", "recept: no such field"),
        ({"texts": "a"}, 422, "Validation", "texts: Input should be a valid list, got string"),
        ({"texts": ["a", 1]}, 422, "Validation", "texts[1]: Input should be a valid string, got integer"),
        ({"ids": [[1, True]]}, 422, "Validation", "ids[0][1]: Input should be a valid integer, got boolean"),
        ({"ids": [[1, 1000]]}, 422, "Validation", "ids[0]: expected ids from 0 to 999, got 1000"),
        ({"ids": [[10**30]]}, 422, "Validation", "ids[0]: expected integers, got object"),
        ({"ids": [[]]}, 422, "Validation", "ids[0]: expected 1 to 64 token ids, got shape (0,)"),
        ({"texts": []}, 400, "Empty", "`texts` cannot be empty"),
        ({"texts": ["a"] * 9}, 422, "Validation", "batch size 9 > maximum allowed batch size 8"),
        ({"texts": ["a"], "model": "gpt"}, 404, "Validation", "model: expected one of tiny, got 'gpt'"),
    ],
)
def test_a_bad_body_is_refused_by_name(body: dict[str, Any], status: int, kind: str, message: str) -> None:
    answer = post("/encode", body)
    assert (answer.status_code, answer.json()) == (status, {"error": message, "error_type": kind})


def test_half_a_surrogate_pair_is_refused_by_place() -> None:
    answer = ask("POST", "/encode", content=b'{"texts": ["a", "\\ud83d"]}', headers={"Content-Type": JSON})
    assert answer.status_code == 422
    assert "a lone surrogate" in answer.json()["error"]


@pytest.mark.parametrize(
    ("content", "media_type", "status"),
    [
        (b"{", JSON, 400),
        (b"\xff\xfe", JSON, 400),
        (b"[" * 100_000, JSON, 400),
        (b"1" * 9999, JSON, 400),
        (b"", JSON, 422),
        (b"null", JSON, 422),
        (b'{"texts": ["a"]}', "text/plain", 415),
    ],
)
def test_what_is_no_json_is_refused_with_the_statuses_of_http(content: bytes, media_type: str, status: int) -> None:
    answer = ask("POST", "/encode", content=content, headers={"Content-Type": media_type})
    assert answer.status_code == status
    assert answer.json()["error_type"] == "Validation"


def test_a_request_that_no_queue_could_hold_is_422_and_not_overload() -> None:
    answer = post("/encode", {"texts": [LONG] * 8, "truncate": True})
    assert answer.status_code == 422
    assert answer.json()["error"] == "texts: expected at most 256 tokens in one request, got 512"


def test_an_unknown_format_is_406_before_anything_is_computed() -> None:
    before = load_service().snapshot()
    assert post("/encode", {"texts": ["nothing asked this before"]}, accept="image/png").status_code == 406
    assert load_service().snapshot() == before


def test_a_full_queue_is_429_with_whole_seconds_to_wait_and_what_was_accepted_is_answered() -> None:
    async def crowd() -> list[httpx2.Response]:
        transport = httpx2.ASGITransport(load_app())
        async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
            with held(load_service()):
                batches = [[f"{number} birds, number {text}" for text in range(8)] for number in range(3)]
                calls = [asyncio.create_task(client.post("/encode", json={"texts": texts})) for texts in batches]
                done, _ = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
                assert all(call.result().status_code == 429 for call in done)
            return await asyncio.gather(*calls)

    answers = asyncio.run(crowd())
    refused = [answer for answer in answers if answer.status_code == 429]
    assert min(answer.status_code for answer in answers) == 200
    assert refused
    for answer in refused:
        assert answer.json()["error_type"] == "Overloaded"
        assert int(answer.headers["Retry-After"]) >= 1


def test_texts_that_the_model_cannot_compute_are_424(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(ids: object) -> None:
        raise PrecisionError({1: "activations left the range of float16"})

    monkeypatch.setattr(load_service(), "encode", fail)
    answer = post("/encode", {"texts": ["a", "b"]})
    assert (answer.status_code, answer.json()["error_type"]) == (424, "Backend")
    assert "texts[1]: activations left the range" in answer.json()["error"]
    assert answer.json()["failed"] == {"1": "activations left the range of float16"}


def test_a_request_names_its_model_and_the_first_serves_those_that_name_none() -> None:
    limits = ServiceLimits(max_length=64)
    other = ModelService("multi", EncoderOptions(model="builtin:tiny-umt5", max_length=64), limits)
    app = make_http(Models([load_service(), other]))
    answers = {name: read(post("/encode", {"texts": ["a"], "model": name}, app=app)) for name in (NAME, "multi", None)}
    assert torch.equal(answers[NAME].values, answers[None].values)
    assert not torch.allclose(answers[NAME].values, answers["multi"].values)


def test_models_need_names_that_differ() -> None:
    for services in ([], [load_service(), load_service()]):
        with pytest.raises(ConfigError, match="expected at least one, and names that differ"):
            Models(services)


def test_an_exception_of_no_known_kind_is_a_500_in_the_apis_shape_and_reaches_the_log(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def fail(ids: object) -> None:
        raise RuntimeError("the card fell out")

    monkeypatch.setattr(load_service(), "encode", fail)
    with pytest.raises(RuntimeError, match="the card fell out"):
        post("/encode", {"texts": ["a"]})
    answer = post("/encode", {"texts": ["a"]}, raises=False)
    assert (answer.status_code, answer.json()) == (500, {"error": "Internal server error", "error_type": "Backend"})


def test_the_description_names_every_route_and_format() -> None:
    paths = ask("GET", "/openapi.json").json()["paths"]
    assert set(POSTED) <= {path for path, methods in paths.items() if "post" in methods}
    assert set(paths["/encode"]["post"]["responses"]["200"]["content"]) == {SAFETENSORS, ARROW, NPZ, NPY, JSON}
    assert ask("GET", "/docs").status_code == 200


NAMES = [
    *("texts", "ids", "inputs", "input", "dtype", "model", "truncate", "truncation_direction", "prompt_name"),
    *("recipe", "recipe_options", "null", "pipeline", "max_sequence_length", "grid", "negative_prompt"),
    *("normalize", "dimensions", "encoding_format", "embed_dtype", "endianness", "user", "skip_special_tokens"),
    *("add_special_tokens", "source_sentence", "sentences", "parameters"),
]
WORDS = st.sampled_from(
    [
        "float32",
        "float16",
        "base64",
        "bytes",
        "Left",
        "Right",
        "big",
        NAME,
        "a red bird",
        "pixart_alpha",
        "chroma",
        "none",
    ]
)
LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(0, 999), st.floats(), st.text(max_size=20), WORDS
)
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=9) | st.dictionaries(st.sampled_from(NAMES), inner), max_leaves=12
)
BODIES = st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=5), VALUES, max_size=5) | VALUES


@pytest.mark.parametrize("path", POSTED)
@given(body=BODIES)
@example(body={"texts": ["\ud83d"], "inputs": "\ud83d", "input": "\ud83d", "model": "\ud83d"})
@example(body={"\ud83d": 1, "ids": [[2**63]], "inputs": [2**63], "input": [[-(2**70)]]})
@example(body={"inputs": {"source_sentence": "\udfff", "sentences": [""]}})
@example(body={"input": ["a"] * LIMITS.max_texts, "encoding_format": "bytes"})
@example(body={"ids": [True], "inputs": [float("nan")], "input": [1.0]})
def test_no_json_body_makes_any_route_fail(path: str, body: object) -> None:
    # Raised, and not answered with 500, is what no route handles.
    answer = ask("POST", path, content=json.dumps(body).encode(), headers={"Content-Type": JSON})
    assert answer.status_code in (200, 400, 404, 422), answer.text
    if answer.status_code != 200:
        assert set(answer.json()) == ({"error"} if path.startswith("/v1/") else {"error", "error_type"})


@given(path=st.sampled_from(POSTED), content=st.binary(max_size=60), media_type=st.sampled_from([JSON, "text/x", ""]))
def test_no_bytes_make_any_route_fail(path: str, content: bytes, media_type: str) -> None:
    answer = ask("POST", path, content=content, headers={"Content-Type": media_type} if media_type else {})
    assert answer.status_code in (400, 415, 422), answer.text
