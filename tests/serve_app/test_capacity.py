"""What requests hold until they are answered: answers and their embeddings, and texts at the tokenizer."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import torch

from serve_app.api import wire
from serve_app.api.answer_size import JSON_NUMBER_BYTES
from serve_app.api.application import make_http
from serve_app.served.memory import Memory, hold_until_answered
from serve_app.served.models import Models
from serve_app.served.service import LARGEST_WAITING, ModelService, ServiceLimits
from t5enc.errors import ConfigError, OverloadedError
from t5enc.options import EncoderOptions
from tests.serve_app.in_process import post

TEXTS = ["a red bird", "two dogs", "a red bird"]
DIM = 64


def make_service(name: str = "tiny", **limits: Any) -> ModelService:
    options = EncoderOptions(model="builtin:tiny", max_length=64, token_budget=128)
    return ModelService(name, options, ServiceLimits(max_texts=8, max_length=64, **limits))


def count_rows(texts: list[str]) -> int:
    return sum(len(text) for text in post("/tokenize", {"inputs": texts}).json())


@pytest.mark.parametrize(
    ("path", "body", "accept", "number_bytes", "is_pooled"),
    [
        ("/encode", {"texts": TEXTS}, None, 4, False),
        ("/encode", {"texts": TEXTS, "dtype": "float16"}, None, 2, False),
        ("/encode", {"texts": TEXTS}, "application/json", JSON_NUMBER_BYTES, False),
        ("/embed_all", {"inputs": TEXTS}, None, JSON_NUMBER_BYTES, False),
        ("/embed", {"inputs": TEXTS}, None, JSON_NUMBER_BYTES, True),
        ("/v1/embeddings", {"input": TEXTS}, None, JSON_NUMBER_BYTES, True),
    ],
)
def test_an_answer_is_as_large_as_it_may_be_or_refused_before_anything_is_encoded(
    path: str, body: dict[str, Any], accept: str | None, number_bytes: int, is_pooled: bool
) -> None:
    numbers = (len(TEXTS) if is_pooled else count_rows(TEXTS)) * DIM * number_bytes
    size = measure(path, body, accept)
    assert numbers < size < numbers + 10_000
    for limit, status in ((size, 200), (size - 1, 422)):
        service = make_service(max_answer_bytes=limit)
        answer = post(path, body, accept=accept, app=make_http(Models([service])))
        assert answer.status_code == status
        assert (service.snapshot().batches == 0) is (status == 422)
    message = f"expected an answer of at most {size - 1} bytes, got {size}"
    assert message in answer.text


def measure(path: str, body: dict[str, Any], accept: str | None = None) -> int:
    """The bytes that are counted for an answer, as a service tells that takes none as large."""
    refused = post(path, body, accept=accept, app=make_http(Models([make_service(max_answer_bytes=1)])))
    found = re.search(r"an answer of at most 1 bytes, got (\d+)", refused.text)
    assert found is not None, refused.text
    return int(found[1])


@pytest.mark.parametrize("path", ["/encode", "/embed_all", "/embed"])
def test_what_is_written_is_no_larger_than_what_was_held_for_it(path: str) -> None:
    content = post(path, {"texts" if path == "/encode" else "inputs": TEXTS}, accept="application/json").json()
    rows = content["embeddings"] if path == "/encode" else content
    assert max(len(repr(number)) + 1 for number in _flatten(rows)) <= JSON_NUMBER_BYTES


def _flatten(value: Any) -> list[float]:
    return [number for part in value for number in _flatten(part)] if isinstance(value, list) else [value]


def test_requests_together_hold_no_more_than_the_queue_has_bytes_for_cached_texts_too() -> None:
    held = count_rows(TEXTS) * DIM * 4 + measure("/encode", {"texts": TEXTS})
    service = make_service(max_answer_bytes=held, queue_bytes=held)
    app = make_http(Models([service]))
    assert post("/encode", {"texts": TEXTS}, app=app).status_code == 200
    with hold_until_answered():
        service.answer_memory.take(1)
        refused = post("/encode", {"texts": TEXTS}, app=app)
    assert (refused.status_code, refused.json()["error_type"]) == (429, "Overloaded")
    assert int(refused.headers["retry-after"]) >= 1
    assert post("/encode", {"texts": TEXTS}, app=app).status_code == 200
    assert service.answer_memory.held == 0


def test_what_could_never_be_held_is_refused_for_good() -> None:
    size = measure("/encode", {"texts": TEXTS})
    held = count_rows(TEXTS) * DIM * 4 + size
    service = make_service(max_answer_bytes=size, queue_bytes=held - 1)
    answer = post("/encode", {"texts": TEXTS}, app=make_http(Models([service])))
    assert answer.status_code == 422
    assert f"embeddings and an answer of at most {held - 1} bytes, got {held}" in answer.text


def test_memory_is_given_back_when_the_request_ends_however_it_ends() -> None:
    memory = Memory("bytes", 10)
    with hold_until_answered():
        memory.take(6)
        with pytest.raises(OverloadedError, match="expected at most 10 bytes at once, 6 are held and 5 more"):
            memory.take(5)
        assert memory.held == 6
    with pytest.raises(ValueError, match="broken"), hold_until_answered():
        _take_and_fail(memory)
    assert memory.held == 0


def _take_and_fail(memory: Memory) -> None:
    memory.take(10)
    raise ValueError("broken")


@pytest.mark.parametrize(
    ("path", "body", "unit"),
    [
        ("/tokenize", {"inputs": ["a" * 60, "b" * 41]}, "characters"),
        ("/decode", {"ids": [[1] * 60, [1] * 41]}, "ids"),
    ],
)
def test_texts_at_the_tokenizer_are_capped_and_counted(path: str, body: dict[str, Any], unit: str) -> None:
    service = make_service(max_characters=100)
    app = make_http(Models([service]))
    answer = post(path, body, app=app)
    assert answer.status_code == 422
    assert f"expected at most 100 {unit} in one request, got 101" in answer.text
    fitting = {name: [part[:50] for part in parts] for name, parts in body.items()}
    with hold_until_answered():
        service.text_memory.take((LARGEST_WAITING - 1) * 100 + 50)
        assert post(path, fitting, app=app).status_code == 429
    assert post(path, fitting, app=app).status_code == 200
    assert service.text_memory.held == 0


def test_npy_of_several_texts_is_refused_before_the_model_runs() -> None:
    service = make_service()
    app = make_http(Models([service]))
    for body in ({"texts": TEXTS}, {"ids": [[1], [2]]}, {"texts": ["a"], "null": True}):
        assert post("/encode", body, accept=wire.NPY, app=app).status_code == 406
    assert service.snapshot().batches == 0
    assert post("/encode", {"texts": TEXTS[:1]}, accept=wire.NPY, app=app).status_code == 200


def test_json_is_written_a_few_rows_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []

    def note(content: Any) -> bytes:
        written.append(len(content))
        return to_json(content)

    to_json = wire.to_json
    monkeypatch.setattr(wire, "to_json", note)
    texts = [torch.arange(22.0).reshape(11, 2), torch.empty(0, 2), torch.ones(1, 2)]
    assert json.loads(wire.write_nested(texts)) == [text.tolist() for text in texts]
    assert max(written) <= wire.ROWS_AT_ONCE


def test_queue_bytes_hold_at_least_one_answer() -> None:
    with pytest.raises(ConfigError, match="queue_bytes: expected at least max_answer_bytes"):
        ServiceLimits(queue_bytes=1)
