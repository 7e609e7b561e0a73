"""Bodies that are wrong or too large: refused at little cost, whoever sends them."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest
from fastapi.exceptions import RequestValidationError
from pydantic import TypeAdapter, ValidationError

from serve_app.api import bodies, error_handlers
from serve_app.api.schema import IdLists, Ids, Input, Texts
from tests.serve_app.in_process import ask, post

MANY = 200_000
WRONG: list[Any] = [1.5] * MANY
MIXED: list[Any] = ["", 1] * (MANY // 2)
ROUTES: list[tuple[str, Any]] = [
    ("/encode", {"texts": [[]] * 8, "ids": [[""] * MANY]}),
    ("/encode", {"ids": [[1] * MANY + [""] * MANY]}),
    ("/encode", {"texts": WRONG}),
    ("/encode", {f"field{index}": 1 for index in range(MANY // 2)}),
    ("/prepare", {"texts": WRONG}),
    ("/prepare", {f"field{index}": 1 for index in range(MANY // 2)}),
    ("/similarity", {"inputs": {"source_sentence": "a", "sentences": WRONG}}),
    ("/tokenize", {"inputs": MIXED}),
    ("/decode", {"ids": [[""] * MANY]}),
    *(
        (path, {"inputs": inputs})
        for path in ("/", "/embed", "/invocations", "/embed_all")
        for inputs in (WRONG, MIXED)
    ),
    *((path, {"input": inputs}) for path in ("/v1/embeddings", "/embeddings") for inputs in (WRONG, [[""] * MANY])),
]


@pytest.mark.parametrize(("path", "body"), ROUTES)
def test_wrong_elements_without_number_make_a_handful_of_problems(
    path: str, body: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []

    def count(model: Any, content: Any, max_texts: int) -> Any:
        try:
            return check(model, content, max_texts)
        except RequestValidationError as error:
            made.append(len(error.errors()))
            raise

    check = bodies.check_body
    monkeypatch.setattr(bodies, "check_body", count)
    answer = post(path, body)
    assert answer.status_code == 422, answer.text
    assert len(answer.text) < 1000
    assert all(number <= error_handlers.MOST_PROBLEMS for number in made)


@pytest.mark.parametrize("kind", [Texts, Ids, IdLists, Input])
@pytest.mark.parametrize("value", [WRONG, MIXED, [[""] * MANY], [[1] * 9, *WRONG], [True] * MANY])
def test_each_kind_of_input_is_refused_at_its_first_wrong_element(kind: Any, value: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(kind).validate_python(value, strict=True)
    assert caught.value.error_count() <= 4  # one a type that an input may have


@pytest.mark.parametrize(
    ("path", "body", "found"),
    [
        ("/encode", {"ids": [[1]] * MANY}, MANY),
        ("/encode", {"texts": MIXED}, MANY),
        ("/prepare", {"texts": MIXED}, MANY),
        ("/embed", {"inputs": [[1]] * MANY}, MANY),
        ("/similarity", {"inputs": {"source_sentence": "a", "sentences": MIXED}}, MANY),
        ("/tokenize", {"inputs": ["a"] * MANY}, MANY),
        ("/decode", {"ids": [[1]] * MANY}, MANY),
    ],
)
def test_too_many_texts_are_refused_before_they_are_looked_at(path: str, body: dict[str, Any], found: int) -> None:
    answer = post(path, body)
    assert answer.status_code == 422
    assert answer.json()["error"] == f"batch size {found} > maximum allowed batch size 8"


def test_large_bodies_are_read_beside_the_event_loop_and_small_ones_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[bool] = []

    def note(*arguments: Any) -> Any:
        threads.append(threading.current_thread() is threading.main_thread())
        return check(*arguments)

    check = bodies.check_body
    monkeypatch.setattr(bodies, "check_body", note)
    for size in (10, bodies.LARGEST_INLINE):
        assert post("/embed", {"inputs": "a" * size}).status_code == 200
    assert threads == [True, False]


@pytest.mark.parametrize("content", ["[" * 100_000, '{"texts": [' + "1" * 5000 + "]}", '{"texts": ["\\ud800"]}', "{"])
def test_json_that_no_model_takes_is_refused(content: str) -> None:
    answer = ask("POST", "/encode", content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 422)
    assert answer.json()["error_type"] == "Validation"


def test_a_large_body_is_answered_as_a_small_one() -> None:
    content = json.dumps({"texts": ["a red fox"]})
    headers = {"Content-Type": "application/json", "Accept": "application/json"}
    small, large = (
        ask("POST", "/encode", content=content + " " * spaces, headers=headers).json()
        for spaces in (0, bodies.LARGEST_INLINE)
    )
    assert small["embeddings"] == large["embeddings"]
