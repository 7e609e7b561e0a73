"""What is counted for an answer before anything is encoded is at least what is answered."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any
from unittest.mock import patch

import pytest
import torch
from fastapi import FastAPI
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.api import answer_size
from serve_app.api.application import make_http
from serve_app.api.wire import ARROW, JSON, NPY, NPZ, SAFETENSORS
from serve_app.served.models import Models
from serve_app.served.service import ModelService, ServiceLimits
from t5enc.online.calls import Served
from t5enc.options import EncoderOptions
from t5enc.recipes import RECIPES
from t5enc.text.prompts import Prompt
from tests.serve_app.in_process import post

MODELS = {"t5": "builtin:tiny", "mt5": "builtin:tiny", "umt5": "builtin:tiny-umt5", "byt5": "builtin:tiny-byt5"}
# A projection to another width is not served.
NAMES = [name for name, recipe in RECIPES.items() if recipe.finish != "project"]
OPTIONS = {"glm_image": {"max_sequence_length": 100}}
DTYPES = ["float32", "float16", "bfloat16"]
# Of those that float32 has, one with the most characters of JSON.
LONGEST_NUMBER = -1.1754943508222875e-38
FORMS: list[dict[str, Any]] = [
    *({"accept": accept, "dtype": dtype} for accept in (SAFETENSORS, ARROW, JSON) for dtype in DTYPES),
    *({"accept": NPZ, "dtype": dtype} for dtype in DTYPES[:2]),
    *({"accept": SAFETENSORS, "dtype": dtype, "pipeline": True} for dtype in DTYPES),
    *({"accept": NPZ, "dtype": dtype, "pipeline": True} for dtype in DTYPES[:2]),
]
CAPTIONS = st.lists(st.text("ab \"'é\n", max_size=300) | st.just("a red bird " * 300), min_size=1, max_size=4)


@cache
def load_app(kind: str) -> FastAPI:
    """Its model answers the longest numbers that there are, whatever it is asked."""
    service = ModelService("näme", EncoderOptions(model=MODELS[kind]), ServiceLimits(max_texts=8))

    async def encode(prompts: Sequence[Prompt]) -> Served:
        hidden = [torch.full((prompt.rows, service.dim), LONGEST_NUMBER) for prompt in prompts]
        return Served(hidden, 0.0, 0.0)

    service.encode = encode  # type: ignore[method-assign, assignment]
    return make_http(Models([service]))


@contextmanager
def noted_counts() -> Iterator[list[int]]:
    """The bytes that are counted for the answers to requests meanwhile."""
    counts: list[int] = []

    def note(*arguments: Any) -> int:
        counts.append(measure(*arguments))
        return counts[-1]

    measure = answer_size.measure_answer
    with patch.object(answer_size, "measure_answer", note):
        yield counts


def check_counted(path: str, body: dict[str, Any], accept: str | None, app: FastAPI) -> int:
    """The bytes that were counted and not answered; there are no others."""
    with noted_counts() as counts:
        answer = post(path, body, accept=accept, app=app)
    assert answer.status_code == 200, answer.text
    assert len(answer.content) <= sum(counts)
    return sum(counts) - len(answer.content)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=6, deadline=None)
@given(captions=CAPTIONS, form=st.sampled_from(FORMS), null=st.booleans(), negative=st.sampled_from(["", "bad " * 20]))
def test_no_answer_under_a_recipe_is_larger_than_what_was_counted(
    name: str, captions: list[str], form: dict[str, Any], null: bool, negative: str
) -> None:
    options = OPTIONS.get(name, {}) | ({"negative_prompt": negative} if takes_negative(name, form) else {})
    body = {"texts": captions, "recipe": name, "recipe_options": options, "null": null} | form
    accept = body.pop("accept")
    check_counted("/encode", body, accept, load_app(RECIPES[name].encoder))


def takes_negative(name: str, form: dict[str, Any]) -> bool:
    """A pipeline whose null is as wide as its captions takes none that is longer."""
    recipe = RECIPES[name]
    is_cut = recipe.width == "longest" and recipe.null_width != "own"
    return "negative_prompt" in recipe.options and not (is_cut and "pipeline" in form)


@pytest.mark.parametrize("form", [form for form in FORMS if "pipeline" in form])
@pytest.mark.parametrize("null", [False, True])
def test_the_wide_masks_of_aura_flow_are_counted_and_little_beside_them(form: dict[str, Any], null: bool) -> None:
    body = {"texts": ["a bird", "two dogs"], "recipe": "aura_flow", "null": null} | form
    accept = body.pop("accept")
    assert check_counted("/encode", body, accept, load_app("umt5")) < 1 << 15


@pytest.mark.parametrize("texts", [["a"], [""] * 8, ["a red bird"] * 3])
@pytest.mark.parametrize(
    ("path", "field", "accept"),
    [
        *(("/encode", "texts", accept) for accept in (SAFETENSORS, ARROW, NPZ, JSON)),
        ("/embed", "inputs", None),
        ("/embed_all", "inputs", None),
        ("/v1/embeddings", "input", None),
    ],
)
def test_no_answer_without_a_recipe_is_larger_than_what_was_counted(
    texts: list[str], path: str, field: str, accept: str | None
) -> None:
    check_counted(path, {field: texts}, accept, load_app("t5"))


def test_one_array_is_no_larger_than_what_was_counted() -> None:
    check_counted("/encode", {"texts": ["a red bird"]}, NPY, load_app("t5"))
