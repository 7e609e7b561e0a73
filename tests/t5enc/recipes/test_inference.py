"""The recipe that a repository's model_index.json tells."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from t5enc.recipes import RECIPES, find_recipe
from t5enc.recipes.inference import PIPELINES, infer_recipe


def test_a_class_tells_its_family() -> None:
    assert infer_recipe({"_class_name": "WanPipeline"}) == ("wan", {}, "WanPipeline")
    found = infer_recipe({"_class_name": "StableDiffusion3PAGPipeline"})
    assert found is not None
    assert found.name == "stable_diffusion_3"


@pytest.mark.parametrize("index", [{}, {"_class_name": "LTX2Pipeline"}, {"_class_name": ["custom", "FluxPipeline"]}])
def test_another_class_tells_nothing(index: dict[str, Any]) -> None:
    assert infer_recipe(index) is None


def test_settings_of_the_repository_are_options_where_the_family_has_them() -> None:
    settings = {"force_zeros_for_empty_prompt": True}
    found = infer_recipe({"_class_name": "MochiPipeline", **settings})
    assert found is not None
    assert found.options == settings
    # Stable Diffusion XL's setting of the same name stands in indexes of others, too.
    assert infer_recipe({"_class_name": "FluxPipeline", **settings}) == ("flux", {}, "FluxPipeline")


def find_class(name: str) -> Any:
    diffusers = pytest.importorskip("diffusers", reason="needs diffusers: pip install 't5enc[diffusers]'")
    if name == "ConsisIDPipeline":  # hidden where OpenCV is missing
        from diffusers.pipelines.consisid.pipeline_consisid import ConsisIDPipeline

        return ConsisIDPipeline
    return getattr(diffusers, name)


@pytest.mark.parametrize("name", PIPELINES)
def test_a_class_has_the_default_length_of_its_recipe(name: str) -> None:
    parameters = inspect.signature(find_class(name).__call__).parameters
    found = infer_recipe({"_class_name": name})
    assert found is not None
    recipe = find_recipe(found.name, found.options)
    if "max_sequence_length" in parameters:
        assert recipe.max_length == parameters["max_sequence_length"].default
    if "clean_caption" in parameters:
        assert parameters["clean_caption"].default == (recipe.clean == "if")


def test_every_family_is_some_pipelines() -> None:
    assert set(PIPELINES.values()) == set(RECIPES)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # of pipelines without T5
def test_no_class_of_diffusers_with_a_t5_is_forgotten() -> None:
    diffusers = pytest.importorskip("diffusers", reason="needs diffusers: pip install 't5enc[diffusers]'")
    kinds = ("T5EncoderModel", "UMT5EncoderModel", "MT5EncoderModel")
    names = [name for name in dir(diffusers) if name.endswith("Pipeline") and not name.endswith("ModularPipeline")]
    found = set()
    for name in names:
        parameters = inspect.signature(getattr(diffusers, name).__init__).parameters
        annotations = " ".join(str(parameters[part].annotation) for part in parameters if "text_encoder" in part)
        if any(f".{kind}" in annotations for kind in kinds):
            found.add(name)
    assert len(found) > 60
    assert found <= set(PIPELINES)
