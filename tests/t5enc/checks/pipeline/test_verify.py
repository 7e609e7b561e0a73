"""`t5enc verify --pipeline`: true repositories agree with their own pipelines, and whatever is changed is found."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import T5EncoderModel, T5Tokenizer, UMT5EncoderModel
from typer.testing import CliRunner

from t5enc import TextEncoder
from t5enc.checkpoint.builtin import write_builtin
from t5enc.checks.pipeline.runs import PLACES
from t5enc.checks.pipeline.verify import verify_pipeline
from t5enc.cli import build_app
from t5enc.errors import CheckpointError, ConfigError, T5encError
from t5enc.recipes import RECIPES

diffusers = pytest.importorskip("diffusers", reason="needs diffusers (pip install t5enc[diffusers])")
pytest.importorskip("accelerate", reason="needs accelerate (pip install t5enc[diffusers])")

CAPTIONS = ["", "A red fox &amp; a  hen.", "Two grey herons stand in a shallow river at dawn. " * 60]
MakeRepository = Callable[..., Path]
# Pipelines whose constructors want more than a text encoder, a tokenizer and three absent parts.
MORE = {"chronoedit": ("image_encoder", "image_processor")}


def make_pipeline(name: str, encoder: Any, tokenizer: Any, **settings: Any) -> Any:
    """A family's pipeline with its text encoders alone."""
    from tests.t5enc.tiny_pipelines import make_flux, make_stable_diffusion_3

    makers = {"flux": make_flux, "stable_diffusion_3": make_stable_diffusion_3}
    if name in makers:
        return makers[name](encoder, tokenizer)
    absent = dict.fromkeys(("transformer", "vae", "scheduler", *MORE.get(name, ())))
    pipeline: Any = getattr(diffusers, RECIPES[name].source)
    return pipeline(text_encoder=encoder, tokenizer=tokenizer, **absent, **settings)


@pytest.fixture(scope="module", autouse=True)
def _silent() -> Iterator[None]:
    level = diffusers.utils.logging.get_verbosity()
    diffusers.utils.logging.set_verbosity_error()
    yield
    diffusers.utils.logging.set_verbosity(level)


@pytest.fixture(scope="module")
def make_repository(tmp_path_factory: pytest.TempPathFactory) -> MakeRepository:
    """`make_repository(name, **settings)`: a family's repository as diffusers saves it, each time anew."""
    models: dict[str, Path] = {}

    def make(name: str, **settings: Any) -> Path:
        kind = "tiny-umt5" if RECIPES[name].encoder == "umt5" else "tiny"
        if kind not in models:
            models[kind] = tmp_path_factory.mktemp(kind)
            write_builtin(f"builtin:{kind}", models[kind])
        encoder_class: Any = UMT5EncoderModel if kind == "tiny-umt5" else T5EncoderModel
        encoder = encoder_class.from_pretrained(models[kind]).eval()
        tokenizer = T5Tokenizer.from_pretrained(models[kind], model_max_length=77)
        folder = tmp_path_factory.mktemp(name)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            make_pipeline(name, encoder, tokenizer, **settings).save_pretrained(folder)
        return folder

    return make


# One of each kind of answer, and of each encoder.
QUICK = ("wan", "pixart_sigma", "mochi", "flux", "stable_diffusion_3", "chroma")


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.long) for name in PLACES]
)
def test_a_repository_agrees_with_its_own_pipeline(name: str, make_repository: MakeRepository) -> None:
    found = verify_pipeline(str(make_repository(name)), CAPTIONS, device="cpu")
    assert found.failures == ()
    checks = {check.name: check for check in found.checks}
    assert {"texts", "ids", "mask to the encoder", "prompt mask", "prompt embeds"} <= set(checks)
    assert all(check.compared == len(CAPTIONS) for check in checks.values())
    assert ("null embeds" in checks) == (RECIPES[name].null != "none")
    assert ("null texts" in checks) == (RECIPES[name].null == "text")
    worst = checks["prompt embeds"].worst
    assert worst is not None
    assert worst < 1e-4


def test_options_of_the_call_are_those_of_both_sides(make_repository: MakeRepository) -> None:
    options = {"max_sequence_length": 40, "clean_caption": False, "negative_prompt": "Pale."}
    found = verify_pipeline(str(make_repository("pixart_sigma")), CAPTIONS, recipe_options=options, device="cpu")
    assert found.failures == ()
    assert "length 40, text lower" in found.recipe


@pytest.mark.parametrize("forces", [True, False])
def test_a_setting_of_the_repository_is_heard(forces: bool, make_repository: MakeRepository) -> None:
    folder = make_repository("mochi", force_zeros_for_empty_prompt=forces)
    assert verify_pipeline(str(folder), CAPTIONS, device="cpu").failures == ()
    recipe = TextEncoder.from_pretrained(folder, device="cpu").recipe
    assert recipe is not None
    assert recipe.zeroes_empty == forces


@pytest.mark.parametrize("forces", [True, False])
def test_a_setting_that_is_given_holds_on_both_sides(forces: bool, make_repository: MakeRepository) -> None:
    folder = make_repository("mochi", force_zeros_for_empty_prompt=not forces)
    options = {"force_zeros_for_empty_prompt": forces}
    assert verify_pipeline(str(folder), CAPTIONS, recipe_options=options, device="cpu").failures == ()


def test_an_option_that_encode_prompt_does_not_take_is_refused(make_repository: MakeRepository) -> None:
    with pytest.raises(ConfigError, match=r"negative_prompt: FluxPipeline\.encode_prompt has no such argument"):
        verify_pipeline(str(make_repository("flux")), CAPTIONS, recipe_options={"negative_prompt": "pale"})


def change_recipe(monkeypatch: pytest.MonkeyPatch, **fields: Any) -> None:
    """Make the recipe of pixart_sigma another one than the pipeline's."""
    from dataclasses import replace

    changed = {**RECIPES, "pixart_sigma": replace(RECIPES["pixart_sigma"], **fields)}
    monkeypatch.setattr("t5enc.recipes.opening.RECIPES", changed)


@pytest.mark.parametrize(
    ("fields", "failing"),
    [
        ({"clean": "lower"}, "texts"),
        ({"max_length": 299}, "ids"),
        ({"attends_pads": True}, "mask to the encoder"),
        ({"mask": "bool"}, "prompt mask"),
        ({"finish": "add_norms"}, "prompt embeds"),
        ({"null": "zeros"}, "null embeds"),
        ({"null_text": "pale"}, "null texts"),
    ],
)
def test_a_recipe_that_is_not_the_pipelines_is_found(
    fields: dict[str, Any], failing: str, make_repository: MakeRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    change_recipe(monkeypatch, **fields)
    found = verify_pipeline(str(make_repository("pixart_sigma")), CAPTIONS, device="cpu")
    assert any(failure.startswith(f"{failing}:") for failure in found.failures)


def invoke(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(build_app(), list(arguments), env={"COLUMNS": "200"})
    if isinstance(result.exception, T5encError):
        raise result.exception
    return result.exit_code, result.output


def test_the_command_prints_a_verdict_and_ends_with_it(
    make_repository: MakeRepository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, texts, figures = str(make_repository("pixart_sigma")), tmp_path / "texts.txt", tmp_path / "figures.json"
    texts.write_text("\n".join(CAPTIONS[1:]))
    options = ("--texts", str(texts), "--device", "cpu", "--json", str(figures))
    code, shown = invoke("verify", "--pipeline", folder, *options)
    assert (code, "the same as the pipeline" in shown) == (0, True)
    assert json.loads(figures.read_text())["failures"] == []
    change_recipe(monkeypatch, clean="lower")
    code, shown = invoke("verify", "--pipeline", folder, *options)
    assert (code, "FAILED texts: 1 of 2 differ; first texts[0]" in shown) == (1, True)


def test_a_pipeline_that_cannot_be_run_is_named_with_those_that_can(tmp_path: Path) -> None:
    write_builtin("builtin:tiny", tmp_path / "text_encoder")
    index = {"_class_name": "BriaPipeline", "text_encoder": ["transformers", "T5EncoderModel"]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ConfigError, match=r"BriaPipeline \(bria\) is not verified by this command; .*wan.*flux"):
        verify_pipeline(str(tmp_path), CAPTIONS)


@pytest.mark.parametrize("arguments", [(), ("model", "--pipeline", "repository")])
def test_one_of_a_model_and_a_pipeline_is_verified(arguments: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="model"):
        invoke("verify", *arguments)


def test_a_folder_that_is_no_repository_is_refused(tmp_path: Path) -> None:
    write_builtin("builtin:tiny", tmp_path)
    with pytest.raises(ConfigError, match=r"expected a diffusers repository, got .* without model_index\.json"):
        verify_pipeline(str(tmp_path), CAPTIONS)


def test_a_repository_that_lacks_a_part_is_said_to(make_repository: MakeRepository) -> None:
    folder = make_repository("flux")
    (folder / "text_encoder" / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"diffusers cannot load its text encoders: .*text_encoder"):
        verify_pipeline(str(folder), CAPTIONS)


def test_missing_diffusers_is_said_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ConfigError, match=r"pip install \"t5enc\[diffusers\]\""):
        verify_pipeline("anywhere", CAPTIONS)


def test_numbers_that_are_not_finite_differ() -> None:
    from t5enc.checks.pipeline.verify import Checks

    checks = Checks(tolerance=1.0)
    checks.add_rows("rows", torch.tensor([float("nan")]), torch.zeros(1), "here")
    checks.add_rows("rows", torch.zeros(1), torch.zeros(1), "there")
    check = checks.found["rows"]
    assert (check.differing, check.compared, str(check.worst)) == (1, 2, "nan")
