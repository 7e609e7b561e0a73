"""What docs/train.md says of reading an output runs as it stands there."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from pipelines import EncodeJob
from tests.pipelines.in_process import encode_in_process

PAGE = Path(__file__).resolve().parents[2] / "docs" / "train.md"


def test_the_blocks_of_the_page_run_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("grain", reason="needs grain")
    monkeypatch.chdir(tmp_path)
    columns = {"id": [*range(20)], "image_id": [*range(20)], "quality": [0.5] * 20}
    captions = pa.array(["a small red ring at the top", *(f"a bird, {row}" for row in range(1, 20))])
    pq.write_table(pa.table({"caption": captions, **columns}), "shapes.parquet")
    encode_in_process(
        EncodeJob(
            inputs=["shapes.parquet"], output="embeddings", model="builtin:tiny", keep_columns=["caption", *columns]
        )
    )
    known: dict[str, Any] = {"model": torch.nn.Linear(1, 1), "torch": torch}
    for block in re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # grain warns as it is imported
            exec(compile(block, str(PAGE), "exec"), known)
    assert known["loader"].dataset is known["data"]
    assert known["epoch"] == 9
