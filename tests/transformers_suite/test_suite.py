"""transformers' own tests of its encoders, run with ours in their place: none fails that transformers' own passes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.transformers_suite.__main__ import NO_DISTRIBUTION
from tests.transformers_suite.sdist import RELATIVE_IMPORT

pytest.importorskip("parameterized", reason="transformers' tests need parameterized")
REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.long
@pytest.mark.parametrize("family", ["t5", "mt5", "umt5"])
def test_none_of_transformers_own_tests_fails_with_ours_alone(family: str) -> None:
    command = [sys.executable, "-m", "tests.transformers_suite", "--family", family]
    run = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if run.returncode == NO_DISTRIBUTION:
        pytest.skip(run.stderr.strip())
    assert run.returncode == 0, run.stdout + run.stderr
    assert "0 tests fail with t5enc's classes" in run.stdout
    passed = [line for line in run.stdout.splitlines() if line.startswith(f"{family} t5enc")]
    assert int(passed[0].partition("'ok': ")[2].split(",")[0]) > 90


def test_what_a_module_of_tests_imports_from_its_neighbours_is_seen() -> None:
    text = "from .a.b import (\n    One,\n    Two,\n)\nfrom .c import Three\nimport os\n"
    found = [(module, names.split()) for module, names in RELATIVE_IMPORT.findall(text)]
    assert found == [("a.b", ["(", "One,", "Two,", ")"]), ("c", ["Three"])]
