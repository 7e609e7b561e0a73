"""What a service makes of captions is what the library makes of them, to the last row, in every format."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load
from torch import Tensor

from serve_app.api.application import make_http
from serve_app.api.wire import ARROW, JSON, NPY, NPZ
from serve_app.client import AsyncClient, Client
from serve_app.client.answers import Answer
from serve_app.served.models import Models
from serve_app.served.service import ModelService, ServiceLimits
from t5enc.options import EncoderOptions
from t5enc.recipes import RECIPES
from t5enc.storage import column_format, read_column
from tests.conftest import SHARED
from tests.serve_app.in_process import post
from tests.serve_app.recipes.served_recipes import (
    CAPTIONS,
    MODELS,
    NAMES,
    OPTIONS,
    ROUNDING,
    ask_for,
    check_inputs,
    encode_alone,
    load_app,
    read_metadata,
)
from tests.serve_app.serving import serve

GOLDEN = SHARED / "golden_recipes"


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
