"""What the pipelines' own calls hand to their encoding functions, whose own defaults are often others.

The calls run with numbers in the place of all parts, up to the encoding function.
"""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from t5enc.recipes import RECIPES
from tests.t5enc.recipes.pipelines.building import find_class
from tests.t5enc.recipes.pipelines.calls import ARGUMENTS, CPU, Reached
from tests.t5enc.recipes.pipelines.families import FAMILIES
from tests.t5enc.recipes.prompts import NEGATIVE

pytest.importorskip("diffusers", reason="needs diffusers: pip install 't5enc[diffusers]'")

# What an option is called with, other than its default.
GIVEN = {
    "max_sequence_length": 24,
    "clean_caption": False,
    "mask_feature": False,
    "negative_prompt": [NEGATIVE] * 2,
    "negative_prompt_3": ["pale"] * 2,
}
STATISTICS = {"z_dim": 8, "latents_mean": [0.0] * 8, "latents_std": [1.0] * 8}
# What cannot do with a number that stands for everything.
NEEDED: dict[str, dict[str, Any]] = {
    "helios": {"vae": SimpleNamespace(dtype=torch.float32, config=SimpleNamespace(**STATISTICS))},
    "glm_image": {"generate_prior_tokens": lambda *_, **__: (None, None, None)},
}
WITHOUT: dict[str, dict[str, Any]] = {
    "pixart_alpha": {"use_resolution_binning": False},
    "pixart_sigma": {"use_resolution_binning": False},
}


class Eight(int):
    """A number that has every attribute, can be called, and holds two of itself."""

    def __new__(cls) -> Eight:
        return super().__new__(cls, 8)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Eight()

    def __call__(self, *_: Any, **__: Any) -> Any:
        return Eight()

    def __getitem__(self, _: Any) -> Any:
        return Eight()

    def __iter__(self) -> Any:
        return iter([Eight(), Eight()])


class Handed(Reached):
    """The arguments of the encoding function."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        super().__init__("encode_prompt")
        self.arguments = arguments


def build_call(name: str) -> Any:
    """A pipeline of numbers that stops where it would encode with T5."""
    base = find_class(FAMILIES[name].class_name)
    signature = inspect.signature(base.encode_prompt)

    def encode_prompt(*values: Any, **named: Any) -> Any:
        bound = signature.bind(*values, **named)
        bound.apply_defaults()
        if bound.arguments.get("text_encoder_index") == 0:
            return (Eight(),) * 4
        raise Handed(dict(bound.arguments))

    parts: dict[str, Any] = {
        "_execution_device": CPU,
        "config": Eight(),
        "encode_prompt": encode_prompt,
        "check_inputs": lambda *_, **__: None,
        "__getattr__": lambda *_: Eight(),
        "__setattr__": object.__setattr__,
    }
    return object.__new__(type(base.__name__, (base,), parts | NEEDED.get(name, {})))


def hand_over(name: str, **options: Any) -> dict[str, Any]:
    """What the call with two captions hands over; arguments that it must have are numbers."""
    pipeline = build_call(name)
    known = inspect.signature(pipeline.__call__).parameters
    needed = {
        key for key, entry in known.items() if entry.default is entry.empty and entry.kind is not entry.VAR_KEYWORD
    }
    captions = {"prompt": ["a", "b"], "content_prompt": ["a", "b"], "task_prompt": ["c", "d"]}
    arguments = dict.fromkeys(needed, Eight()) | {key: text for key, text in captions.items() if key in known}
    try:
        pipeline(**arguments, **WITHOUT.get(name, {}), **options)
    except Handed as handed:
        return handed.arguments
    raise AssertionError(f"{name} never encoded")


def reachable(name: str) -> list[str]:
    """The options of a family that are arguments of its call and of its encoding function."""
    base = find_class(FAMILIES[name].class_name)
    both = set(inspect.signature(base.__call__).parameters) & set(inspect.signature(base.encode_prompt).parameters)
    return [option for option in ARGUMENTS if option in both]


@pytest.mark.parametrize("name", FAMILIES)
def test_the_calls_defaults_are_the_recipes(name: str) -> None:
    recipe, handed = RECIPES[name], hand_over(name)

    if "max_sequence_length" in handed:
        assert handed["max_sequence_length"] == recipe.max_length
    if "clean_caption" in handed:
        assert handed["clean_caption"] is (recipe.clean == "if")
    assert handed.get("mask_feature", True)
    assert handed.get("_cut_context", True)
    assert not handed.get("negative_prompt")


@pytest.mark.parametrize("name", [name for name in FAMILIES if reachable(name)])
def test_the_calls_options_reach_the_encoding(name: str) -> None:
    options = {option: GIVEN[option] for option in reachable(name)}

    handed = hand_over(name, **options)

    assert {option: handed[option] for option in options} == options


@pytest.mark.parametrize("name", FAMILIES)
def test_options_of_the_call_are_options_of_the_recipe(name: str) -> None:
    assert set(reachable(name)) <= set(RECIPES[name].options)
