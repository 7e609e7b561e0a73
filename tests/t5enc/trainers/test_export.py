"""What all formats have in common: refusals before the first file, and going on with what is there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from t5enc.errors import ConfigError, OutputError
from t5enc.trainers import export_embeddings
from tests.t5enc.trainers.outputs import FAILED, write_output

CAPTIONS = [f"caption {index}" for index in range(10)]


def list_files(folder: Path) -> dict[str, bytes]:
    """What trainers may see: all but what begins with a dot."""
    found = (path for path in folder.rglob("*") if path.is_file() and ".t5enc-export" not in path.parts)
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def test_another_recipe_is_refused_by_name(tmp_path: Path) -> None:
    made = write_output(tmp_path / "out", CAPTIONS, recipe="pixart_sigma")
    with pytest.raises(OutputError, match=r"expected recipe wan at 512, got pixart_sigma at 300 \(encoder: expected"):
        export_embeddings("musubi", made.folder, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_another_length_is_refused(tmp_path: Path) -> None:
    made = write_output(tmp_path / "out", CAPTIONS, max_length=226)
    with pytest.raises(OutputError, match=r"wan at 226 \(max_length: expected 512, got 226\)"):
        export_embeddings("musubi", made.folder, tmp_path / "cache")


def test_a_family_that_computes_the_same_is_taken(tmp_path: Path) -> None:
    made = write_output(tmp_path / "out", CAPTIONS, recipe="skyreels_v2")
    assert export_embeddings("musubi", made.folder, tmp_path / "cache").files == len(CAPTIONS)


def test_lossy_numbers_are_refused_unless_they_are_wanted(tmp_path: Path) -> None:
    made = write_output(tmp_path / "out", CAPTIONS, storage="int8")
    with pytest.raises(ConfigError, match="got int8"):
        export_embeddings("musubi", made.folder, tmp_path / "cache")
    report = export_embeddings("musubi", made.folder, tmp_path / "cache", allow_lossy=True)
    assert "int8" in str(report.note)


def test_numbers_that_are_rounded_are_told(tmp_path: Path) -> None:
    made = write_output(tmp_path / "out", CAPTIONS, storage="float16", compute="float32")
    assert "stored as float16" in str(export_embeddings("musubi", made.folder, tmp_path / "cache").note)


def test_rows_without_embedding_have_no_file_and_a_reason(tmp_path: Path) -> None:
    made = write_output(tmp_path / "out", CAPTIONS, failed=[2, 5])
    report = export_embeddings("musubi", made.folder, tmp_path / "cache")
    assert (report.files, report.without) == (8, {FAILED: 2})
    assert "2_wan_te.safetensors" not in list_files(tmp_path / "cache")


def test_one_name_of_two_captions_is_refused_and_of_one_caption_written_once(tmp_path: Path) -> None:
    made = write_output(tmp_path / "one", ["a", "a", "b"], ["x/a.jpg", "y/a.png", "b.jpg"])
    report = export_embeddings("musubi", made.folder, tmp_path / "cache")
    assert (report.files, report.shared) == (2, 1)
    made = write_output(tmp_path / "two", ["a", "other", "b"], ["x/a.jpg", "y/a.png", "b.jpg"])
    with pytest.raises(OutputError, match=r"'a_wan_te.safetensors' of row 0 \('a'\) and row 1 \('other'\)"):
        export_embeddings("musubi", made.folder, tmp_path / "other")
    assert list_files(tmp_path / "other") == {}


def test_of_several_captions_an_image_one_may_be_chosen(tmp_path: Path) -> None:
    paths = [f"{index // 2}.jpg" for index in range(10)]
    made = write_output(tmp_path / "out", CAPTIONS, paths, captions_per_row=2)
    with pytest.raises(OutputError, match="expected one caption a file, got 5 others"):
        export_embeddings("musubi", made.folder, tmp_path / "cache")
    report = export_embeddings("musubi", made.folder, tmp_path / "cache", caption_index=1)
    assert (report.files, report.without) == (5, {"not caption 1 of its row": 5})
    assert b"caption 3" in list_files(tmp_path / "cache")["1_wan_te.safetensors"]


def test_an_output_is_no_place_to_write_to(tmp_path: Path) -> None:
    made = write_output(tmp_path / "out", CAPTIONS)
    for folder in (made.folder, made.folder / "data" / "cache"):
        with pytest.raises(ConfigError, match="to: expected a folder outside the output"):
            export_embeddings("musubi", made.folder, folder)


def test_a_second_run_writes_what_is_missing_alone(tmp_path: Path) -> None:
    made = write_output(tmp_path / "out", CAPTIONS)
    export_embeddings("musubi", made.folder, tmp_path / "cache")
    files = list_files(tmp_path / "cache")
    (tmp_path / "cache" / "4_wan_te.safetensors").unlink()
    report = export_embeddings("musubi", made.folder, tmp_path / "cache")
    assert (report.files, report.whole) == (1, 9)
    assert list_files(tmp_path / "cache") == files


def test_files_of_others_are_refused_before_work_and_replaced_on_demand(tmp_path: Path) -> None:
    made = write_output(tmp_path / "out", CAPTIONS)
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "3_wan_te.safetensors").write_bytes(b"theirs")
    os.utime(cache / "3_wan_te.safetensors", (1, 1))
    with pytest.raises(OutputError, match="3_wan_te"):
        export_embeddings("musubi", made.folder, cache)
    assert list_files(cache) == {"3_wan_te.safetensors": b"theirs"}
    assert export_embeddings("musubi", made.folder, cache, overwrite=True).files == len(CAPTIONS)


def test_another_exports_files_are_not_taken_for_ones_own(tmp_path: Path) -> None:
    one = write_output(tmp_path / "out", CAPTIONS)
    cache = tmp_path / "cache"
    export_embeddings("musubi", one.folder, cache)
    export_embeddings("musubi", one.folder, cache, options={"dtype": "float16"}, overwrite=True)
    with pytest.raises(OutputError, match="overwrite"):
        export_embeddings("musubi", one.folder, cache)


@pytest.mark.parametrize("path", ["..", "x/..", "a\0b.jpg", "é" * 200 + ".jpg"])
def test_names_that_no_disk_takes_or_that_leave_the_folder_are_refused(tmp_path: Path, path: str) -> None:
    made = write_output(tmp_path / "out", ["a"], [path])
    if path.endswith(".."):
        assert export_embeddings("musubi", made.folder, tmp_path / "cache").files == 1
        assert set(list_files(tmp_path / "cache")) == {".._wan_te.safetensors"}
        return
    with pytest.raises(OutputError, match="row 0"):
        export_embeddings("musubi", made.folder, tmp_path / "cache")


def test_a_column_that_was_not_kept_is_refused_with_those_that_were(tmp_path: Path) -> None:
    made = write_output(tmp_path / "out", CAPTIONS)
    with pytest.raises(ConfigError, match="expected a column 'stem', which the job kept, got caption, image_path"):
        export_embeddings("musubi", made.folder, tmp_path / "cache", stem_column="stem")


def test_unknown_formats_and_options_are_refused_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="format: expected one of musubi, ai-toolkit, simpletuner"):
        export_embeddings("other", tmp_path, tmp_path)
    with pytest.raises(ConfigError, match="musubi expected one of dtype, got 'size'"):
        export_embeddings("musubi", tmp_path, tmp_path, options={"size": "1"})
    with pytest.raises(ConfigError, match="dtype: expected one of bfloat16"):
        export_embeddings("musubi", tmp_path, tmp_path, options={"dtype": "int4"})


def test_the_command_says_what_it_did(tmp_path: Path) -> None:
    made = write_output(tmp_path / "out", CAPTIONS, failed=[1])
    command = [sys.executable, "-m", "t5enc", "export", "musubi", str(made.folder), "--to", str(tmp_path / "cache")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=100)
    assert "9 files" in done.stdout
    assert f"1 rows have no file: {FAILED}" in done.stdout


def test_rows_that_share_files_are_found_across_shards(tmp_path: Path) -> None:
    captions = [f"caption {index % 4}" for index in range(30)]
    paths = [f"{index}/{index % 4}.jpg" for index in range(30)]
    made = write_output(tmp_path / "out", captions, paths, failed=[0])
    report = export_embeddings("musubi", made.folder, tmp_path / "cache")
    assert (report.files, report.shared, report.whole) == (4, 25, 0)
    again = export_embeddings("musubi", made.folder, tmp_path / "cache")
    assert (again.files, again.shared, again.whole) == (0, 25, 4)
