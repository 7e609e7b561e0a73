"""What a recipe cannot honour is refused with the reason, and pads that are computed count."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest
from safetensors.torch import load

from serve_app.api.application import make_http
from serve_app.client.answers import check_same, read_answer
from serve_app.served.models import Models
from serve_app.served.recipes import MOST_CHARACTERS
from serve_app.served.service import ModelService, ServiceLimits
from t5enc.errors import PrecisionError, ServiceError
from t5enc.options import EncoderOptions
from tests.serve_app.in_process import ask, post
from tests.serve_app.recipes.served_recipes import CAPTIONS, LONG, ask_for, load_app, load_service, read_refusal


def test_a_recipe_that_changes_between_two_answers_is_an_error() -> None:
    def read(name: str) -> Any:
        answer = ask_for(name)
        return read_answer(httpx2.Response(200, content=answer.content), len(CAPTIONS), "here")

    with pytest.raises(ServiceError, match="the recipe changed on the way"):
        check_same([read("flux"), read("chroma")], "here")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"recipe": "wan"}, "recipe: wan (WanPipeline) needs a UMT5 with its tokenizer, got a T5"),
        ({"recipe": "glm_image"}, "recipe: glm_image (GlmImagePipeline) needs a ByT5 with its tokenizer, got a T5"),
        ({"recipe": "fluxx"}, "recipe: expected one of wan, skyreels_v2, "),
        ({"recipe": "mine.yaml"}, "or none, got 'mine.yaml'"),
        ({"recipe_options": {"x": 1}}, "recipe_options: expected a recipe with them, got {'x': 1} and none"),
        ({"recipe": "flux", "recipe_options": {"size": 3}}, "size: no such option of the recipe flux; expected one of"),
        ({"recipe": "flux", "recipe_options": {"max_sequence_length": 513}}, "max_sequence_length: expected 1 to 512"),
        (
            {"recipe": "pixart_sigma", "recipe_options": {"max_sequence_length": 600}},
            "recipe: pixart_sigma has texts of 600 tokens, expected at most 512, the most that is served here",
        ),
        ({"recipe": "visualcloze", "recipe_options": {"grid": "9" * 5000 + "x1"}}, "grid: expected ROWSxCOLUMNS"),
        ({"null": True}, "null: expected a recipe, whose null prompt it is, got none"),
        ({"pipeline": True}, "pipeline: expected a recipe, whose pipeline it is, got none"),
        ({"texts": ["a" * (MOST_CHARACTERS + 1)], "recipe": "pixart_sigma"}, "texts[0]: expected at most 5000 char"),
        (
            {"recipe": "pixart_sigma", "recipe_options": {"negative_prompt": "." * (MOST_CHARACTERS + 1)}},
            "negative_prompt: expected at most 5000 characters under pixart_sigma, got 5001",
        ),
        ({"texts": None, "ids": [[1]], "recipe": "flux"}, "body: expected texts with recipe, got ids"),
        ({"texts": None, "ids": [[1]], "null": True}, "body: expected texts with null, got ids"),
    ],
)  # fmt: skip
def test_what_cannot_be_honoured_is_422_with_the_reason(body: dict[str, Any], message: str) -> None:
    status, error = read_refusal("builtin:tiny", **body)
    assert status == 422
    assert message in error


def test_glm_images_pad_before_a_span_counts_in_what_is_served() -> None:
    body = {"texts": ['"' + "a" * 600 + '" and "b"'], "recipe": "glm_image"}
    longest = {"recipe_options": {"max_sequence_length": 512}}
    status, error = read_refusal("builtin:tiny-byt5", **body, **longest)
    assert status == 422
    assert "recipe: glm_image has texts of 513 tokens, expected at most 512, the most that is served here" in error
    listed = ask("GET", "/recipes", app=load_app("builtin:tiny-byt5")).json()["recipes"]
    reasons = {recipe["name"]: recipe["reason"] for recipe in listed}
    assert "glm_image has texts of 2049 tokens, expected at most 512" in reasons["glm_image"]
    assert read_refusal("builtin:tiny-byt5", **body, recipe_options={"max_sequence_length": 511}) == (200, "")


def test_a_caption_over_the_limit_is_cut_as_the_pipeline_does_unless_it_must_not() -> None:
    texts = ["a bird", LONG]
    options = {"max_sequence_length": 32}
    cut = load(ask_for("chroma", texts=texts, recipe_options=options).content)
    assert cut["truncated"].tolist() == [False, True]
    assert cut["lengths"].tolist()[1] == 32
    status, error = read_refusal("builtin:tiny", texts=texts, recipe="chroma", recipe_options=options, truncate=False)
    assert (status, error[:43]) == (422, "texts[1]: expected at most 32 tokens, got 1")


def test_pads_that_are_computed_count_in_the_queue() -> None:
    service = ModelService("tiny", EncoderOptions(model="builtin:tiny"), ServiceLimits(queue_tokens=1000))
    app = make_http(Models([service]))
    refused = post("/encode", {"texts": ["a", "b"], "recipe": "flux"}, app=app)
    assert (refused.status_code, refused.json()["error"]) == (
        422,
        "texts: expected at most 1000 tokens in one request, got 1024",
    )
    answer = post("/encode", {"texts": ["a"], "recipe": "flux"}, app=app)
    assert answer.headers["x-compute-tokens"] == "512"
    assert service.snapshot().tokens == 512
    wide = post("/encode", {"texts": ["a"] * 3, "recipe": "chroma", "pipeline": True}, app=app)
    assert "pipeline: expected at most 1000 rows, pads too, got 3 texts of 512" in wide.json()["error"]


@pytest.mark.parametrize(("failed", "message"), [({0}, "texts[0]: too large"), ({4}, "null: too large")])
def test_a_null_prompt_that_the_model_cannot_compute_is_no_texts_fault(
    monkeypatch: pytest.MonkeyPatch, failed: set[int], message: str
) -> None:
    async def fail(prompts: object) -> None:
        raise PrecisionError(dict.fromkeys(failed, "too large"))

    monkeypatch.setattr(load_service("builtin:tiny"), "encode", fail)
    body = {"texts": CAPTIONS, "recipe": "chroma", "null": True}
    answer = post("/encode", body, app=load_app("builtin:tiny"))
    assert (answer.status_code, answer.json()["error_type"]) == (424, "Backend")
    assert message in answer.json()["error"]
    assert ("failed" in answer.json()) == (failed == {0})
