"""musubi-tuner's cache of Wan, read as its trainer reads it, and equal to what its own writer makes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from t5enc.errors import OutputError
from t5enc.trainers import export_embeddings
from tests.t5enc.trainers.nasty import make_captions, make_paths
from tests.t5enc.trainers.outputs import DIM, write_output

CAPTIONS = ["a fox", " spaced \n", "", "ünï ⟨🦊⟩", 'quo"te \\ back', "tab\tand\x01control\x7f"]


def read_as_trainer(path: Path) -> tuple[torch.Tensor, str]:
    """The trainer takes the one key that begins with `varlen_`, and cuts its dtype off behind the last `_`."""
    with safe_open(path, "pt") as file:
        (key,) = file.keys()
        assert key.startswith("varlen_t5_")
        return file.get_tensor(key), file.metadata()["caption1"]


def test_each_caption_has_its_rows_and_its_words(tmp_path: Path) -> None:
    made = write_output(tmp_path / "out", CAPTIONS)
    report = export_embeddings("musubi", made.folder, tmp_path / "cache")
    assert report.files == len(CAPTIONS)
    assert report.note is None
    for index, caption in enumerate(CAPTIONS):
        rows, told = read_as_trainer(tmp_path / "cache" / f"{index}_wan_te.safetensors")
        assert told == caption.strip()
        assert torch.equal(rows, made.embeddings[index])
    assert sorted(path.name for path in (tmp_path / "cache").iterdir())[1:] == [
        f"{index}_wan_te.safetensors" for index in range(len(CAPTIONS))
    ]


def test_nasty_names_and_their_bytes_are_the_librarys_but_for_the_order_of_the_metadata(tmp_path: Path) -> None:
    raw = make_captions()
    encoded = [caption.strip() for caption in raw]
    made = write_output(tmp_path / "out", encoded, make_paths(), more={"raw": raw}, rows_per_shard=300)
    assert export_embeddings("musubi", made.folder, tmp_path / "cache", caption_column="raw").files == len(raw)
    for index, (caption, path) in enumerate(zip(made.captions, made.paths, strict=True)):
        name = f"{os.path.splitext(os.path.basename(path))[0]}_wan_te.safetensors"
        ours = (tmp_path / "cache" / name).read_bytes()
        metadata = {"architecture": "wan", "caption1": caption.strip(), "format_version": "1.0.1"}
        save_file({"varlen_t5_bfloat16": made.embeddings[index]}, tmp_path / "theirs", metadata)
        theirs = (tmp_path / "theirs").read_bytes()
        assert len(ours) == len(theirs)
        size = int.from_bytes(ours[:8], "little")
        assert ours[:8] == theirs[:8]
        assert json.loads(ours[8 : 8 + size]) == json.loads(theirs[8 : 8 + size])
        assert ours[8 + size :] == theirs[8 + size :]


def test_a_caption_that_is_another_once_it_is_stripped_is_refused(tmp_path: Path) -> None:
    made = write_output(tmp_path / "out", ["\x85a fox"])  # which Wan's cleaning takes for an ellipsis
    with pytest.raises(OutputError, match="the trainer encodes 'a fox'"):
        export_embeddings("musubi", made.folder, tmp_path / "cache")


def test_float8_is_what_torch_rounds_to(tmp_path: Path) -> None:
    made = write_output(tmp_path / "out", CAPTIONS)
    export_embeddings("musubi", made.folder, tmp_path / "cache", options={"dtype": "float8_e4m3fn"})
    found = load_file(tmp_path / "cache" / "0_wan_te.safetensors")["varlen_t5_float8_e4m3fn"]
    assert found.shape == (len(made.embeddings[0]), DIM)
    expected = made.embeddings[0].to(torch.float8_e4m3fn)
    assert torch.equal(found.view(torch.uint8), expected.view(torch.uint8))


def test_stems_are_those_of_the_last_part(tmp_path: Path) -> None:
    paths = ["/data/x.y/a.b.jpg", "plain", ".hidden", "dot.", "sp ace/ü.mp4", "back\\slash.png"]
    made = write_output(tmp_path / "out", CAPTIONS, paths)
    export_embeddings("musubi", made.folder, tmp_path / "cache")
    names = {f"{os.path.splitext(os.path.basename(path))[0]}_wan_te.safetensors" for path in paths}
    assert {path.name for path in (tmp_path / "cache").iterdir() if path.is_file()} == names


def test_lossless_codecs_give_the_same_files(tmp_path: Path) -> None:
    for storage in ("bfloat16", "bf16z"):
        made = write_output(tmp_path / storage, CAPTIONS, storage=storage)
        assert export_embeddings("musubi", made.folder, tmp_path / f"{storage}_cache").note is None
    for index in range(len(CAPTIONS)):
        name = f"{index}_wan_te.safetensors"
        assert (tmp_path / "bf16z_cache" / name).read_bytes() == (tmp_path / "bfloat16_cache" / name).read_bytes()
