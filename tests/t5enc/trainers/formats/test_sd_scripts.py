from __future__ import annotations

import io
import os
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import numpy as np
import pytest
import torch
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from t5enc.errors import CheckpointError, ConfigError, OutputError
from t5enc.recipes.families import FLUX, RECIPES
from t5enc.recipes.recipe import Recipe
from t5enc.trainers.acceptance import check_recipe
from t5enc.trainers.formats.sd_scripts import SD3, Flux
from tests.t5enc.trainers.formats.given_rows import make_caption, make_given
from tests.t5enc.trainers.hard_paths import make_paths

LENGTH, DIM = 512, 8
SD3_RECIPE = RECIPES["stable_diffusion_3"]
MASKED = Flux(clip_column="c", apply_mask=True).recipes[1]


def save_flux(path: Path, *, t5: np.ndarray, pooled: np.ndarray, real: int, applies: bool) -> bytes:
    """A caption's cache as the trainer writes it, from what its models gave."""
    mask = np.zeros(len(t5), np.int64)
    mask[:real] = 1
    ids = np.zeros((len(t5), 3), np.float32)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, l_pooled=pooled, t5_out=t5, txt_ids=ids, t5_attn_mask=mask, apply_t5_attn_mask=applies)
    return path.read_bytes()


def save_sd3(path: Path, clip: dict[str, Any], *, t5: np.ndarray, mask: np.ndarray, applies: bool) -> bytes:
    arrays = {name: clip[name] for name in ("lg_out", "lg_pooled")} | {"t5_out": t5}
    arrays |= {name: clip[name] for name in ("clip_l_attn_mask", "clip_g_attn_mask")} | {"t5_attn_mask": mask}
    np.savez(path, **arrays, apply_lg_attn_mask=False, apply_t5_attn_mask=applies)
    return path.read_bytes()


def make_clip() -> dict[str, Any]:
    draw = np.random.default_rng(0)
    return {
        "lg_out": draw.normal(size=(77, 2048)).astype(np.float32),
        "lg_pooled": draw.normal(size=2048).astype(np.float32),
        "clip_l_attn_mask": np.arange(77) < 9,
        "clip_g_attn_mask": (np.arange(77) < 8).astype(np.int64),
    }


def make_pooled() -> np.ndarray:
    return np.random.default_rng(1).normal(size=768).astype(np.float32)


def make_rows(length: int = LENGTH) -> torch.Tensor:
    return torch.randn(length, DIM, generator=torch.Generator().manual_seed(0)).bfloat16()


@pytest.mark.parametrize(
    ("format_", "suffix"), [(Flux(clip_column="c"), "_flux_te.npz"), (SD3(clip_from="c"), "_sd3_te.npz")]
)
def test_a_file_lies_beside_its_image(format_: Flux | SD3, suffix: str) -> None:
    for path in make_paths():
        assert format_.name_file(make_caption(path)) == os.path.splitext(path)[0] + suffix


def test_a_flux_file_has_the_trainers_bytes_with_clip_of_an_older_one(tmp_path: Path) -> None:
    values = make_rows()
    older = save_flux(
        tmp_path / "b/a_flux_te.npz", t5=np.zeros((512, DIM), np.float32), pooled=make_pooled(), real=7, applies=False
    )
    expected = save_flux(tmp_path / "new.npz", t5=values.float().numpy(), pooled=make_pooled(), real=7, applies=False)
    caption, shared = make_caption("b/a.png", num_tokens=LENGTH), make_given(FLUX, dim=DIM)
    format_ = Flux(clip_from=str(tmp_path))
    check_recipe(format_, shared)
    assert b"".join(format_.make_file(caption, values, shared)) == expected != older
    assert format_.measure_file(caption, shared) == len(expected)


def test_a_flux_file_under_a_mask_holds_zeros_for_pads_and_clip_of_a_column(tmp_path: Path) -> None:
    values, pooled = make_rows(5), make_pooled()
    padded = np.zeros((512, DIM), np.float32)
    padded[:5] = values.float().numpy()
    expected = save_flux(tmp_path / "new.npz", t5=padded, pooled=pooled, real=5, applies=True)
    format_, shared = Flux(clip_column="c", apply_mask=True), make_given(MASKED, dim=DIM)
    check_recipe(format_, shared)
    assert format_.more_columns == ("c",)
    for value in (pooled.tolist(), pooled.tobytes()):
        assert b"".join(format_.make_file(make_caption("a.png", c=value), values, shared)) == expected


def test_numbers_of_16_bits_halve_a_file() -> None:
    values, caption = make_rows(), make_caption("a.png", num_tokens=LENGTH, c=make_pooled().tolist())
    format_ = Flux(clip_column="c", dtype="float16", tokenizer="builtin:tiny")
    data = b"".join(format_.make_file(caption, values, make_given(FLUX, dim=DIM)))
    with np.load(io.BytesIO(data)) as archive:
        assert torch.FloatTensor(archive["t5_out"]).tolist() == values.half().tolist()
        assert 0 < archive["t5_attn_mask"].sum() < 20
    assert format_.measure_file(caption, make_given(FLUX, dim=DIM)) == len(data)


def test_the_tokenizer_counts_before_the_mask_of_another_file(tmp_path: Path) -> None:
    save_flux(
        tmp_path / "a_flux_te.npz", t5=np.zeros((512, DIM), np.float32), pooled=make_pooled(), real=7, applies=False
    )
    caption = make_caption("a.png", text="a", num_tokens=LENGTH)
    format_ = Flux(clip_from=str(tmp_path), tokenizer="builtin:tiny")
    with np.load(io.BytesIO(b"".join(format_.make_file(caption, make_rows(), make_given(FLUX, dim=DIM))))) as archive:
        assert archive["t5_attn_mask"].sum() == 2


def test_without_tokenizer_and_file_a_padded_caption_has_no_mask() -> None:
    caption = make_caption("a.png", num_tokens=LENGTH, c=make_pooled().tolist())
    with pytest.raises(ConfigError, match="tokenizer: expected a model by whose tokenizer"):
        Flux(clip_column="c").make_file(caption, make_rows(), make_given(FLUX, dim=DIM))


def test_an_sd3_file_has_the_trainers_bytes(tmp_path: Path) -> None:
    values, clip, mask = make_rows(256), make_clip(), (np.arange(256) < 7).astype(np.int64)
    save_sd3(tmp_path / "a_sd3_te.npz", clip, t5=np.zeros((256, DIM), np.float32), mask=mask, applies=False)
    expected = save_sd3(tmp_path / "new.npz", clip, t5=values.float().numpy(), mask=mask, applies=False)
    format_, shared = SD3(clip_from=str(tmp_path)), make_given(SD3_RECIPE, dim=DIM)
    check_recipe(format_, shared)
    made = format_.make_file(make_caption("a.jpg", num_tokens=256), values, shared)
    assert b"".join(made) == expected


def write_clip(folder: Path, width: int) -> CLIPTextModel:
    """A CLIP of one layer that knows letters, with random weights."""
    names = [*ascii_lowercase, *(f"{letter}</w>" for letter in ascii_lowercase), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {name: number for number, name in enumerate(names)}
    CLIPTokenizer(vocab=vocabulary, merges=[]).save_pretrained(folder)
    config = CLIPTextConfig(
        vocab_size=len(names),
        hidden_size=width,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=4,
        bos_token_id=len(names) - 2,
        eos_token_id=len(names) - 1,
    )
    model = CLIPTextModel(config).eval()
    model.save_pretrained(folder)
    return model


def test_clips_vector_is_made_of_the_caption(tmp_path: Path) -> None:
    model = write_clip(tmp_path / "clip", 768)
    ids = [52, *(ord(letter) - ord("a") for letter in "re"), 29, *[53] * 73]
    expected = model(torch.tensor([ids])).pooler_output[0]
    format_, shared = Flux(clip=str(tmp_path / "clip"), apply_mask=True), make_given(MASKED, dim=DIM)
    data = b"".join(format_.make_file(make_caption("a.png", text="red"), make_rows(5), shared))
    with np.load(io.BytesIO(data)) as archive:
        torch.testing.assert_close(torch.from_numpy(archive["l_pooled"]), expected.detach())


def test_another_clip_and_none_are_named(tmp_path: Path) -> None:
    write_clip(tmp_path / "small", 64)
    for folder, words in (("small", "expected CLIP-L, whose vectors have 768 numbers, got 64"), ("none", "got: ")):
        with pytest.raises(CheckpointError, match=words):
            Flux(clip=str(tmp_path / folder)).make_file(make_caption("a.png"), make_rows(), make_given(FLUX, dim=DIM))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "No such file"),
        (b"torn", "expected the trainer's file"),
        ({"t5_out": np.zeros(3)}, "l_pooled"),
        ({"l_pooled": np.zeros(3)}, r"l_pooled: expected \(768,\), got \(3,\)"),
    ],
)
def test_a_file_without_clips_vector_is_named(tmp_path: Path, content: object, words: str) -> None:
    path = tmp_path / "a_flux_te.npz"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, dict):
        np.savez(path, **content)
    with pytest.raises(OutputError, match=f"a_flux_te.npz: .*{words}"):
        Flux(clip_from=str(tmp_path)).make_file(make_caption("a.png"), make_rows(), make_given(FLUX, dim=DIM))


@pytest.mark.parametrize(
    ("value", "words"), [(None, "None"), ([1.0], "1 of them"), (["a"], "could not convert"), (b"abc", "multiple")]
)
def test_a_column_without_clips_vector_is_named(value: object, words: str) -> None:
    with pytest.raises(OutputError, match=f"row 0: c: expected 768 numbers, got.*{words}"):
        Flux(clip_column="c").make_file(make_caption("a.png", c=value), make_rows(), make_given(FLUX, dim=DIM))


@pytest.mark.parametrize(
    ("format_", "recipe"),
    [
        (Flux(clip_column="c"), MASKED),
        (Flux(clip_column="c", max_length=256), FLUX),
        (Flux(clip_column="c", apply_mask=True), FLUX),
        (SD3(clip_from="c"), FLUX),
    ],
)
def test_an_output_of_another_recipe_is_refused(format_: Flux | SD3, recipe: Recipe) -> None:
    with pytest.raises(OutputError, match=f"{format_.name}: expected recipe"):
        check_recipe(format_, make_given(recipe))


def test_clip_is_given_once() -> None:
    for options in ({}, {"clip_from": "a", "clip_column": "b"}):
        with pytest.raises(ConfigError, match="expected CLIP's vectors from one of clip_from, clip_column and clip"):
            Flux(**options)
    with pytest.raises(ConfigError, match="expected CLIP's vectors from clip_from"):
        SD3()
    with pytest.raises(ConfigError, match="dtype: expected one of float32, float16"):
        SD3(clip_from="a", dtype="bfloat16")
