"""A node and a driver are lost while a job runs on two nodes; everything else that happens to nodes: test_nodes.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import EncodeJob
from t5enc.checkpoint.builtin import sample_captions
from tests.pipelines.in_process import encode_in_process
from tests.pipelines.nodes.disturbing import Scenario
from tests.pipelines.nodes.nodes import SLOT, running_nodes
from tests.pipelines.same_rows import assert_same_rows

ROWS = 240


@pytest.mark.long
@pytest.mark.xdist_group("ray")
def test_a_node_and_a_driver_that_are_lost_take_nothing_with_them(tmp_path: Path) -> None:
    pq.write_table(pa.table({"caption": sample_captions()[:ROWS]}), tmp_path / "in.parquet", row_group_size=30)
    options: dict[str, Any] = {"inputs": [str(tmp_path / "in.parquet")], "rows_per_shard": 10, "token_budget": 512}
    options |= {"storage_dtype": "float32", "device": "cpu", "cpus_per_actor": 1}
    there = {"output": str(tmp_path / "expected"), "model": "builtin:tiny"}
    encode_in_process(EncodeJob.from_mapping(options | there))
    with running_nodes(2) as nodes:
        scenario = Scenario(nodes, tmp_path, options | {"actors": "1:2", "resources": SLOT}, seed=0)
        scenario.run(["vanish", "driver"])
    careful = {path.name for path in (tmp_path / "careful").iterdir()}
    assert_same_rows(tmp_path / "out", tmp_path / "expected", careful)
