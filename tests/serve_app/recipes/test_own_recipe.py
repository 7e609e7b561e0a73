"""A recipe of a service's own: where it comes from, where it holds, and which one a model cannot have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load
from typer.testing import CliRunner

from serve_app.api.application import make_http
from serve_app.app import load_models
from serve_app.client import Client
from serve_app.config import ServeConfig
from serve_app.served.models import Models
from serve_app.served.service import ModelService, ServiceLimits
from t5enc.cli import build_app
from t5enc.errors import ConfigError, InputError
from t5enc.options import EncoderOptions
from t5enc.recipes import Recipe
from t5enc.text_encoder import TextEncoder
from tests.serve_app.in_process import ask, post
from tests.serve_app.recipes.served_recipes import CAPTIONS, NAMES, ROUNDING, check_inputs, load_app, read_metadata
from tests.serve_app.serving import serve


def test_a_services_own_recipe_holds_where_a_request_names_none() -> None:
    options = EncoderOptions(model="builtin:tiny-umt5", recipe="wan", recipe_options={"max_sequence_length": 8})
    service = ModelService("tiny", options, ServiceLimits())
    app = make_http(Models([service]))
    plain = {"texts": CAPTIONS[:1]}
    own = load(post("/encode", plain | {"pipeline": True}, app=app).content)
    assert own["prompt_embeds"].shape == (1, 8, service.dim)
    named = load(post("/encode", plain | {"pipeline": True, "recipe": "wan"}, app=app).content)
    assert torch.equal(named["prompt_embeds"], own["prompt_embeds"])
    longer = {"pipeline": True, "recipe_options": {"max_sequence_length": 30}}
    assert load(post("/encode", plain | longer, app=app).content)["prompt_embeds"].shape[1] == 30
    none = post("/encode", plain | {"recipe": "none", "truncate": True}, app=app)
    assert "recipe" not in read_metadata(none.content)
    info = ask("GET", "/info", app=app).json()
    assert (info["recipe"], info["max_input_length"]) == ("wan", 8)
    assert ask("GET", "/recipes", app=app).json()["default"] == "wan"


def test_a_client_learns_the_recipe_that_a_service_has_of_its_own() -> None:
    own = Recipe.from_mapping({"name": "mine", "max_length": 12, "rows": "all", "mask": "bool", "null_text": "bad"})
    options = EncoderOptions(model="builtin:tiny", recipe=own)
    app = make_http(Models([ModelService("tiny", options, ServiceLimits())]))
    with serve(app) as url, Client(url, max_texts=2) as client:
        found = client.encode(CAPTIONS).to_pipeline()
        assert client.encode(CAPTIONS, recipe="none").conditioning is None
        again = client.encode(CAPTIONS, recipe="mine").to_pipeline()
    expected = TextEncoder.load(options).encode(CAPTIONS).to_pipeline()
    for inputs in (found, again):
        check_inputs({name: getattr(inputs, name) for name in NAMES}, expected)


@pytest.mark.parametrize("texts", [['"a" and "b"'], ['"' + "a" * 99 + '" and "b"']])
def test_glm_image_is_served_at_the_length_that_a_service_has_for_it(texts: list[str]) -> None:
    options = EncoderOptions(
        model="builtin:tiny-byt5", recipe="glm_image", recipe_options={"max_sequence_length": 40}, token_budget=64
    )
    app = make_http(Models([ModelService("tiny", options, ServiceLimits())]))
    assert post("/encode", {"texts": texts}, app=app).status_code == 200


def test_vectors_are_of_the_plain_text_whatever_the_services_recipe() -> None:
    options = EncoderOptions(model="builtin:tiny", recipe="flux", max_length=64)
    app = make_http(Models([ModelService("tiny", options, ServiceLimits(max_length=64))]))
    plain = load_app("builtin:tiny")
    for path, body in (("/embed", {"inputs": CAPTIONS}), ("/v1/embeddings", {"input": CAPTIONS, "model": "tiny"})):
        found, expected = (post(path, body, app=one).json() for one in (app, plain))
        assert read_vectors(found) == pytest.approx(read_vectors(expected), abs=ROUNDING)


def read_vectors(answer: Any) -> list[float]:
    rows = [item["embedding"] for item in answer["data"]] if isinstance(answer, dict) else answer
    return [value for row in rows for value in row]


def test_the_command_line_writes_its_recipe_into_a_file_that_needs_no_other(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("name: mine\nbased_on: wan\nmax_length: 10\n")
    command = ["serve", "--model", "builtin:tiny-umt5", "--recipe", str(tmp_path / "mine.yaml")]
    options = ["--recipe-option", "max_sequence_length=12", "--write-deploy-file", "-"]
    printed = CliRunner().invoke(build_app(), command + options, catch_exceptions=False)
    assert printed.exit_code == 0
    args = yaml.safe_load(printed.stdout)["applications"][0]["args"]
    (tmp_path / "mine.yaml").unlink()
    (encoder,) = ServeConfig.from_application(args).encoders().values()
    recipe = encoder.find_recipe()
    assert recipe is not None
    assert (recipe.name, recipe.max_length, recipe.clean) == ("mine", 12, "wan")


def test_a_configuration_carries_its_recipes_with_it(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("name: mine\nbased_on: wan\nmax_length: 10\n")
    asked = {
        "model": "builtin:tiny",
        "recipe": "chroma",
        "recipe_options": {"max_sequence_length": 20},
        "models": {"other": {"model": "builtin:tiny-umt5", "recipe": str(tmp_path / "mine.yaml")}},
    }
    config = ServeConfig.from_mapping(asked)
    (tmp_path / "mine.yaml").unlink()
    models = load_models(ServeConfig.from_mapping(json.loads(json.dumps(config.to_mapping()))))
    found = {name: service.recipe for name, service in models.items()}
    assert {name: recipe and (recipe.name, recipe.max_length) for name, recipe in found.items()} == {
        "builtin:tiny": ("chroma", 20),
        "other": ("mine", 10),
    }
    assert models["other"].limits.max_length == 10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"recipe": "fluxx"}, "model: recipe: expected one of wan"),
        (
            {"recipe": "deepfloyd_if", "max_length": 99},
            "max_length: expected 77, the only length of deepfloyd_if, got 99",
        ),
        ({"recipe": "flux", "max_length": 513}, "model: .*expected 1 to 512"),
        ({"recipe": "flux", "recipe_options": {"size": 1}}, "model: size: no such option of the recipe flux"),
        (
            {"models": {"other": {"model": "builtin:tiny", "recipe": {"name": "x"}}}},
            r"models\.other: max_length: a recipe",
        ),
    ],
)
def test_a_configuration_whose_recipe_cannot_be_honoured_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ServeConfig.from_mapping({"model": "builtin:tiny", **options})


def test_a_model_that_its_recipe_does_not_fit_is_not_served() -> None:
    with pytest.raises(ConfigError, match=r"recipe: wan .* needs a UMT5"):
        ModelService("tiny", EncoderOptions(model="builtin:tiny", recipe="wan"), ServiceLimits())


def test_a_length_that_is_given_bounds_every_recipe() -> None:
    options = EncoderOptions(model="builtin:tiny", recipe="pixart_alpha", max_length=40)
    service = ModelService("tiny", options, ServiceLimits())
    assert service.limits.max_length == 40
    with pytest.raises(InputError, match="flux has texts of 512 tokens, expected at most 40"):
        service._recipes.find("flux", {})
    free = ModelService("tiny", EncoderOptions(model="builtin:tiny", recipe="pixart_alpha"), ServiceLimits())
    assert free.limits.max_length == 120
    assert free._recipes.find("flux", {}) is not None
