"""Tars read with webdataset and wids themselves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import webdataset
import wids

from t5enc.errors import ConfigError, OutputError
from t5enc.trainers import export_embeddings
from t5enc.trainers.formats.webdataset import WebDataset
from tests.t5enc.trainers.hard_paths import make_captions, make_distinct_paths
from tests.t5enc.trainers.outputs import FAILED, write_output

# webdataset leaves its files open.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
PATHS = [f"b/{index}.tar.jpg" for index in range(20)]
CAPTIONS = [f"caption {index * index}" for index in range(20)]


def read_samples(folder: Path) -> list[dict[str, Any]]:
    paths = sorted(str(path) for path in folder.glob("*.tar"))
    return list(webdataset.WebDataset(paths, shardshuffle=False).decode())


@pytest.mark.parametrize("member", ["npy", "pickle", "pth"])
def test_webdataset_has_every_row_once_in_order(tmp_path: Path, member: str) -> None:
    made = write_output(tmp_path / "out", CAPTIONS, PATHS, failed=[4, 11], storage="float16")
    report = export_embeddings("webdataset", made.folder, tmp_path / "tars", options={"member": member})
    samples = read_samples(tmp_path / "tars")
    kept = [index for index in range(20) if index not in (4, 11)]
    assert [sample["__key__"] for sample in samples] == [f"b/{index}" for index in kept]
    for sample, index in zip(samples, kept, strict=True):
        assert torch.equal(torch.as_tensor(sample[member]), made.embeddings[index])
    assert (report.files, report.without, report.note) == (4, {FAILED: 2}, None)


@pytest.mark.filterwarnings("ignore:String specifications:UserWarning")
def test_wids_finds_every_row_by_its_number(tmp_path: Path) -> None:
    made = write_output(tmp_path / "out", CAPTIONS, PATHS, failed=[4], storage="float16")
    export_embeddings("webdataset", made.folder, tmp_path / "tars")
    index = tmp_path / "tars" / "index.json"
    assert [shard["nsamples"] for shard in json.loads(index.read_text())["shardlist"]] == [6, 7, 6]
    data = wids.ShardListDataset(str(index), base=str(tmp_path / "tars"), cache_dir=str(tmp_path / "cache"))
    assert len(data) == 19
    assert data[5]["__key__"] == "b/6"
    assert torch.equal(torch.as_tensor(data[5][".npy"]), made.embeddings[6])


def test_rows_are_padded_and_cast_on_demand(tmp_path: Path) -> None:
    """As NeMo's DFM has them: bfloat16, 226 rows."""
    made = write_output(tmp_path / "out", CAPTIONS, PATHS)
    options = {"member": "pickle", "pad_to": "226", "dtype": "bfloat16"}
    export_embeddings("webdataset", made.folder, tmp_path / "tars", options=options)
    for sample, values in zip(read_samples(tmp_path / "tars"), made.embeddings, strict=True):
        assert sample["pickle"].dtype == torch.bfloat16
        assert sample["pickle"].shape == (226, 8)
        assert torch.equal(sample["pickle"][: len(values)], values)


def test_an_extension_of_ones_own_joins_other_members(tmp_path: Path) -> None:
    made = write_output(tmp_path / "out", CAPTIONS, PATHS)
    options = {"member": "safetensors", "extension": "t5.safetensors"}
    export_embeddings("webdataset", made.folder, tmp_path / "tars", options=options)
    assert set(read_samples(tmp_path / "tars")[0]) == {"__key__", "__url__", "t5.safetensors", "__local_path__"}


def test_nasty_paths_are_read_back(tmp_path: Path) -> None:
    paths = make_distinct_paths()
    made = write_output(tmp_path / "out", make_captions(), paths, rows_per_shard=100, storage="float16")
    export_embeddings("webdataset", made.folder, tmp_path / "tars")
    keys = [sample["__key__"] for sample in read_samples(tmp_path / "tars")]
    assert keys == [f"{path.rpartition('/')[0]}/".lstrip("/") + path.rpartition("/")[2].split(".")[0] for path in paths]


@pytest.mark.parametrize(
    ("path", "options", "words"),
    [
        ("a/.hidden", {}, "row 1, 'b': its sample cannot be called 'a/': a part of it is empty"),
        ("b\n", {}, "row 1, 'b': its sample cannot be called .*: it holds what cannot be printed"),
        ("c", {"pad_to": "1"}, "row 0, 'a': it has 2 rows, and pad_to is 1"),
    ],
)
def test_samples_that_readers_would_lose_are_refused_before_the_first(
    tmp_path: Path, path: str, options: dict[str, str], words: str
) -> None:
    made = write_output(tmp_path / "out", ["a", "b"], ["b/a.png", path])
    with pytest.raises(OutputError, match=words):
        export_embeddings("webdataset", made.folder, tmp_path / "tars", options={"member": "pth", **options})
    assert not list((tmp_path / "tars").glob("*.tar"))


def test_two_rows_with_one_key_in_a_tar_are_refused_and_leave_no_tar(tmp_path: Path) -> None:
    made = write_output(tmp_path / "out", ["a", "b"], ["a.png", "a.jpg"])
    with pytest.raises(OutputError, match=r"expected a key of its own for row 1, got 'a' of row 0"):
        export_embeddings("webdataset", made.folder, tmp_path / "tars", options={"member": "pth"})
    assert not list((tmp_path / "tars").glob("*.tar"))


def test_an_export_that_broke_off_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = write_output(tmp_path / "out", CAPTIONS, PATHS, storage="float16")
    whole = tmp_path / "whole"
    export_embeddings("webdataset", made.folder, whole)
    make = WebDataset.make_member
    broken = tmp_path / "tars"

    def fail(format_: WebDataset, key: str, values: torch.Tensor) -> Any:
        if key == "b/9":
            raise KeyboardInterrupt
        return make(format_, key, values)

    monkeypatch.setattr(WebDataset, "make_member", fail)
    with pytest.raises(KeyboardInterrupt):
        export_embeddings("webdataset", made.folder, broken, jobs=1)
    assert not (broken / "000001.tar").exists()
    monkeypatch.undo()
    report = export_embeddings("webdataset", made.folder, broken)
    assert report.whole >= 1
    for path in whole.glob("*.*"):
        assert path.is_dir() or (broken / path.name).read_bytes() == path.read_bytes()
    assert export_embeddings("webdataset", made.folder, broken).files == 0


def test_a_shard_that_was_written_anew_has_a_new_tar(tmp_path: Path) -> None:
    """As `--retry-errors` does, whose rows are those of the same job."""
    made = write_output(tmp_path / "out", CAPTIONS, PATHS, failed=[9], storage="float16")
    export_embeddings("webdataset", made.folder, tmp_path / "tars")
    again = write_output(tmp_path / "again", CAPTIONS, PATHS, storage="float16")
    old, new = (sorted(output.folder.rglob("*.parquet"))[1] for output in (made, again))
    old.write_bytes(new.read_bytes())
    report = export_embeddings("webdataset", made.folder, tmp_path / "tars")
    assert (report.files, report.whole) == (2, 2)
    assert len(read_samples(tmp_path / "tars")) == 20
    shards = json.loads((tmp_path / "tars" / "index.json").read_text())["shardlist"]
    assert [shard["nsamples"] for shard in shards] == [7, 7, 6]


def test_an_output_without_a_recipe_is_taken(tmp_path: Path) -> None:
    made = write_output(tmp_path / "out", CAPTIONS, PATHS)
    job = made.folder / "_t5enc" / "job.json"
    content = json.loads(job.read_text())
    content["identity"]["recipe"] = None
    job.write_text(json.dumps(content))
    export_embeddings("webdataset", made.folder, tmp_path / "tars", options={"member": "pth"})
    with pytest.raises(
        OutputError, match=r"pixart: expected recipe pixart_sigma with clean: none, got a job with --recipe none"
    ):
        export_embeddings("pixart", made.folder, tmp_path / "npz")


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    made = write_output(tmp_path / "out", CAPTIONS, PATHS)
    with pytest.raises(ConfigError, match=r"dtype: expected float16 or float32 for npy"):
        export_embeddings("webdataset", made.folder, tmp_path / "tars")
    with pytest.raises(ConfigError, match=r"--link: .*it holds tars"):
        export_embeddings("webdataset", made.folder, tmp_path / "tars", link=True)
    with pytest.raises(ConfigError, match=r"pad_to: expected at least 0, got -1"):
        WebDataset(pad_to=-1)
    with pytest.raises(ConfigError, match=r"extension: expected one such as t5.npy, got 'a/b'"):
        WebDataset(extension="a/b")
