"""Which recipes fit a model, and what becomes of captions under one before anything is encoded."""

from __future__ import annotations

import threading

import pytest

from serve_app.served.recipes import LONGEST_KEY, MOST_PREPARERS
from t5enc.recipes import RECIPES, Recipe
from t5enc.recipes.forms import make_texts
from tests.serve_app.in_process import ask, post
from tests.serve_app.recipes.served_recipes import CAPTIONS, LONG, ask_for, load_app, load_service, read_refusal


@pytest.mark.parametrize(
    ("model", "kind"), [("builtin:tiny", "t5"), ("builtin:tiny-umt5", "umt5"), ("builtin:tiny-byt5", "byt5")]
)
def test_the_recipes_that_fit_are_listed_with_what_keeps_one_from_being_served(model: str, kind: str) -> None:
    listed = ask("GET", "/recipes", app=load_app(model)).json()["recipes"]
    names = {recipe["name"] for recipe in listed}
    fitting = {
        name for name, recipe in RECIPES.items() if recipe.encoder == kind or (kind == "t5" and recipe.encoder == "mt5")
    }
    assert names == fitting
    for recipe in listed:
        status, error = read_refusal(model, texts=["a bird"], recipe=recipe["name"])
        assert (status, error or None) == (200 if recipe["reason"] is None else 422, recipe["reason"])


def test_what_becomes_of_captions_is_shown_without_encoding_them() -> None:
    app, service = load_app("builtin:tiny"), load_service("builtin:tiny")
    before = service.snapshot()
    body = {"texts": ["A &amp; B", LONG], "recipe": "chroma", "recipe_options": {"max_sequence_length": 16}}
    first, cut = post("/prepare", body, app=app).json()
    assert service.snapshot() == before
    assert (first["texts"], first["rows"], first["computed"]) == (
        ["A &amp; B"],
        first["tokens"] + 1,
        first["tokens"] + 1,
    )
    assert (first["documents"][0]["attended"], first["pads"], cut["pads"]) == (first["tokens"], 1, 0)
    assert (cut["truncated"], cut["rows"], cut["tokens"] > 400) == (True, 16, True)
    cleaned = post("/prepare", body | {"texts": ["A &amp; B"], "recipe": "pixart_sigma"}, app=app).json()
    assert cleaned[0]["texts"] == ["a b"]
    assert read_refusal("builtin:tiny", "/prepare") == (
        422,
        "recipe: expected one of /recipes, got none; see /tokenize",
    )


def test_quoted_spans_become_texts_of_their_own_or_none() -> None:
    body = {"texts": CAPTIONS, "recipe": "hunyuan_image"}
    shown = post("/prepare", body, app=load_app("builtin:tiny-byt5")).json()
    assert [caption["texts"] for caption in shown] == [[], [], ['Text "closed". Text "open". '], []]
    assert [caption["rows"] for caption in shown] == [0, 0, shown[2]["tokens"], 0]


def test_captions_are_prepared_beside_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []

    def note(recipe: Recipe, caption: str) -> list[str]:
        names.append(threading.current_thread().name)
        return make_texts(recipe, caption)

    monkeypatch.setattr("t5enc.text.preparer.make_texts", note)
    ask_for("chroma", texts=["a bird"])
    assert names[0].startswith("tokenizer")


def test_preparers_are_kept_in_bounds() -> None:
    recipes = load_service("builtin:tiny")._recipes
    first = recipes.find("flux", {"max_sequence_length": 7})
    assert recipes.find("flux", {"max_sequence_length": 7}) is first
    for length in range(1, MOST_PREPARERS + 8):
        recipes.find("pixart_alpha", {"max_sequence_length": length})
        recipes.find("pixart_alpha", {"negative_prompt": "x" * (LONGEST_KEY + length)})
    assert recipes._keep.cache_info().currsize == MOST_PREPARERS
    assert recipes.find("flux", {"max_sequence_length": 7}) == first
