from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from t5enc.errors import ConfigError, OutputError
from t5enc.recipes.families import RECIPES
from t5enc.trainers import export_embeddings
from t5enc.trainers.acceptance import check_recipe
from t5enc.trainers.formats.pixart import PixArt
from tests.t5enc.trainers.formats.given_rows import make_caption, make_given
from tests.t5enc.trainers.hard_paths import make_captions, make_distinct_paths, make_paths
from tests.t5enc.trainers.outputs import write_output

PLAIN = PixArt().recipes[0]


def expect_name(path: str) -> str:
    """Where the trainer looks: the last slash becomes an underscore, and each of three endings `.npz`, in turn."""
    joined = re.sub(r"/(?=[^/]*$)", "_", path)
    for ending in ("png", "jpg", "webp"):
        joined = ".npz".join(joined.split(f".{ending}"))
    return joined


def load_features(data: bytes, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """As the loader has them: the last row again and again up to its length, and a mask without these."""
    with np.load(io.BytesIO(data)) as archive:
        features = torch.from_numpy(archive["caption_feature"])
        mask = torch.from_numpy(archive["attention_mask"])[None]
    missing = length - features.shape[1]
    features = torch.cat([features, features[:, -1:].expand(-1, missing, -1)], 1)
    return features, torch.cat([mask, torch.zeros(1, 1, length - mask.shape[-1])], -1).to(torch.int16)


@pytest.mark.parametrize("folder", ["caption_features_new", "sharegpt4v_caption_features_new", "caption_features"])
def test_a_file_lies_where_the_loader_looks_for_it(folder: str) -> None:
    format_ = PixArt(folder=folder)
    for path in make_paths():
        assert format_.name_file(make_caption(path)) == f"{folder}/{expect_name(path)}"


@pytest.mark.parametrize("compress", [True, False])
def test_the_loader_has_the_rows_and_masks_what_it_repeats(compress: bool) -> None:
    values = torch.randn(5, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    pieces = PixArt(compress=compress).make_file(make_caption("a.png"), values, make_given())
    features, mask = load_features(b"".join(pieces), 300)
    assert torch.equal(features[0, :5], values.half())
    assert torch.equal(features[0, 5:], values.half()[4:].expand(295, 8))
    assert mask.tolist() == [[[1] * 5 + [0] * 295]]


def test_a_file_has_the_bytes_of_the_trainers_own_call() -> None:
    values = torch.randn(5, 8)
    stream = io.BytesIO()
    arrays = {"caption_feature": values.half().numpy()[None], "attention_mask": np.ones((1, 5), np.int16)}
    np.savez_compressed(stream, **arrays)
    assert b"".join(PixArt().make_file(make_caption("a.png"), values, make_given())) == stream.getvalue()


@pytest.mark.parametrize("recipe", [RECIPES["pixart_sigma"], RECIPES["wan"], replace(PLAIN, max_length=120)])
def test_an_output_of_another_recipe_is_refused(recipe: object) -> None:
    with pytest.raises(OutputError, match=r"pixart: expected recipe pixart_sigma with clean: none at 300"):
        check_recipe(PixArt(), make_given(recipe))  # type: ignore[arg-type]


def test_alpha_has_shorter_captions() -> None:
    check_recipe(PixArt(), make_given(PLAIN))
    check_recipe(PixArt(folder="caption_features", max_length=120), make_given(replace(PLAIN, max_length=120)))


def test_other_folders_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"folder: expected one of caption_features_new, .*, got 'x'"):
        PixArt(folder="x")
    with pytest.raises(ConfigError, match=r"max_length: expected at least 1, got 0"):
        PixArt(max_length=0)


def test_an_output_becomes_files_that_the_loader_finds(tmp_path: Path) -> None:
    captions, paths = make_captions(), make_distinct_paths()
    made = write_output(
        tmp_path / "out",
        captions,
        paths,
        recipe="pixart_sigma",
        fields={"clean": "none"},
        storage="float16",
        rows_per_shard=100,
    )
    report = export_embeddings("pixart", made.folder, tmp_path / "to")
    assert report.files == len(captions)
    for number, path in enumerate(paths):
        features, mask = load_features((tmp_path / "to" / "caption_features_new" / expect_name(path)).read_bytes(), 300)
        assert torch.equal(features[0, : int(mask.sum())], made.embeddings[number])
