"""Weight files: views of the file, and what a damaged one says."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from t5enc.checkpoint.tensor_files import LazyTensors, open_tensors
from t5enc.errors import CheckpointError


def write(path: Path) -> Path:
    tensors = {"a": torch.arange(1000.0), "b": torch.ones(2, 3, dtype=torch.bfloat16)}
    if path.suffix == ".bin":
        torch.save(tensors, path)
    else:
        save_file(tensors, path)
    return path


@pytest.mark.parametrize("name", ["a.safetensors", "a.bin"])
def test_reading_twice_gives_the_same_memory(name: str, tmp_path: Path) -> None:
    tensors = open_tensors([write(tmp_path / name)])
    assert tensors["a"].data_ptr() == tensors["a"].data_ptr()
    assert tensors["a"].untyped_storage().nbytes() >= 4000
    assert torch.equal(tensors["a"], torch.arange(1000.0))


def test_views_outlive_what_read_them(tmp_path: Path) -> None:
    tensor = open_tensors([write(tmp_path / "a.safetensors")])["a"]
    (tmp_path / "a.safetensors").unlink()
    assert tensor.sum() == 999 * 500


def test_names_are_known_before_anything_is_read() -> None:
    def fail() -> torch.Tensor:
        raise AssertionError("read")

    tensors = LazyTensors({"a": fail})
    assert list(tensors) == ["a"]
    assert len(tensors) == 1
    assert "a" in tensors


def test_several_files_are_one_mapping(tmp_path: Path) -> None:
    save_file({"c": torch.zeros(1)}, tmp_path / "c.safetensors")
    tensors = open_tensors([write(tmp_path / "a.safetensors"), tmp_path / "c.safetensors"])
    assert sorted(tensors) == ["a", "b", "c"]


@pytest.mark.parametrize("name", ["a.safetensors", "a.bin"])
@pytest.mark.parametrize("kept", [0, 4, 100, -10])
def test_a_file_cut_short_is_refused_by_name(name: str, kept: int, tmp_path: Path) -> None:
    path = write(tmp_path / name)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match=rf"{name}: expected .*cut short"):
        open_tensors([path])


@pytest.mark.parametrize("name", ["a.safetensors", "a.bin"])
def test_a_git_lfs_pointer_says_how_to_get_the_file(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
    with pytest.raises(CheckpointError, match="Git LFS pointer; `git lfs pull`"):
        open_tensors([tmp_path / name])
