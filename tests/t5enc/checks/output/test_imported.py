"""Outputs whose job does not say what made them, since they were a trainer's cache before."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.imports.importing import import_cache
from pipelines.imports.readers import open_reader
from t5enc.errors import ConfigError
from t5enc.trainers import export_embeddings
from tests.t5enc.checks.output.planting import change_rows, find_shards, move_rows, verify, write_output, wrong

CAPTIONS = ["a fox", "a red bird on a long branch", "rain", "two boats in the fog"]


def test_an_imported_output_is_verified_with_a_model_that_is_named(tmp_path: Path) -> None:
    made = write_output(tmp_path, CAPTIONS, model="builtin:tiny-umt5", recipe="wan", storage_dtype="bfloat16")
    export_embeddings("musubi", made, tmp_path / "cache", stem_column="caption")
    import_cache(open_reader("musubi"), tmp_path / "cache", str(tmp_path / "in"))
    with pytest.raises(ConfigError, match="--model"):
        verify(tmp_path / "in")
    report = verify(tmp_path / "in", model="builtin:tiny-umt5")
    assert (wrong(report), report.compared) == (set(), len(CAPTIONS))
    assert not {"model", "tokenizer", "key"} & {check.name for check in report.checks}
    (shard,) = find_shards(tmp_path / "in")
    change_rows(shard, move_rows([1, 0, 2, 3]))
    assert "embeddings of other rows" in verify(tmp_path / "in", model="builtin:tiny-umt5").causes[0]
