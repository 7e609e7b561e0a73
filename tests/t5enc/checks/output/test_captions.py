"""Captions that an output did not keep are found in the files that were encoded, and never in others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import EncodeJob
from pipelines.derive.merge import merge_outputs
from t5enc.checkpoint.builtin import sample_captions
from t5enc.checks.output.captions import CaptionFiles
from t5enc.errors import ConfigError, SourceError
from tests.pipelines.in_process import encode_in_process
from tests.t5enc.checks.output.planting import verify, wrong

CAPTIONS = sample_captions()[:12]


def write_files(folder: Path, files: Mapping[str, Sequence[str | None]]) -> Path:
    """Input files by their names."""
    for name, captions in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"caption": pa.array(captions, pa.string())}), folder / name)
    return folder


def encode(inputs: Path, output: Path, **options: object) -> str:
    """Their output, without captions unless told otherwise."""
    job = {"inputs": [str(inputs)], "output": str(output), "model": "builtin:tiny", "keep_columns": []} | options
    encode_in_process(EncodeJob.from_mapping(job))
    return str(output)


def test_a_file_beside_one_of_the_same_name_in_a_folder_is_told_from_it(tmp_path: Path) -> None:
    inputs = write_files(tmp_path / "in", {"t.parquet": CAPTIONS[:3], "sub/t.parquet": CAPTIONS[3:6]})
    report = verify(Path(encode(inputs, tmp_path / "out")), captions=[inputs])
    assert (wrong(report), report.compared) == (set(), 6)


def test_captions_of_merged_outputs_are_found_by_the_name_that_the_merge_gave(tmp_path: Path) -> None:
    laion = write_files(tmp_path / "a", {"t-0.parquet": CAPTIONS[:3]})
    coyo = write_files(tmp_path / "b", {"t-0.parquet": CAPTIONS[3:6]})
    outputs = [encode(laion, tmp_path / "laion"), encode(coyo, tmp_path / "coyo")]
    merged = tmp_path / "merged"
    merge_outputs(outputs, str(merged))
    report = verify(merged, captions=[laion, f"coyo={coyo}"])
    assert (wrong(report), report.compared) == (set(), 6)
    report = verify(merged, captions=[laion])
    assert wrong(report) == {"captions"}
    assert "of 'coyo/t-0.parquet', got 0; if a merge put 'coyo' before its name: --captions coyo=PATH" in (
        report.failures[0].first
    )


def test_rows_without_a_kept_caption_beside_others_with_one_want_their_files(tmp_path: Path) -> None:
    kept = write_files(tmp_path / "a", {"kept.parquet": [*CAPTIONS[:3], None]})
    bare = write_files(tmp_path / "b", {"bare.parquet": [None, *CAPTIONS[3:6]]})
    merged = tmp_path / "merged"
    merge_outputs(
        [encode(kept, tmp_path / "one", keep_columns=None), encode(bare, tmp_path / "two")],
        str(merged),
    )
    with pytest.raises(ConfigError, match=r"expected the files of 'bare.parquet' with --captions"):
        verify(merged)
    report = verify(merged, captions=[bare])
    assert (wrong(report), report.compared, report.missing) == (set(), 6, 2)
    assert report.captions == "kept in the output, or else read from the files given"


def test_a_path_with_an_equals_sign_is_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(write_files(tmp_path, {"split=a/t.parquet": CAPTIONS[:1]}))
    for path in ("split=a", tmp_path / "split=a", "split=a/t.parquet"):
        assert CaptionFiles([path], "caption").find("t.parquet", 0, 0) == CAPTIONS[0]
    assert CaptionFiles(["x/y=split=a"], "caption").find("x/y/t.parquet", 0, 0) == CAPTIONS[0]
    with pytest.raises(SourceError, match=r"expected one file of 'z/t.parquet', got 0"):
        CaptionFiles(["split=a"], "caption").find("z/t.parquet", 0, 0)
