"""The last lines of the demo are commands that work."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.commands.demo import list_openers

TOOLS = ("t5enc", "pandas", "duckdb", "datasets")
ROWS = {"t5enc": "caption: string", "pandas": "[57 rows", "duckdb": "3 rows", "datasets": "num_rows: 57"}


@pytest.mark.parametrize("tool", TOOLS)
def test_a_line_opens_what_the_demo_made(tool: str, output: Path, tmp_path: Path) -> None:
    (line,) = [line for line in list_openers(output) if f"import {tool}" in line or f"from {tool} " in line]
    paths = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": paths, "HF_DATASETS_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(line, shell=True, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert ROWS[tool] in done.stdout


def test_there_is_a_line_for_each_of_these() -> None:
    assert len(list_openers(Path("demo/embeddings"))) == len(TOOLS)
