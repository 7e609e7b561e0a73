"""Encoders of diffusers repositories: recipe, components and projection as the repository has them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from t5enc import TextEncoder
from t5enc.checkpoint.builtin import open_builtin, write_builtin, write_tokenizer
from t5enc.errors import CheckpointError, ConfigError
from t5enc.recipes import RECIPES
from tests.families import make_checkpoint

CAPTIONS = ["a red bird", "two boats &amp; a pier"]


def make_repository(folder: Path, pipeline: str, part: str = "text_encoder", **settings: Any) -> Path:
    """A repository of which only the T5 and its tokenizer are there."""
    kind = "tiny-umt5" if pipeline.startswith("Wan") else "tiny"
    tokenizer = part.replace("text_encoder", "tokenizer")
    write_builtin(f"builtin:{kind}", folder / part)
    (folder / tokenizer).mkdir()
    for path in (folder / part).iterdir():
        if path.name not in ("config.json", "model.safetensors"):
            path.rename(folder / tokenizer / path.name)
    encoder = "UMT5EncoderModel" if kind == "tiny-umt5" else "T5EncoderModel"
    index = {"_class_name": pipeline, part: ["transformers", encoder], "vae": [None, None], **settings}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


@pytest.mark.parametrize(
    ("pipeline", "part", "name"),
    [
        ("FluxKontextPipeline", "text_encoder_2", "flux"),
        ("StableDiffusion3Pipeline", "text_encoder_3", "stable_diffusion_3"),
        ("WanImageToVideoPipeline", "text_encoder", "wan"),
        ("ChromaPipeline", "text_encoder", "chroma"),
    ],
)
def test_a_repository_is_encoded_as_its_pipeline_does(pipeline: str, part: str, name: str, tmp_path: Path) -> None:
    folder = make_repository(tmp_path, pipeline, part)
    found = TextEncoder.from_pretrained(folder, device="cpu")
    named = TextEncoder.from_pretrained(
        folder / part, tokenizer=str(folder / part.replace("text_encoder", "tokenizer"))
    )
    assert found.recipe == RECIPES[name]
    assert named.recipe is None
    inputs = found.encode(CAPTIONS).to_pipeline()
    assert inputs.prompt_embeds.shape == (2, RECIPES[name].max_length, 64)
    explicit = TextEncoder.from_pretrained(folder, recipe=name, device="cpu").encode(CAPTIONS).to_pipeline()
    assert torch.equal(inputs.prompt_embeds, explicit.prompt_embeds)


def test_a_variant_with_another_default_has_it(tmp_path: Path) -> None:
    recipe = TextEncoder.from_pretrained(make_repository(tmp_path, "ChromaInpaintPipeline")).recipe
    assert recipe is not None
    assert recipe.max_length == 256


def test_glyphs_are_read_by_the_byt5_beside_the_main_encoder(tmp_path: Path) -> None:
    make_checkpoint("byt5", tmp_path / "text_encoder_2", d_model=32, num_heads=2, d_ff=48, num_layers=1)
    (tmp_path / "tokenizer_2").mkdir()
    write_tokenizer(tmp_path / "tokenizer_2", None)
    parts = {"text_encoder": ["transformers", "Qwen2_5_VL"], "text_encoder_2": ["transformers", "T5EncoderModel"]}
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "HunyuanImagePipeline", **parts}))
    encoder = TextEncoder.from_pretrained(tmp_path, device="cpu")
    assert encoder.tokenizer.is_bytes
    assert encoder.recipe == RECIPES["hunyuan_image"]
    assert encoder.encode(['a sign that says "open"', "a sign"]).lengths.tolist() == [len(b'Text "open". ') + 1, 0]


def test_what_is_named_holds_over_what_is_inferred(tmp_path: Path) -> None:
    folder = make_repository(tmp_path, "FluxPipeline")
    assert TextEncoder.from_pretrained(folder, recipe="none").recipe is None
    assert TextEncoder.from_pretrained(folder, recipe="chroma").recipe == RECIPES["chroma"]
    recipe = TextEncoder.from_pretrained(folder, recipe_options={"max_sequence_length": 40}).recipe
    assert recipe is not None
    assert (recipe.name, recipe.max_length) == ("flux", 40)


def test_a_pipeline_that_is_not_known_has_no_recipe(tmp_path: Path) -> None:
    assert TextEncoder.from_pretrained(make_repository(tmp_path, "SomebodysPipeline")).recipe is None


def test_options_that_do_not_fit_say_where_the_recipe_comes_from(tmp_path: Path) -> None:
    folder = make_repository(tmp_path, "FluxPipeline")
    with pytest.raises(
        ConfigError, match=r"got 600 \(the recipe flux was inferred from model_index.json, FluxPipeline"
    ):
        TextEncoder.from_pretrained(folder, max_length=600)


@pytest.mark.parametrize("settings", [{"recipe": "none"}, {}])
def test_options_without_a_recipe_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="recipe_options: expected a recipe with them"):
        TextEncoder.from_pretrained("builtin:tiny", recipe_options={"max_sequence_length": 40}, **settings)


def write_projection(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    (folder / "projection_model").mkdir()
    save_file(tensors, folder / "projection_model" / "diffusion_pytorch_model.safetensors")


def test_stable_audios_projection_is_applied(tmp_path: Path) -> None:
    folder = make_repository(tmp_path, "StableAudioPipeline")
    torch.manual_seed(0)
    weight, bias = torch.randn(24, 64), torch.randn(24)
    write_projection(folder, {"text_projection.weight": weight, "text_projection.bias": bias})
    encoder = TextEncoder.from_pretrained(folder, device="cpu")
    plain = TextEncoder.from_pretrained(folder, recipe="none", device="cpu").encode(CAPTIONS).values
    found = encoder.encode(CAPTIONS)
    assert (encoder.dim, found.dim) == (24, 24)
    torch.testing.assert_close(found.values, plain @ weight.T + bias, rtol=1e-5, atol=1e-5)


def test_a_projection_of_equal_widths_is_none(tmp_path: Path) -> None:
    folder = make_repository(tmp_path, "StableAudioPipeline")
    write_projection(folder, {"start_number_conditioner.weight": torch.zeros(1)})
    assert TextEncoder.from_pretrained(folder).dim == 64


def test_a_projection_of_another_encoder_or_none_at_all_is_refused(tmp_path: Path) -> None:
    folder = make_repository(tmp_path, "StableAudioPipeline")
    with pytest.raises(CheckpointError, match=r"no diffusion_pytorch_model\.safetensors in .*projection_model"):
        TextEncoder.from_pretrained(folder)
    write_projection(folder, {"text_projection.weight": torch.zeros(24, 32), "text_projection.bias": torch.zeros(24)})
    with pytest.raises(CheckpointError, match=r"text_projection.weight: expected \(24, 64\), got \(24, 32\)"):
        TextEncoder.from_pretrained(folder)


def test_the_builtin_tokenizer_is_the_repositories(tmp_path: Path) -> None:
    encoder = TextEncoder.from_pretrained(make_repository(tmp_path, "FluxPipeline", "text_encoder_2"))
    model = open_builtin("builtin:tiny").tokenizer_source
    assert isinstance(model, bytes)
    assert (tmp_path / "tokenizer_2" / "spiece.model").read_bytes() == model
    assert encoder.tokenize(["a bird"]).ids[0][-1] == encoder.tokenizer.eos_id
