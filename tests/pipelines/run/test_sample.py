"""The captions that are looked at before work: what they tell of all others, and what they stop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from pipelines.commands.estimate import Prices, describe_reasons, print_estimate
from pipelines.job import EncodeJob
from pipelines.run.resolved_job import resolve_job
from pipelines.run.sample import Sample
from t5enc.errors import SourceError
from tests.pipelines.inputs.columns.kept_rows import write_files


def ask(folder: Path, **options: Any) -> EncodeJob:
    return EncodeJob(inputs=[str(folder)], output="-", model="builtin:tiny", max_length=16, **options)


def sample(folder: Path, **options: Any) -> Sample:
    return resolve_job(ask(folder, **options), torch.device("cpu")).sample


def test_captions_without_a_text_are_counted_by_their_reasons(tmp_path: Path) -> None:
    texts = pa.array([["a", None], [], ["b", "c"], None])
    write_files(tmp_path, pa.table({"caption": texts, "note": ["x" * 100] * 4}))
    found = sample(tmp_path)
    assert (found.rows, found.captions, len(found.lengths)) == (4, 6, 3)
    assert found.reasons == {"null caption": 1, "no caption": 2}
    assert found.kept_bytes >= 600
    assert describe_reasons(found) == "1 null caption, 2 no caption of 6 captions in 4 rows of the sample"


def test_many_captions_beside_a_large_page_are_not_repeated_to_be_counted(tmp_path: Path) -> None:
    """Fifty rows whose page is repeated for each of their captions are more than Arrow holds in one column."""
    pages, texts = ["p" * 60_000] * 50, [["a bird"] * 800] * 50
    write_files(tmp_path, pa.table({"page": pages, "caption": texts}))
    found = sample(tmp_path)
    assert (found.rows, len(found.lengths)) == (50, 40_000)
    assert 60_000 * 40_000 <= found.kept_bytes < 60_100 * 40_000


def test_a_column_of_bytes_that_are_mostly_no_text_is_refused_before_work(tmp_path: Path) -> None:
    pictures = [*[b"\xff\xd8\xff\xe0", b"\x89PNG\r\n"] * 10, b"a caption", None, None]
    write_files(tmp_path / "a", pa.table({"jpg": pictures}))
    with pytest.raises(SourceError, match=r"^column 'jpg': expected text, got bytes .* in 20 of the first 21 captions"):
        sample(tmp_path / "a", text_column="jpg")
    write_files(tmp_path / "b", pa.table({"jpg": [*pictures, *[b"another one"] * 2]}))
    assert sample(tmp_path / "b", text_column="jpg").reasons == {"not UTF-8": 20, "null caption": 2}
    write_files(tmp_path / "c", pa.table({"caption": pa.array([None, None], pa.string())}))
    assert sample(tmp_path / "c").reasons == {"null caption": 2}


def test_a_cast_that_would_change_one_of_the_first_values_is_refused_before_work(tmp_path: Path) -> None:
    write_files(tmp_path, {"id": ["7", "0012"]})
    with pytest.raises(SourceError, match=r"0\.parquet: column 'id': .* got '0012'"):
        sample(tmp_path, cast={"id": "int64"})


def test_a_plan_says_what_is_kept_left_out_and_different(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_files(tmp_path, {"id": pa.array([1], pa.int32()), "jpg": [b"a"]}, {"id": [2], "[bold]": ["x"]})
    print_estimate(ask(tmp_path), Prices(hour=1.0, terabyte_month=1.0), None)
    said = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for words in ("caption (string), id (int64), [bold] (string)", "left out jpg (binary)", "id is int32 in 0.parquet"):
        assert words in said
    assert "none of 2 captions in 2 rows of the sample" in said
