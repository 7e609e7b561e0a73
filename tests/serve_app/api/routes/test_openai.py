"""OpenAI's routes, and vLLM's binary embeddings."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
import pytest
import torch

from serve_app.api.application import make_http
from serve_app.served.models import Models
from serve_app.served.service import ModelService, ServiceLimits
from t5enc.errors import OverloadedError, PrecisionError
from t5enc.options import EncoderOptions
from tests.serve_app.in_process import LONG, NAME, ask, list_ids, load_service, post

TEXTS = ["a red bird", "two dogs on a beach at night", "Ü 🐦"]
ROUNDING = 1e-5


def embed(input_: object, **options: Any) -> dict[str, Any]:
    """The body of a good answer."""
    answer = post("/v1/embeddings", {"input": input_, **options})
    assert answer.status_code == 200, answer.text
    return answer.json()  # type: ignore[no-any-return]


def vectors(content: dict[str, Any]) -> torch.Tensor:
    return torch.tensor([item["embedding"] for item in content["data"]])


def expected() -> torch.Tensor:
    """What TEI's route gives, which its own tests compare with the bare encoder."""
    return torch.tensor(post("/embed", {"inputs": TEXTS}).json())


def check_close(found: torch.Tensor, wanted: torch.Tensor, atol: float = ROUNDING) -> None:
    torch.testing.assert_close(found, wanted, atol=atol, rtol=atol)


def test_the_answer_has_openais_shape_and_counts_tokens() -> None:
    content = embed(TEXTS, model=NAME)
    tokens = sum(map(len, post("/tokenize", {"inputs": TEXTS}).json()))
    assert (content["object"], content["model"]) == ("list", NAME)
    assert content["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}
    assert [(item["object"], item["index"]) for item in content["data"]] == [("embedding", n) for n in range(3)]
    check_close(vectors(content), expected())


def test_a_text_texts_ids_and_lists_of_ids_are_the_same_inputs() -> None:
    ids = list_ids(TEXTS)
    for several in (TEXTS, ids):
        check_close(vectors(embed(several)), expected())
    for single in (TEXTS[0], ids[0]):
        check_close(vectors(embed(single)), expected()[:1])


def test_base64_is_little_endian_float32_as_openais_client_reads_it() -> None:
    content = embed(TEXTS, encoding_format="base64", user="someone")
    rows = [np.frombuffer(base64.b64decode(item["embedding"]), "<f4") for item in content["data"]]
    check_close(torch.from_numpy(np.stack(rows)), expected())


def test_base64_holds_vllms_other_dtypes_and_orders_where_they_are_asked_for() -> None:
    content = embed(TEXTS, encoding_format="base64", embed_dtype="float16", endianness="big")
    rows = [np.frombuffer(base64.b64decode(item["embedding"]), ">f2").astype("f4") for item in content["data"]]
    check_close(torch.from_numpy(np.stack(rows)), expected(), atol=1e-3)


@pytest.mark.parametrize(("dtype", "kind"), [("float32", "f4"), ("float16", "f2")])
@pytest.mark.parametrize(("endianness", "order"), [("little", "<"), ("big", ">"), ("native", "=")])
def test_vllms_bytes_lie_where_the_metadata_header_says(dtype: str, kind: str, endianness: str, order: str) -> None:
    body = {"input": TEXTS, "encoding_format": "bytes", "embed_dtype": dtype, "endianness": endianness}
    answer = post("/v1/embeddings", body)
    metadata = json.loads(answer.headers["metadata"])
    assert answer.headers["content-type"] == "application/octet-stream"
    assert (metadata["model"], metadata["usage"]) == (NAME, embed(TEXTS)["usage"])
    for item, wanted in zip(metadata["data"], expected(), strict=True):
        assert (item["embed_dtype"], item["endianness"]) == (dtype, endianness)
        raw = answer.content[item["start"] : item["end"]]
        found = np.frombuffer(raw, f"{order}{kind}").astype("f4").reshape(item["shape"])
        check_close(torch.from_numpy(found), wanted, atol=1e-3)
    assert metadata["data"][-1]["end"] == len(answer.content)


def test_bytes_only_is_the_same_body_without_the_header() -> None:
    body = {"input": TEXTS, "encoding_format": "bytes"}
    answer = post("/v1/embeddings", body | {"encoding_format": "bytes_only"})
    assert answer.content == post("/v1/embeddings", body).content
    assert "metadata" not in answer.headers


def test_metadata_too_long_for_a_header_is_refused_and_not_sent() -> None:
    service = ModelService(NAME, EncoderOptions(model="builtin:tiny", max_length=64), ServiceLimits(max_length=64))
    app = make_http(Models([service]))
    body = {"input": ["a"] * 200, "encoding_format": "bytes"}
    answer = post("/v1/embeddings", body, app=app)
    assert answer.status_code == 422
    assert "or bytes_only; got bytes of 200 texts" in answer.json()["error"]["message"]
    answer = post("/v1/embeddings", body | {"encoding_format": "bytes_only"}, app=app)
    assert len(answer.content) == 200 * 64 * 4


@pytest.mark.parametrize(
    ("body", "status", "message", "param", "code"),
    [
        ({}, 422, "input: expected, and not there", "input", None),
        ({"input": []}, 400, "`input` cannot be empty", "input", None),
        ({"input": ["a"] * 9}, 422, "batch size 9 > maximum allowed batch size 8", "input", None),
        ({"input": [1, "a"]}, 422, "got a list of integer and string", "input", None),
        ({"input": LONG}, 422, "texts[0]: expected at most 64 tokens", None, None),
        ({"input": [[1000]]}, 422, "ids[0]: expected ids from 0 to 999, got 1000", None, None),
        ({"input": "a", "model": "gpt"}, 404, "model: expected one of tiny, got 'gpt'", "model", "model_not_found"),
        ({"input": "a", "dimensions": 8}, 422, "dimensions: expected none", "dimensions", "unsupported_value"),
        ({"input": "a", "encoding_format": "xml"}, 422, "encoding_format: Input should be", "encoding_format", None),
        ({"input": "a", "embed_dtype": "fp8_e4m3"}, 422, "embed_dtype: Input should be", "embed_dtype", None),
    ],
)
def test_errors_have_openais_shape(
    body: dict[str, Any], status: int, message: str, param: str | None, code: str | None
) -> None:
    answer = post("/v1/embeddings", body)
    error = answer.json()["error"]
    assert set(answer.json()) == {"error"}
    assert (answer.status_code, error["type"]) == (status, "invalid_request_error")
    assert (error["param"], error["code"]) == (param, code)
    assert message in error["message"]


def test_teis_alias_answers_and_refuses_as_openais_route() -> None:
    ours, alias = (post(path, {"input": TEXTS}) for path in ("/v1/embeddings", "/embeddings"))
    check_close(vectors(alias.json()), vectors(ours.json()))
    assert alias.json()["usage"] == ours.json()["usage"]
    assert post("/embeddings", {"input": []}).json() == post("/v1/embeddings", {"input": []}).json()


def test_the_models_own_width_is_an_allowed_dimension() -> None:
    assert vectors(embed("a", dimensions=64)).shape == (1, 64)


def test_a_full_queue_is_429_in_openais_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(ids: object) -> None:
        raise OverloadedError("queue: expected room for 3 tokens", 0.2)

    monkeypatch.setattr(load_service(), "encode", refuse)
    answer = post("/v1/embeddings", {"input": "a"})
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "1")
    assert (answer.json()["error"]["type"], answer.json()["error"]["code"]) == (
        "rate_limit_error",
        "rate_limit_exceeded",
    )


def test_texts_that_the_model_cannot_compute_are_named_beside_openais_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(ids: object) -> None:
        raise PrecisionError({0: "too large"})

    monkeypatch.setattr(load_service(), "encode", fail)
    answer = post("/v1/embeddings", {"input": "a"})
    assert (answer.status_code, answer.json()["error"]["type"]) == (424, "server_error")
    assert answer.json()["error"]["failed"] == {"0": "too large"}


def test_models_are_listed_and_found_by_name() -> None:
    listed = ask("GET", "/v1/models").json()
    assert (listed["object"], [model["id"] for model in listed["data"]]) == ("list", [NAME])
    assert ask("GET", f"/v1/models/{NAME}").json() == listed["data"][0]
    assert listed["data"][0]["object"] == "model"
    missing = ask("GET", "/v1/models/some/other")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")


def test_unknown_paths_under_v1_are_refused_in_openais_shape() -> None:
    answer = ask("GET", "/v1/nothing")
    assert (answer.status_code, answer.json()["error"]["message"]) == (404, "Not Found")


def test_optional_fields_may_be_null() -> None:
    names = ("model", "encoding_format", "dimensions", "user", "embed_dtype", "endianness")
    plain = post("/v1/embeddings", {"input": "a"})
    assert post("/v1/embeddings", {"input": "a"} | dict.fromkeys(names)).json() == plain.json()
