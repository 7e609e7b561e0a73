"""The benchmarks run: on a tiny shape, with no word on how fast."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from t5enc.recipes.cleaning import CLEANERS
from t5enc.storage import CODECS

ROOT = Path(__file__).resolve().parents[1]
NAMED = re.findall(r"^python -m (benchmarks\.\w+)", (ROOT / "benchmarks" / "README.md").read_text(), re.MULTILINE)


def run_quickly(name: str, folder: Path) -> dict[str, Any]:
    """The figures of a smoke run, in a process of its own as a user runs it."""
    path = folder / "figures.json"
    command = [sys.executable, "-m", f"benchmarks.{name}", "--quick", "--json", str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "a smoke run" in done.stdout
    return dict(json.loads(path.read_text()))


def test_every_benchmark_that_is_told_of_finds_what_it_measures() -> None:
    assert len(NAMED) >= 10
    for name in NAMED:
        assert callable(import_module(name).main)


@pytest.mark.long
def test_every_peer_gives_the_embeddings_of_transformers(tmp_path: Path) -> None:
    figures = run_quickly("peers", tmp_path)
    rows = {row["name"]: row for row in figures["rows"]}
    ran = [row for row in rows.values() if row.get("seconds")]
    assert {"t5enc SDPA", "transformers SDPA, sorted"} <= {row["name"] for row in ran}
    assert all(row["error"] < 1e-5 and row["rate"] > 0 for row in ran)
    assert all(row["note"] for name, row in rows.items() if "rate" not in row)
    assert rows["plain products alone"]["ratio"] > 0


@pytest.mark.long
def test_every_loader_loads_and_is_watched(tmp_path: Path) -> None:
    figures = run_quickly("load", tmp_path)
    assert [row["name"] for row in figures["rows"]][:2] == ["t5enc, packed", "t5enc"]
    assert all(row["bytes_peak"] >= row["bytes_before"] > 0 for row in figures["rows"])


@pytest.mark.long
def test_one_text_at_a_time_is_timed_with_and_without_pads(tmp_path: Path) -> None:
    rows = run_quickly("single", tmp_path)["rows"]
    ran = {(row["name"], row["real"]): row for row in rows if "ms" in row}
    assert {("transformers SDPA", 32), ("t5enc SDPA", 32), ("t5enc SDPA", 1), ("t5enc SDPA, no pads", 1)} <= set(ran)
    assert all(row["error"] < 1e-5 and row["flops_per_second"] > 0 for row in ran.values())


@pytest.mark.long
def test_every_codec_is_measured_on_every_kind_of_numbers(tmp_path: Path) -> None:
    rows = {row["codec"]: row for row in run_quickly("codecs", tmp_path)["rows"]}
    assert set(rows) == set(CODECS)
    assert all(row["encode_gb_a_second"] > 0 and row["decode_gb_a_second"] > 0 for row in rows.values())
    assert set(rows["float32"]["errors"].values()) == {0.0}
    assert len(rows["float32"]["errors"]) == 6
    assert all(rows["int8g32"]["errors"][name] < error for name, error in rows["fp8"]["errors"].items())


@pytest.mark.long
def test_keys_are_indexed_and_rows_copied_beside_encoding_them(tmp_path: Path) -> None:
    figures = run_quickly("reuse", tmp_path)
    index, copying = figures["index"], figures["copying"]
    assert index["bytes"] >= 24 * index["keys"] > 0
    assert index["lookups_a_second"] > 0
    assert all(copying[f"{kind}_mb_a_second"] > 0 for kind in ("encoding", "reading", "copying"))


@pytest.mark.long
def test_every_cleaning_is_timed_beside_the_tokenizer_alone(tmp_path: Path) -> None:
    figures = run_quickly("recipes", tmp_path)
    alone, *rows = figures["rows"]
    assert alone["name"] == "transformers' tokenizer alone"
    assert [row["name"] for row in rows] == [f"clean {name}, tokenized" for name in CLEANERS]
    assert all(row["captions_a_second"] > 0 and row["cleaned_a_second"] > 0 for row in rows)
    assert all(row["cores"]["base"] > row["cores"]["T5-XXL"] > 0 for row in rows)


@pytest.mark.long
def test_every_way_to_order_is_timed_and_resumed(tmp_path: Path) -> None:
    rows = run_quickly("order", tmp_path)["rows"]
    assert len(rows) == 5
    assert all(row["ms_mean"] > 0 and row["ms_resume"] > 0 and 0 < row["bytes_peak"] < 1e6 for row in rows)


@pytest.mark.long
def test_caches_are_imported_and_exported_beside_plain_files(tmp_path: Path) -> None:
    rows = {row["name"]: row for row in run_quickly("exporting", tmp_path)["rows"]}
    assert {"import musubi", "export musubi", "export ai-toolkit", "export simpletuner"} <= set(rows)
    assert {"export webdataset", "export fastvideo", "export pixart", "export cosmos"} <= set(rows)
    assert rows["export ai-toolkit"]["bytes"] > rows["export musubi"]["bytes"] > 0


@pytest.mark.long
def test_every_step_of_the_driver_is_measured(tmp_path: Path) -> None:
    rows = {row["step"]: row for row in run_quickly("driver", tmp_path)["rows"]}
    assert (rows["begin"]["left"], rows["resume"]["left"]) == (300, 150)
    assert rows["dispatch"]["count"] == rows["conclude"]["count"] == 300
    assert all(row["bytes_peak"] > 0 for row in rows.values())


@pytest.mark.long
def test_every_reader_reads_all_rows_and_goals_stand_beside_the_figures(tmp_path: Path) -> None:
    figures = run_quickly("reading", tmp_path)
    passes = {row["name"]: row["passes"] for row in figures["rows"]}
    [warm] = {one["rows"] for found in passes.values() for one in found if not one["is_cold"]}
    [cold] = {one["rows"] for found in passes.values() for one in found if one["is_cold"]}
    assert 0 < warm < cold  # the first batch of a warm pass is not measured
    assert len({found[0]["bytes"] for name, found in passes.items() if name.endswith("in order")}) == 1
    assert figures["rows"][0]["name"] == "t5enc, random"
    assert any("30 % referred to" in goal["what"] for goal in figures["goals"])
    assert all(row["warm_cpu_ms_a_row"] > 0 for row in figures["rows"])
    assert figures["parts"]["order"]["rows"] == 10**9
    assert all("met" in goal["goal"] for goal in figures["goals"])


@pytest.mark.long
@pytest.mark.xdist_group("ray")
def test_actors_that_only_wait_are_counted_and_a_thousand_gpus_are_worked_out(tmp_path: Path) -> None:
    figures = run_quickly("scaling", tmp_path)
    assert [row["actors"] for row in figures["rows"]] == [1, 2]
    assert all(row["rate"] > 0 and row["units"] > 0 for row in figures["rows"])
    assert figures["ledger"]["ms_per_unit"] > 0
    assert figures["limits"] == sorted(figures["limits"], key=lambda limit: limit["cards"])


@pytest.mark.long
@pytest.mark.xdist_group("ray")
def test_the_service_is_asked_in_every_way_and_gives_the_embeddings_of_the_engine(tmp_path: Path) -> None:
    pytest.importorskip("ray.serve", reason="needs ray[serve]")
    figures = run_quickly("serve", tmp_path)
    loads = {(row["server"], row["load"]) for row in figures["rows"]}
    for server in ("t5enc /encode", "t5enc /v1/embeddings", "Ray Serve, @serve.batch, transformers"):
        assert {(server, "1 clients"), (server, "64 clients")} <= loads
        assert figures["single"][server]["http_ms"] > 0
    assert all(row["rate"] > 0 and row["p99"] >= row["p50"] > 0 for row in figures["rows"])
