"""An output that went on with other captions is exported again: what is old is not taken for what it should be."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from t5enc.errors import ConfigError, OutputError
from t5enc.trainers import export_embeddings
from t5enc.trainers.files import name_aside, write_file
from t5enc.trainers.record import CLOCK, FOLDER, RUNS, hold, open_record
from tests.t5enc.trainers.outputs import write_output
from tests.t5enc.trainers.test_export import CAPTIONS, list_files

PIXART: dict[str, Any] = {"recipe": "pixart_sigma", "fields": {"clean": "none"}}
TARS = {"member": "safetensors"}


def write_again(folder: Path, captions: list[str], **options: Any) -> None:
    """The same job, of other captions."""
    shutil.rmtree(folder)
    write_output(folder, captions, **options)


@pytest.mark.parametrize(
    ("format_", "options", "made"),
    [("pixart", {"compress": "false"}, PIXART), ("musubi", {}, {}), ("webdataset", TARS, {})],
)
def test_what_is_of_changed_captions_is_written_anew(
    tmp_path: Path, format_: str, options: dict[str, str], made: dict[str, Any]
) -> None:
    output, cache = tmp_path / "out", tmp_path / "cache"
    write_output(output, CAPTIONS, **made)
    export_embeddings(format_, output, cache, options=options)
    write_again(output, ["kaption 0", *CAPTIONS[1:]], lengths=[4, 6, *[5] * 8], **made)
    again = export_embeddings(format_, output, cache, options=options)
    export_embeddings(format_, output, tmp_path / "new", options=options)
    assert list_files(cache) == list_files(tmp_path / "new")
    assert again.files >= 1
    assert export_embeddings(format_, output, cache, options=options).files == 0


def test_files_of_shards_that_did_not_change_are_left_as_they_are(tmp_path: Path) -> None:
    output, cache = tmp_path / "out", tmp_path / "cache"
    write_output(output, CAPTIONS)
    export_embeddings("musubi", output, cache)
    write_again(output, [*CAPTIONS[:-1], "kaption 9"])
    report = export_embeddings("musubi", output, cache)
    assert (report.files, report.whole) == (3, 7)


def test_shards_of_an_output_that_had_more_are_not_left_for_a_reader(tmp_path: Path) -> None:
    output, cache = tmp_path / "out", tmp_path / "cache"
    for format_, options, last in (("fastvideo", {}, "shard-000001.parquet"), ("webdataset", TARS, "000001.tar")):
        write_output(output, CAPTIONS, fields={"clean": "none"})
        export_embeddings(format_, output, cache / format_, options=options)
        write_again(output, CAPTIONS[:7], fields={"clean": "none"})
        for overwrite in (False, True):
            with pytest.raises(OutputError, match=f"remove {last}"):
                export_embeddings(format_, output, cache / format_, options=options, overwrite=overwrite)
        (cache / format_ / last).unlink()
        export_embeddings(format_, output, cache / format_, options=options)
        shutil.rmtree(output)


def test_tars_that_follow_others_are_written_anew_where_any_row_changed(tmp_path: Path) -> None:
    output, cache, like = tmp_path / "out", tmp_path / "cache", tmp_path / "like"
    write_output(output, CAPTIONS)
    export_embeddings("webdataset", output, like, options=TARS)
    options = {**TARS, "like": str(like), "missing": "skip"}
    assert export_embeddings("webdataset", output, cache, options=options).files == 3
    assert export_embeddings("webdataset", output, cache, options=options).files == 0
    write_again(output, CAPTIONS[:8], lengths=[*[5] * 7, 15])
    export_embeddings("webdataset", output, cache, options=options)
    export_embeddings("webdataset", output, tmp_path / "new", options=options)
    assert list_files(cache) == list_files(tmp_path / "new")


def test_what_another_export_wrote_meanwhile_is_not_ones_own(tmp_path: Path) -> None:
    one = write_output(tmp_path / "one", CAPTIONS)
    other = write_output(tmp_path / "other", CAPTIONS[5:], [f"{index}.jpg" for index in range(5, 10)])
    cache = tmp_path / "cache"
    export_embeddings("musubi", one.folder, cache)
    for index in range(5, 10):
        (cache / f"{index}_wan_te.safetensors").unlink()
    options = {"dtype": "float16"}
    export_embeddings("musubi", other.folder, cache, options=options)
    with pytest.raises(OutputError, match="5 others: 5_wan_te"):
        export_embeddings("musubi", one.folder, cache)
    assert export_embeddings("musubi", other.folder, cache, options=options).whole == 5


def test_a_hard_link_that_a_killed_run_left_is_not_written_through(tmp_path: Path) -> None:
    shard, path = tmp_path / "shard", tmp_path / "cache"
    shard.write_bytes(b"rows")
    os.link(shard, name_aside(path))
    write_file(path, [[b"new"]])
    assert (shard.read_bytes(), path.read_bytes()) == (b"rows", b"new")


def test_nothing_is_written_into_the_output_or_to_a_uri(tmp_path: Path) -> None:
    made = write_output(tmp_path / "out", CAPTIONS)
    for to in (made.folder, made.folder / "cache"):
        with pytest.raises(ConfigError, match="expected a folder outside the output"):
            export_embeddings("musubi", made.folder, to)
    with pytest.raises(ConfigError, match="to: expected a folder of this machine, got s3://bucket/cache"):
        export_embeddings("musubi", made.folder, "s3://bucket/cache")
    assert not (made.folder / ".t5enc-export").exists()


@pytest.mark.parametrize("path", ["", "images/"])
def test_a_row_that_names_no_image_is_refused(tmp_path: Path, path: str) -> None:
    made = write_output(tmp_path / "out", ["a"], [path])
    with pytest.raises(OutputError, match=r"row 0, .*: it names no image or video"):
        export_embeddings("musubi", made.folder, tmp_path / "cache")


def test_a_damaged_shard_is_an_error_that_names_it(tmp_path: Path) -> None:
    made = write_output(tmp_path / "out", CAPTIONS)
    shard = min((made.folder / "data" / "a_").iterdir())
    content = bytearray(shard.read_bytes())
    content[4:300] = b"\xff" * 296
    shard.write_bytes(content)
    with pytest.raises(OutputError, match=f"{shard.name}: expected rows of a Parquet shard"):
        export_embeddings("musubi", made.folder, tmp_path / "cache")


def test_names_that_differ_in_case_alone_are_one_where_the_disk_says_so(tmp_path: Path) -> None:
    made = write_output(tmp_path / "out", ["a", "b"], ["A.jpg", "a.jpg"])
    assert export_embeddings("musubi", made.folder, tmp_path / "one").files == 2
    (tmp_path / "two" / FOLDER).mkdir(parents=True)
    (tmp_path / "two" / FOLDER / CLOCK.upper()).touch()  # as it is found on such a disk
    with pytest.raises(OutputError, match=r"'A_wan_te.safetensors' of row 0 \('a'\) and row 1"):
        export_embeddings("musubi", made.folder, tmp_path / "two")


def test_a_disk_that_is_full_for_the_record_is_told_of(tmp_path: Path) -> None:
    with hold(tmp_path):
        record = open_record(tmp_path, {})
    (tmp_path / FOLDER / RUNS).mkdir()
    with pytest.raises(OutputError, match="expected a file that can be written"):
        record.begin()


def test_two_rows_with_one_key_are_refused_before_the_first_tar(tmp_path: Path) -> None:
    made = write_output(tmp_path / "out", ["a", "b"], ["x.jpg", "x.png"])
    with pytest.raises(OutputError, match="expected a key of its own for row 1, got 'x' of row 0"):
        export_embeddings("webdataset", made.folder, tmp_path / "cache", options=TARS)
    assert list_files(tmp_path / "cache") == {}
