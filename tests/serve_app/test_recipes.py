"""Recipes over HTTP: what the library makes of captions, to the last row, in every format; and what is refused."""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pyarrow as pa
import pytest
import torch
import yaml
from fastapi import FastAPI
from safetensors.torch import load
from torch import Tensor
from typer.testing import CliRunner

from serve_app.api.application import make_http
from serve_app.api.wire import ARROW, JSON, NPY, NPZ
from serve_app.app import load_models
from serve_app.client import AsyncClient, Client
from serve_app.client.answers import Answer, check_same, read_answer
from serve_app.config import ServeConfig
from serve_app.served.models import Models
from serve_app.served.recipes import LONGEST_KEY, MOST_CHARACTERS, MOST_PREPARERS
from serve_app.served.service import ModelService, ServiceLimits
from t5enc.cli import build_app
from t5enc.errors import ConfigError, InputError, PrecisionError, ServiceError
from t5enc.options import EncoderOptions
from t5enc.recipes import RECIPES, Recipe
from t5enc.recipes.conditioning import PipelineInputs
from t5enc.recipes.forms import make_texts
from t5enc.storage import column_format, read_column
from t5enc.text_encoder import TextEncoder
from tests.serve_app.in_process import ask, post
from tests.serve_app.serving import serve

ROUNDING = 2e-5
CAPTIONS = ["A red &amp; fox", "", "A sign that says \"open\" and 'closed'", "two dogs on a beach at night"]
LONG = "a red bird " * 400
# Of one kind of encoder each, and between them every way of keeping rows, masking them and standing for no caption.
MODELS = {
    "flux": "builtin:tiny",
    "wan": "builtin:tiny-umt5",
    "chroma": "builtin:tiny",
    "pixart_sigma": "builtin:tiny",
    "hunyuan_image": "builtin:tiny-byt5",
    "longcat_audio_dit": "builtin:tiny-umt5",
    "glm_image": "builtin:tiny-byt5",
    "kandinsky3": "builtin:tiny",
}
OPTIONS: Mapping[str, Mapping[str, Any]] = {"glm_image": {"max_sequence_length": 100}}
NAMES = ("prompt_embeds", "prompt_mask", "null_embeds", "null_mask")
GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "golden_recipes"


@cache
def load_service(model: str) -> ModelService:
    """One of each model for all tests."""
    return ModelService("tiny", EncoderOptions(model=model), ServiceLimits(max_texts=16))


@cache
def load_app(model: str) -> FastAPI:
    return make_http(Models([load_service(model)]))


@cache
def encode_alone(name: str) -> PipelineInputs:
    """What the library gives a pipeline for the captions."""
    encoder = TextEncoder.from_pretrained(MODELS[name], recipe=name, recipe_options=OPTIONS.get(name, {}))
    return encoder.encode(CAPTIONS).to_pipeline()


def ask_for(name: str, app: FastAPI | None = None, accept: str | None = None, **more: Any) -> Any:
    body = {"texts": CAPTIONS, "recipe": name, "recipe_options": dict(OPTIONS.get(name, {}))} | more
    answer = post("/encode", body, app=app or load_app(MODELS[name]), accept=accept)
    assert answer.status_code == 200, answer.text
    return answer


def read_refusal(model: str, path: str = "/encode", **body: Any) -> tuple[int, str]:
    answer = post(path, {"texts": CAPTIONS} | body, app=load_app(model))
    return answer.status_code, "" if answer.status_code == 200 else answer.json()["error"]


def read_metadata(content: bytes) -> dict[str, str]:
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return dict(header["__metadata__"])


def check_inputs(found: Mapping[str, Tensor], expected: PipelineInputs) -> None:
    """The same tensors, of the same dtypes, and none beside them."""
    wanted = {name: tensor for name in NAMES if (tensor := getattr(expected, name)) is not None}
    assert {name for name in NAMES if name in found} == set(wanted)
    for name, tensor in wanted.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
        torch.testing.assert_close(found[name], tensor, atol=ROUNDING, rtol=ROUNDING)


@pytest.mark.parametrize("name", MODELS)
def test_the_tensors_of_a_pipeline_are_those_of_the_library(name: str) -> None:
    content = ask_for(name, pipeline=True).content
    check_inputs(load(content), encode_alone(name))
    found = read_metadata(content)
    assert (found["recipe"], found["recipe_version"]) == (name, str(RECIPES[name].version))


@pytest.mark.parametrize("name", MODELS)
def test_a_client_rebuilds_the_tensors_of_a_pipeline_in_chunks_of_any_size(name: str) -> None:
    with serve(load_app(MODELS[name])) as url, Client(url, max_texts=3) as client:
        embeddings = client.encode(CAPTIONS, recipe=name, recipe_options=OPTIONS.get(name))
        null = client.null(name, OPTIONS.get(name))
        assert len(client.encode([], recipe=name, recipe_options=OPTIONS.get(name))) == 0
    expected = encode_alone(name)
    check_inputs(
        {name: tensor for name in NAMES if (tensor := getattr(embeddings.to_pipeline(), name)) is not None}, expected
    )
    assert (null is None) == (RECIPES[name].null != "text")


def test_a_client_asks_for_a_null_prompt_again_when_it_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []
    plain = AsyncClient._fetch_null

    async def note(self: AsyncClient, recipe: dict[str, Any]) -> Answer:
        asked.append(recipe)
        return await plain(self, recipe)

    monkeypatch.setattr(AsyncClient, "_fetch_null", note)
    with serve(load_app("builtin:tiny")) as url, Client(url) as client:
        found = [client.encode(CAPTIONS, recipe="chroma") for _ in range(3)]
        assert len(asked) == 1
        client.encode(CAPTIONS, recipe="chroma", recipe_options={"negative_prompt": "a pale picture"})
        found.append(client.encode(CAPTIONS, recipe="chroma"))
        assert len(asked) == 3
        assert client._client._null is not None
        client._client._null = replace(client._client._null, fingerprint="of a model that is served no more")
        found.append(client.encode(CAPTIONS, recipe="chroma"))
        assert len(asked) == 4
    for embeddings in found:
        tensors = {key: tensor for key in NAMES if (tensor := getattr(embeddings.to_pipeline(), key)) is not None}
        check_inputs(tensors, encode_alone("chroma"))


@pytest.mark.parametrize("name", ["flux", "chroma", "wan", "kandinsky3"])
def test_null_rows_come_with_texts_or_alone_in_every_format(name: str) -> None:
    both, alone = load(ask_for(name, null=True).content), load(ask_for(name, texts=[], null=True).content)
    assert torch.equal(both["null"], alone["null"])
    assert (len(alone["values"]), alone["offsets"].tolist()) == (0, [0])
    assert len(both["null"]) == {"flux": 0, "chroma": 2, "wan": 1, "kandinsky3": 0}[name]
    with np.load(io.BytesIO(ask_for(name, null=True, accept=NPZ).content)) as arrays:
        np.testing.assert_array_equal(arrays["null"], both["null"].numpy())
        assert str(arrays["recipe"]) == name
    content = ask_for(name, null=True, accept=JSON).json()
    assert (content["null"], content["recipe"]) == (both["null"].tolist(), name)
    table = pa.ipc.open_stream(ask_for(name, null=True, accept=ARROW).content).read_all()
    check_arrow(table, both, name)
    assert np.load(io.BytesIO(ask_for(name, texts=[], null=True, accept=NPY).content)).tolist() == both["null"].tolist()


def check_arrow(table: pa.Table, expected: Mapping[str, Tensor], name: str) -> None:
    facts = column_format(table.schema)
    assert (facts["recipe"], facts["null_shape"]) == (name, list(expected["null"].shape))
    assert base64.b64decode(facts["null"]) == expected["null"].numpy().tobytes()
    values = read_column(table["text_embedding_bytes"], "float32", expected["values"].shape[1]).values
    assert torch.equal(values, expected["values"])


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


@pytest.mark.parametrize("texts", [['"a" and "b"'], ['"' + "a" * 99 + '" and "b"']])
def test_glm_image_is_served_at_the_length_that_a_service_has_for_it(texts: list[str]) -> None:
    options = EncoderOptions(
        model="builtin:tiny-byt5", recipe="glm_image", recipe_options={"max_sequence_length": 40}, token_budget=64
    )
    app = make_http(Models([ModelService("tiny", options, ServiceLimits())]))
    assert post("/encode", {"texts": texts}, app=app).status_code == 200


def test_tensors_of_a_pipeline_come_in_the_formats_that_hold_them() -> None:
    with np.load(io.BytesIO(ask_for("chroma", pipeline=True, accept=NPZ).content)) as arrays:
        np.testing.assert_allclose(arrays["prompt_embeds"], encode_alone("chroma").prompt_embeds, atol=ROUNDING)
    for accept in (JSON, ARROW, NPY):
        answer = post(
            "/encode", {"texts": ["a"], "recipe": "flux", "pipeline": True}, app=load_app("builtin:tiny"), accept=accept
        )
        assert answer.status_code == 422
        assert "pipeline: expected application/vnd.safetensors or application/x-npz" in answer.json()["error"]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_masks_and_nulls_follow_the_dtype_of_the_answer(dtype: str) -> None:
    tensors = load(ask_for("chroma", pipeline=True, null=True, dtype=dtype).content)
    kept = {name: tensors[name].dtype for name in (*NAMES, "null")}
    assert set(kept.values()) == {getattr(torch, dtype)}


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


def test_equal_ids_under_other_recipes_share_nothing_and_equal_prompts_do() -> None:
    service = ModelService("tiny", EncoderOptions(model="builtin:tiny-umt5"), ServiceLimits())
    app = make_http(Models([service]))
    values = {}
    for name in ("wan", "longcat_audio_dit", "none", "skyreels_v2"):
        values[name] = load(post("/encode", {"texts": ["a bird"], "recipe": name}, app=app).content)["values"]
    assert torch.equal(values["wan"], values["none"])
    assert torch.equal(values["wan"], values["skyreels_v2"])
    assert not torch.allclose(values["wan"], values["longcat_audio_dit"])
    assert (service.snapshot().cache_hits, service.snapshot().texts) == (2, 2)


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


def test_preparers_are_kept_in_bounds() -> None:
    recipes = load_service("builtin:tiny")._recipes
    first = recipes.find("flux", {"max_sequence_length": 7})
    assert recipes.find("flux", {"max_sequence_length": 7}) is first
    for length in range(1, MOST_PREPARERS + 8):
        recipes.find("pixart_alpha", {"max_sequence_length": length})
        recipes.find("pixart_alpha", {"negative_prompt": "x" * (LONGEST_KEY + length)})
    assert recipes._keep.cache_info().currsize == MOST_PREPARERS
    assert recipes.find("flux", {"max_sequence_length": 7}) == first


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


@pytest.mark.parametrize(
    ("family", "name"), [("flux", "flux"), ("wan_226", "wan"), ("chroma", "chroma"), ("ltx", "ltx")]
)
def test_a_recorded_pipeline_is_matched_over_http(family: str, name: str) -> None:
    if not GOLDEN.is_dir():
        pytest.skip(f"needs the recorded pipelines in {GOLDEN}")
    with np.load(GOLDEN / f"{family}.npz") as arrays:
        golden = {key: arrays[key] for key in arrays.files}
    meta, prompts = (json.loads(str(golden[key])) for key in ("meta", "prompts"))
    options = {"max_sequence_length": 226} if family == "wan_226" else {}
    model = EncoderOptions(model=str(GOLDEN / "models" / meta["model"]))
    app = make_http(Models([ModelService("golden", model, ServiceLimits())]))
    found = load(ask_for(name, app, texts=prompts, recipe_options=options, pipeline=True).content)
    check_golden(golden, found)


def check_golden(golden: Mapping[str, Any], found: Mapping[str, Tensor]) -> None:
    """The rows that the pipeline's own mask keeps, and its mask, of captions and nulls."""
    for ours, theirs, mask in (("prompt", "prompt", "prompt_mask"), ("null", "negative", "negative_mask")):
        assert (f"{ours}_embeds" in found) == (f"{theirs}_embeds" in golden)
        if f"{theirs}_embeds" not in golden:
            continue
        assert (f"{ours}_mask" in found) == (mask in golden)
        kept = golden[mask].astype(bool) if mask in golden else np.ones(golden[f"{theirs}_embeds"].shape[:2], bool)
        if mask in golden:
            np.testing.assert_array_equal(found[f"{ours}_mask"].numpy(), golden[mask])
        np.testing.assert_allclose(found[f"{ours}_embeds"].numpy()[kept], golden[f"{theirs}_embeds"][kept], atol=1e-4)
