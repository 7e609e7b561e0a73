"""Services of tiny models asked for recipes, and what the library makes of the same captions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from fastapi import FastAPI
from torch import Tensor

from serve_app.api.application import make_http
from serve_app.served.models import Models
from serve_app.served.service import ModelService, ServiceLimits
from t5enc.options import EncoderOptions
from t5enc.recipes.conditioning import PipelineInputs
from t5enc.text_encoder import TextEncoder
from tests.serve_app.in_process import post

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
