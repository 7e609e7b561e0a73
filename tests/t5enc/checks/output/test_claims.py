"""The model is opened where the job had it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from t5enc.checkpoint.builtin import write_builtin
from t5enc.errors import ConfigError, OutputError
from t5enc.storage.layout import ASKED, JOB
from tests.t5enc.checks.output.planting import TEXTS, read_job, verify, write_output, wrong


def test_a_model_in_a_subfolder_is_found_by_what_was_asked_for_or_by_the_record(tmp_path: Path) -> None:
    model = tmp_path / "repository"
    write_builtin("tiny-umt5", model)
    write_builtin("tiny", model / "encoder")
    output = write_output(tmp_path, TEXTS[:4], model=str(model), subfolder="encoder")
    assert wrong(verify(output)) == set()
    job = read_job(output)
    job["record"]["place"] = {"model": str(model), "subfolder": "encoder"}
    (output / JOB).write_text(json.dumps(job))
    (output / ASKED).unlink()
    assert wrong(verify(output)) == set()


def test_options_that_are_not_noted_or_not_readable_are_asked_for(tmp_path: Path) -> None:
    output = write_output(tmp_path, TEXTS[:4])
    asked = json.loads((output / ASKED).read_text()) | {"left_out": ["tokenizer", "inputs"]}
    (output / ASKED).write_text(json.dumps(asked))
    with pytest.raises(ConfigError, match=r"tokenizer: .* give --tokenizer or --model"):
        verify(output)
    assert wrong(verify(output, model="builtin:tiny")) == set()
    (output / ASKED).write_text("[]")
    with pytest.raises(OutputError, match="expected the options of a job"):
        verify(output)
