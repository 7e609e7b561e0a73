from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from t5enc.errors import OutputError
from t5enc.recipes.families import RECIPES
from t5enc.trainers import export_embeddings
from t5enc.trainers.acceptance import check_recipe
from t5enc.trainers.formats.cosmos import Cosmos
from tests.t5enc.trainers.formats.given_rows import make_caption, make_given
from tests.t5enc.trainers.hard_paths import make_captions, make_distinct_paths, make_paths
from tests.t5enc.trainers.outputs import write_output

COSMOS = RECIPES["cosmos"]


def expect_name(path: str) -> str:
    """The script names a file after a text, the loader after a video; a name with neither end is a stem."""
    name = os.path.basename(path)
    if name.endswith(".txt"):
        return name.replace(".txt", ".pickle")
    return name.replace(".mp4", ".pickle") if name.endswith(".mp4") else name + ".pickle"


def load_embedding(data: bytes) -> tuple[np.ndarray, torch.Tensor]:
    """As the loader has them: zeros up to 512, and how many are none."""
    [rows] = pickle.loads(data)
    mask = torch.zeros(512, dtype=torch.int64)
    mask[: len(rows)] = 1
    return np.concatenate([rows, np.zeros((512 - len(rows), rows.shape[1]), np.float32)]), mask


def test_a_file_lies_where_the_loader_looks_for_it() -> None:
    for path in make_paths():
        assert Cosmos().name_file(make_caption(path)) == f"t5_xxl/{expect_name(path)}"


def test_the_loader_has_the_rows_and_their_mask() -> None:
    values = torch.randn(5, 8).bfloat16()
    [data] = Cosmos().make_file(make_caption("a.mp4"), values, make_given(COSMOS))
    rows, mask = load_embedding(bytes(data))
    assert np.array_equal(rows[:5], values.half().numpy())
    assert not rows[5:].any()
    assert mask.sum() == 5


def test_a_file_holds_the_bytes_of_its_rows_alone() -> None:
    """They are those of a list of rows, as the script cuts them off a padded array."""
    padded = torch.randn(9, 8).half()
    [data] = Cosmos().make_file(make_caption("a.mp4"), padded[2:7], make_given(COSMOS))
    assert data == pickle.dumps([padded.numpy()[2:7]], protocol=4)
    assert len(data) < 400


def test_an_output_of_another_recipe_is_refused() -> None:
    check_recipe(Cosmos(), make_given(COSMOS))
    with pytest.raises(OutputError, match="cosmos: expected recipe cosmos at 512, got flux at 512"):
        check_recipe(Cosmos(), make_given(RECIPES["flux"]))


def test_an_output_becomes_files_that_the_loader_finds(tmp_path: Path) -> None:
    captions, paths = make_captions(), make_distinct_paths()
    made = write_output(tmp_path / "out", captions, paths, recipe="cosmos", storage="float16", rows_per_shard=100)
    report = export_embeddings("cosmos", made.folder, tmp_path / "to")
    assert report.files == len(captions)
    for number, path in enumerate(paths):
        rows, mask = load_embedding((tmp_path / "to" / "t5_xxl" / expect_name(path)).read_bytes())
        assert np.array_equal(rows[: int(mask.sum())], made.embeddings[number].numpy())
