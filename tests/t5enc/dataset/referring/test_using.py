"""What is made of an output, or told of it, does not depend on whether equal embeddings are stored once."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from t5enc.checks.inspect import print_output
from t5enc.errors import ConfigError, OutputError
from t5enc.recipes.conditioning import Conditioning
from t5enc.recipes.families import RECIPES
from t5enc.storage.layout import SHARED, SUCCESS
from t5enc.trainers import export_embeddings
from tests.t5enc.dataset.outputs import write_output
from tests.t5enc.dataset.referring.making import refer
from tests.t5enc.dataset.referring.test_reading import SHARDS, write_both


def read_all(folder: Path) -> dict[str, bytes]:
    """Files without the record of what they were made of."""
    paths = (path for path in folder.rglob("*") if path.is_file() and not path.parent.name.startswith("."))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def test_exports_are_the_same_byte_for_byte(tmp_path: Path) -> None:
    made = []
    for name, output in zip(("a", "b"), write_both(tmp_path), strict=True):
        export_embeddings("webdataset", output, tmp_path / name, stem_column="id")
        like = tmp_path / f"like-{name}"
        export_embeddings("webdataset", output, like, stem_column="id", options={"like": str(tmp_path / "a")})
        made.append((read_all(tmp_path / name), read_all(like)))
    assert made[0] == made[1]
    assert all(made[0])


def test_no_link_is_made_to_a_shard_that_refers(tmp_path: Path) -> None:
    output = tmp_path / "out"
    conditioning = Conditioning(replace(RECIPES["wan"], clean="none"), torch.zeros(1, 4))
    write_output(output, SHARDS[1:2], storage="float32", conditioning=conditioning, max_length=512)
    refer(output)
    with pytest.raises(ConfigError, match=r"--link: .*: rows refer to embeddings in shared/, which the loader"):
        export_embeddings("fastvideo", output, tmp_path / "links", link=True)


def add_totals(folder: Path) -> None:
    success = json.loads((folder / SUCCESS).read_text())
    (folder / SUCCESS).write_text(json.dumps(success | {"totals": {"captions": 22}}))


def test_inspecting_says_how_many_rows_refer_and_what_that_saved(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain, referring = write_both(tmp_path, lambda place: 8 <= place < 11 or place == 0)
    for folder in (plain, referring):
        add_totals(folder)
    print_output(str(referring), rows=1, partial=False)
    shown = capsys.readouterr().out
    # Three rows of 5 tokens of 8 bytes are one, and a row of 3 tokens is there twice: once as what nobody refers to.
    assert "4 rows refer to 2 embeddings in shared/: 56 bytes less than with one each" in shown
    print_output(str(plain), rows=1, partial=False)
    assert "refer" not in capsys.readouterr().out


def test_inspecting_says_what_embeddings_cost_that_no_row_needed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, referring = write_both(tmp_path, lambda place: place == 0)
    add_totals(referring)
    print_output(str(referring), rows=0, partial=False)
    assert "1 rows refer to 1 embeddings in shared/: 24 bytes more than with one each" in capsys.readouterr().out


def test_inspecting_names_a_shard_that_refers_to_what_is_not_there(tmp_path: Path) -> None:
    _, referring = write_both(tmp_path)
    write_output(tmp_path / "others", SHARDS[1:2])
    refer(tmp_path / "others")
    (referring / SHARED).rename(tmp_path / "away")
    (tmp_path / "others" / SHARED).rename(referring / SHARED)
    add_totals(referring)
    with pytest.raises(OutputError, match=r"data/a_/0{12}-0{16}\.parquet: expected 2 rows in shared/, got a row \d"):
        print_output(str(referring), rows=0, partial=False)
