"""Tars that follow others, which webdataset's own writer made; both are read side by side with webdataset."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
import webdataset

from t5enc.errors import ConfigError, OutputError
from t5enc.trainers import export_embeddings
from t5enc.trainers.formats.webdataset import WebDataset
from tests.t5enc.trainers.outputs import Written, write_output

# webdataset leaves its files open.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
COUNT = 40


def write_images(folder: Path, keys: list[str], sizes: list[int]) -> None:
    """Tars of so many samples each, of an image and a text."""
    folder.mkdir(parents=True)
    for number, size in enumerate(sizes):
        part, keys = keys[:size], keys[size:]
        with webdataset.TarWriter(str(folder / f"images-{number:03d}.tar")) as writer:
            for key in part:
                writer.write({"__key__": key, "jpg": b"not really", "txt": f"text of {key}"})


@pytest.fixture
def made(tmp_path: Path) -> Written:
    """An output, and beside it the tars of its images in another order; row 5 has no embedding and no image."""
    paths = [f"b.c/{number}.jpg" for number in range(COUNT)]
    made = write_output(
        tmp_path / "out", [f"caption {n * n}" for n in range(COUNT)], paths, storage="float16", failed=[5]
    )
    keys = [f"b.c/{number}" for number in range(COUNT) if number != 5]
    random.Random(3).shuffle(keys)
    write_images(tmp_path / "images", keys, [17, 1, 0, 21])
    return made


def read(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The samples of each tar by its name."""
    return {
        path.name: list(webdataset.WebDataset(str(path), shardshuffle=False, empty_check=False).decode())
        for path in sorted(folder.glob("*.tar"))
    }


def export(made: Written, to: Path, **options: str) -> Any:
    options = {"like": str(made.folder.parent / "images"), **options}
    return export_embeddings("webdataset", made.folder, to, options=options)


def test_samples_have_the_keys_of_the_others_in_their_order(made: Written, tmp_path: Path) -> None:
    report = export(made, tmp_path / "tars")
    images, ours = read(tmp_path / "images"), read(tmp_path / "tars")
    assert list(ours) == list(images)
    for name, samples in images.items():
        assert [sample["__key__"] for sample in ours[name]] == [sample["__key__"] for sample in samples]
        for sample in ours[name]:
            number = int(sample["__key__"].rpartition("/")[2])
            assert torch.equal(torch.from_numpy(sample["npy"]), made.embeddings[number])
    assert (report.files, report.whole, report.note) == (5, 0, None)
    index = json.loads((tmp_path / "tars" / "index.json").read_text())
    assert [shard["nsamples"] for shard in index["shardlist"]] == [17, 1, 0, 21]


def test_a_second_run_writes_the_tar_that_is_missing(made: Written, tmp_path: Path) -> None:
    export(made, tmp_path / "tars")
    path = tmp_path / "tars" / "images-003.tar"
    content = path.read_bytes()
    path.unlink()
    report = export(made, tmp_path / "tars")
    assert (report.files, report.whole) == (2, 3)  # and the index
    assert path.read_bytes() == content


def test_samples_without_a_row_are_named_or_left_out(made: Written, tmp_path: Path) -> None:
    write_images(tmp_path / "images" / "more", ["b.c/5", "b.c/6", "unknown"], [3])
    with pytest.raises(
        OutputError, match=r"images-000.tar: .* got none for 2: 'b.c/5', 'unknown'; --option missing=skip"
    ):
        export(made, tmp_path / "tars")
    assert not list((tmp_path / "tars").rglob("*.tar"))
    report = export(made, tmp_path / "tars", missing="skip")
    [sample] = read(tmp_path / "tars" / "more")["images-000.tar"]
    assert sample["__key__"] == "b.c/6"
    assert report.note == "samples of the tars have no row: 2"


def test_rows_with_one_key_are_refused(tmp_path: Path) -> None:
    made = write_output(tmp_path / "out", ["a", "b"], ["a.jpg", "a.png"], storage="float16")
    write_images(tmp_path / "images", ["a"], [1])
    with pytest.raises(OutputError, match=r"image_path: expected a key of its own .*, got one of rows 0 and 1"):
        export(made, tmp_path / "tars")


def test_what_cannot_be_followed_is_refused(made: Written, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="like: expected tars in another folder"):
        export(made, tmp_path / "images")
    with pytest.raises(OutputError, match=r"images-000.tar: 'b.c/\d+': it has 5 rows, and pad_to is 3"):
        export(made, tmp_path / "tars", pad_to="3")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="like: expected a folder with tars, got"):
        export(made, tmp_path / "tars", like=str(tmp_path / "empty"))
    with pytest.raises(ConfigError, match="missing: expected error or skip, got 'x'"):
        WebDataset(missing="x")
