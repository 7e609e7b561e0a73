"""Each fault that is planted in an output is found, and named where that can be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.actors.captions import NO_CAPTION, NOT_UTF8, NULL_CAPTION
from t5enc.checks.output.row_checks import NOTHING_TO_ENCODE
from t5enc.storage import METADATA_KEY
from t5enc.storage.layout import RECORD_KEY
from tests.t5enc.checks.output.planting import (
    change_job,
    change_numbers,
    change_rows,
    copy_output,
    find_shards,
    move_rows,
    read_job,
    set_value,
    verify,
    write_output,
    wrong,
)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_output(tmp_path_factory.mktemp("sound"))


@pytest.fixture
def output(sound: Path, tmp_path: Path) -> Path:
    return copy_output(sound, tmp_path)


@pytest.fixture
def shard(output: Path) -> Path:
    return find_shards(output)[1]


def test_the_reasons_for_no_embedding_are_those_that_jobs_give() -> None:
    assert NOTHING_TO_ENCODE == (NO_CAPTION, NULL_CAPTION, NOT_UTF8)


def _scale(numbers: Any) -> Any:
    return numbers * 1.5


def _blank(numbers: Any) -> Any:
    return numbers * 0


def _break(numbers: Any) -> Any:
    numbers[2, 3] = np.nan
    return numbers


def _flip(numbers: Any) -> Any:
    bits = numbers[1].view(np.uint16)
    bits[5:9] ^= 0x2400
    return numbers


# The change of a shard of five rows, the checks that find it, and why it says that numbers are off.
PLANTED: dict[str, tuple[Callable[[dict[str, list[Any]]], None], set[str], str]] = {
    "swapped rows": (move_rows([0, 3, 2, 1, 4]), {"num_tokens", "numbers"}, "embeddings of other rows"),
    "rows shifted by one": (move_rows([4, 0, 1, 2, 3]), {"num_tokens", "numbers"}, "embeddings of other rows"),
    "zeros": (change_numbers(2, _blank), {"zeros"}, ""),
    "NaN": (change_numbers(2, _break), {"finite"}, ""),
    "scaled numbers": (change_numbers(2, _scale), {"numbers"}, "times 1.5"),
    "flipped bits": (change_numbers(2, _flip), {"numbers"}, "damaged numbers"),
    "wrong num_tokens": (set_value("num_tokens", 2, 3), {"num_tokens", "labels"}, ""),
    "wrong truncated flag": (set_value("truncated", 2, True), {"truncated"}, ""),
    "wrong key": (set_value("key", 2, bytes(16)), {"key"}, ""),
    "no key": (set_value("key", 2, None), {"key"}, ""),
    "wrong shape": (set_value("shape", 2, [1, 64]), {"labels"}, ""),
    "another row's dtype": (set_value("dtype", 2, "bfloat16"), {"labels"}, ""),
    "no bytes": (set_value("bytes", 2, None), {"readable"}, ""),
    "an edited caption": (set_value("caption", 2, "a bird"), {"num_tokens", "key", "numbers"}, "no cause found"),
    "a caption gone": (set_value("caption", 2, None), {"captions"}, ""),
    "an error beside an embedding": (set_value("error", 2, "null caption"), {"no embedding"}, ""),
}


@pytest.mark.parametrize("fault", PLANTED)
def test_a_fault_in_a_shard_is_found_and_named(fault: str, output: Path, shard: Path) -> None:
    change, checks, cause = PLANTED[fault]
    change_rows(shard, change)
    report = verify(output)
    assert wrong(report) == checks
    assert bool(report.causes) == bool(cause)
    assert cause in " ".join(report.causes)
    assert all(shard.name in check.first for check in report.failures)


def test_a_missing_shard_is_found_though_no_row_of_it_is_drawn(output: Path, shard: Path) -> None:
    shard.unlink()
    assert wrong(verify(output, rows=2)) == {"shards"}


def test_another_shard_of_the_job_with_as_many_rows_is_found(output: Path) -> None:
    first, second, *_ = find_shards(output)
    first.write_bytes(second.read_bytes())
    report = verify(output)
    assert wrong(report) == {"manifest"}
    (failure,) = report.failures
    assert (failure.wrong, first.name in failure.first, second.name in failure.first) == (1, True, True)


def test_a_shard_of_another_source_with_another_footer_is_found(output: Path) -> None:
    first, *_, last = find_shards(output)
    record = pq.read_metadata(first).metadata[RECORD_KEY]
    change_rows(first, set_value("source", 2, "two.parquet"))
    (failure,) = verify(output).failures
    assert (failure.name, failure.wrong) == ("manifest", 1)
    assert "row 2: its source: expected one.parquet, got two.parquet" in failure.first
    change_rows(last, lambda _: None, {RECORD_KEY: record})
    assert wrong(verify(output)) == {"manifest"}


def test_another_parquet_file_in_the_place_of_a_shard_is_found(output: Path, shard: Path) -> None:
    pq.write_table(pa.table({"caption": ["a fox"] * 5}), shard)
    report = verify(output)
    assert wrong(report) == {"readable"}
    assert "expected the columns of a shard, got none named text_embedding_source" in report.failures[0].first


def test_a_torn_shard_is_found(output: Path, shard: Path) -> None:
    shard.write_bytes(shard.read_bytes()[:-20])
    assert wrong(verify(output)) == {"readable"}


def test_flipped_bytes_of_a_file_are_found(output: Path, shard: Path) -> None:
    data = bytearray(shard.read_bytes())
    data[400:420] = bytes(byte ^ 0x7F for byte in data[400:420])
    shard.write_bytes(data)
    report = verify(output)
    assert wrong(report) & {"readable", "finite", "numbers"}


def test_rows_that_are_gone_are_found(output: Path, shard: Path) -> None:
    def drop(columns: dict[str, list[Any]]) -> None:
        for name in columns:
            columns[name] = columns[name][:4]

    change_rows(shard, drop)
    assert wrong(verify(output)) == {"row count"}


def test_another_model_is_found(output: Path) -> None:
    report = verify(output, model="builtin:tiny-umt5")
    assert wrong(report) == {"model", "numbers"}


def test_an_output_of_another_model_than_its_job_says_is_found(sound: Path, tmp_path: Path) -> None:
    other = write_output(tmp_path, model="builtin:tiny-umt5")
    change_job(other, weights=read_job(sound)["identity"]["weights"])
    report = verify(other, model="builtin:tiny")
    assert wrong(report) == {"key", "numbers"}
    assert report.causes[0].startswith("no cause found")


def test_another_recipe_is_found_and_named(sound: Path, tmp_path: Path) -> None:
    made, claimed = (write_output(tmp_path / name, recipe=name) for name in ("flux", "pixart_alpha"))
    change_job(made, recipe=read_job(claimed)["identity"]["recipe"])
    report = verify(made, rows=8)
    assert {"num_tokens", "key", "numbers"} <= wrong(report)
    assert "another recipe" in report.causes[0] or "another max_length" in report.causes[0]
    change_job(made, recipe=None, max_length=512)
    report = verify(made, rows=8)
    assert {"num_tokens", "key", "numbers"} <= wrong(report)
    assert "those under recipe flux, and not under no recipe" in report.causes[0]


def test_another_length_is_found_and_named(tmp_path: Path) -> None:
    made = write_output(tmp_path, max_length=8)
    change_job(made, max_length=512)
    report = verify(made)
    assert wrong(report) == {"num_tokens", "truncated", "key", "numbers"}
    assert "its numbers are those under max_length 8, and not 512" in report.causes[0]


def test_a_wrong_label_of_the_storage_dtype_is_found(output: Path) -> None:
    change_job(output, storage_dtype="bfloat16")
    report = verify(output, rows=8)
    assert {"labels", "numbers"} <= wrong(report)
    assert "its bytes are float16, and not bfloat16" in report.causes[0]


def test_a_wrong_label_everywhere_is_found_by_the_numbers(output: Path) -> None:
    change_job(output, storage_dtype="bfloat16")

    def label(columns: dict[str, list[Any]]) -> None:
        columns["dtype"] = ["bfloat16"] * len(columns["dtype"])

    for shard in find_shards(output):
        change_rows(shard, label, {METADATA_KEY: b'{"storage_dtype": "bfloat16", "dim": 64}'})
    report = verify(output)
    assert wrong(report) == {"numbers"}
    assert "its bytes are float16, and not bfloat16" in report.causes[0]


@pytest.mark.long
def test_another_compute_dtype_is_found_and_named(tmp_path: Path) -> None:
    made = write_output(tmp_path, dtype="bfloat16", storage_dtype="float32")
    change_job(made, dtype="float32")
    report = verify(made)
    assert wrong(report) == {"key", "numbers"}
    assert "another compute dtype" in report.causes[0]
    assert "as computing in bfloat16 is" in report.causes[0]


def test_a_damaged_null_prompt_is_found(tmp_path: Path) -> None:
    from safetensors import safe_open
    from safetensors.torch import save_file

    made = write_output(tmp_path, recipe="pixart_alpha")
    path = made / "_t5enc" / "null.safetensors"
    with safe_open(path, "pt") as file:
        values, metadata = file.get_tensor("values"), file.metadata()
    save_file({"values": values * 2}, path, metadata=metadata)
    assert wrong(verify(made)) == {"null prompt"}


def test_causes_are_told_of_each_shard(output: Path) -> None:
    first, *_, last = find_shards(output)
    change_rows(first, move_rows([4, 0, 1, 2, 3]))
    change_rows(last, change_numbers(0, _scale))
    told = " ".join(verify(output).causes)
    assert "embeddings of other rows (2 of 3 rows looked into)" in told
    assert "scaled numbers (1 of 3 rows looked into)" in told
