"""Sound outputs pass: of each codec, compute dtype and kind of recipe, kept captions or not, finished or not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from t5enc.checks.output.shards import draw_rows
from t5enc.errors import ConfigError, OutputError
from t5enc.storage import STORAGE_DTYPES
from tests.t5enc.checks.output.planting import TEXTS, find_shards, verify, write_output, wrong
from tests.t5enc.checks.precision.command import invoke


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_output(tmp_path_factory.mktemp("sound"))


@pytest.mark.parametrize("storage", STORAGE_DTYPES)
def test_an_output_of_each_codec_is_sound(storage: str, tmp_path: Path) -> None:
    report = verify(write_output(tmp_path, storage_dtype=storage))
    assert (wrong(report), report.compared, report.missing) == (set(), len(TEXTS) - 1, 1)


# Computing in 16 bit is slow on a CPU.
SLOW = pytest.mark.long


@pytest.mark.parametrize(
    "dtype", ["float32", pytest.param("bfloat16", marks=SLOW), pytest.param("float16", marks=SLOW)]
)
@pytest.mark.parametrize("against", ["t5enc", "transformers"])
def test_an_output_of_each_compute_dtype_is_sound(dtype: str, against: Any, tmp_path: Path) -> None:
    report = verify(write_output(tmp_path, dtype=dtype, storage_dtype="float32"), against=against)
    assert wrong(report) == set()
    assert report.farthest.row < report.nearest_limit.row
    assert (f"what computing in {dtype} was off by" in report.bound) == (dtype != "float32")


@pytest.mark.parametrize(
    ("recipe", "model"), [("flux", "builtin:tiny"), ("chroma", "builtin:tiny"), ("wan", "builtin:tiny-umt5")]
)
@pytest.mark.parametrize("against", ["t5enc", "transformers"])
def test_an_output_of_a_recipe_is_sound(recipe: str, model: str, against: Any, tmp_path: Path) -> None:
    report = verify(write_output(tmp_path, TEXTS[-6:], recipe=recipe, model=model), against=against)
    assert wrong(report) == set()
    assert ("null prompt" in {check.name for check in report.checks}) == (recipe != "flux")  # Flux has none
    assert report.recipe.startswith(recipe)


LISTS = [["a bird", "a red bird", None], [], None, ["rain", ""], ["a river in the hills"]]


@pytest.mark.parametrize("choice", ["all", "first"])
@pytest.mark.parametrize("is_kept", [True, False])
def test_several_captions_a_row_are_sound(choice: str, is_kept: bool, tmp_path: Path) -> None:
    keep = {} if is_kept else {"keep_columns": []}
    output = write_output(tmp_path, LISTS, pa.list_(pa.string()), caption_choice=choice, **keep)
    report = verify(output, captions=() if is_kept else [tmp_path / "captions"])
    assert wrong(report) == set()
    assert report.compared == {"all": 5, "first": 3}[choice]


def test_captions_that_were_not_kept_are_read_from_the_files(tmp_path: Path) -> None:
    output = write_output(tmp_path, keep_columns=[])
    with pytest.raises(ConfigError, match="--captions"):
        verify(output)
    files = [str(path) for path in (tmp_path / "captions").iterdir()]
    assert wrong(verify(output, captions=files)) == set()
    report = verify(output, captions=files[:1])
    assert wrong(report) == {"captions"}
    assert "expected one file of" in report.failures[0].first


def test_an_unfinished_output_is_verified_as_far_as_it_is_there(tmp_path: Path) -> None:
    output = write_output(tmp_path)
    (output / "_SUCCESS").unlink()
    find_shards(output)[2].unlink()
    report = verify(output)
    assert (wrong(report), report.is_finished) == (set(), False)


def test_what_computing_is_off_by_is_measured_on_rows_that_have_an_embedding(tmp_path: Path) -> None:
    report = verify(write_output(tmp_path, [*[None] * 40, *TEXTS[:6]], dtype="bfloat16"))
    assert (wrong(report), report.compared, report.missing) == (set(), 6, 40)
    assert "what computing in bfloat16 was off by" in report.bound


@pytest.mark.parametrize(("captions", "why"), [([None] * 3, "no row that was drawn has"), ([], "there are no rows")])
def test_an_output_of_which_nothing_can_be_compared_is_not_called_sound(
    captions: list[None], why: str, tmp_path: Path
) -> None:
    output = write_output(tmp_path, captions)
    report = verify(output)
    assert (wrong(report), report.is_sound, report.missing) == (set(), False, len(captions))
    found = invoke("verify", str(output))
    assert found.exit_code == 1
    assert f"nothing was compared: {why}" in found.output


def test_rows_are_drawn_by_seed_and_of_both_ends() -> None:
    counts = np.array([5, 0, 1000, 7, 0])
    drawn = draw_rows(counts, 64, 3)
    assert len(drawn) == len(np.unique(drawn)) == 64
    assert drawn[0] < 5
    assert drawn[-1] >= 1005
    assert np.array_equal(drawn, draw_rows(counts, 64, 3))
    assert not np.array_equal(drawn, draw_rows(counts, 64, 4))
    assert np.array_equal(draw_rows(counts, None, 0), np.arange(1012))


def test_the_command_prints_a_table_and_ends_with_0_or_1(sound: Path, tmp_path: Path) -> None:
    found = invoke("verify", str(sound), "--rows", "8", "--json", str(tmp_path / "found.json"))
    assert found.exit_code == 0, found.output
    assert "sound: " in found.output
    assert json.loads((tmp_path / "found.json").read_text())["is_sound"]
    found = invoke("verify", str(sound), "--model", "builtin:tiny-umt5", "--rows", "8")
    assert found.exit_code == 1
    assert "FAILED model" in found.output
    assert "not sound: model, numbers" in found.output


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["OUT", "--tolerance", "1"], "tolerance: expected none with an output"),
        (["builtin:tiny", "--seed", "1"], "seed: expected none with what is no output"),
        (["OUT", "--rows", "few"], "rows: expected a number, or all"),
        (["OUT", "--rows", "0"], "rows: expected at least 1"),
        (["OUT", "--against", "diffusers"], "against: expected one of t5enc, transformers"),
    ],
)
def test_options_that_say_nothing_are_refused(arguments: list[str], told: str, sound: Path) -> None:
    found = invoke("verify", *[str(sound) if one == "OUT" else one for one in arguments])
    assert isinstance(found.exception, ConfigError)
    assert told in str(found.exception)


def test_a_folder_without_a_job_is_no_output(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="expected the output of a t5enc job"):
        verify(tmp_path)
