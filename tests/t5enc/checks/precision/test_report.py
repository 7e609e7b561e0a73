"""What `t5enc verify` prints, writes and draws is what was measured."""

from __future__ import annotations

import io
import json
import math
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from rich.console import Console

from t5enc.checks.json_report import write_json
from t5enc.checks.precision.differences import LEVELS
from t5enc.checks.precision.plot import plot_report
from t5enc.checks.precision.table import describe_report, print_report
from t5enc.checks.precision.verify import Report, verify
from t5enc.checks.terminal import format_small
from t5enc.errors import ConfigError, OutputError
from t5enc.options import EncoderOptions
from tests.t5enc.checks.precision.command import FEW, invoke


@cache
def tiny_report() -> Report:
    """All dtypes of the built-in model on a few texts."""
    return verify(EncoderOptions(model="builtin:tiny", device="cpu"), FEW)


def test_the_json_holds_every_figure_and_is_strict(tmp_path: Path) -> None:
    report = tiny_report()
    overflown = replace(report.results[2], relative_l2=math.inf, non_finite=3)
    report = replace(report, results=(*report.results[:2], overflown, *report.results[3:]))
    write_json(str(tmp_path / "report.json"), describe_report(report))
    found = json.loads((tmp_path / "report.json").read_text(), parse_constant=pytest.fail)
    assert found["levels"] == list(LEVELS)
    assert {name: found[name] for name in ("model", "texts", "tokens", "pads", "versions")} == {
        "model": "builtin:tiny",
        "texts": 3,
        "tokens": report.tokens,
        "pads": report.pads,
        "versions": report.versions,
    }
    assert {"torch", "transformers"} <= set(report.versions)
    assert len(found["results"]) == 8
    for read, result in zip(found["results"], report.results, strict=True):
        assert (read["name"], read["dtype"]) == (result.name, result.dtype)
        assert tuple(read["real"]["quantiles"]) == result.real.quantiles
        assert result.pads is not None
        assert tuple(read["pads"]["quantiles"]) == result.pads.quantiles
        assert read["worst"]["piece"] == result.worst.piece
    assert found["results"][2]["relative_l2"] is None
    assert found["results"][2]["non_finite"] == 3


@pytest.mark.parametrize("width", [60, 100, 140])
def test_no_figure_is_cut_in_a_table(width: int) -> None:
    console = Console(width=width, record=True, file=io.StringIO())
    print_report(tiny_report(), console)
    shown = console.export_text()
    assert "…" not in shown
    for result in tiny_report().results:
        assert result.pads is not None
        for value in (*result.real.quantiles, *result.pads.quantiles, result.relative_l2, result.worst.error):
            assert format_small(value) in shown


def test_the_command_writes_table_json_and_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs matplotlib")
    (tmp_path / "texts.txt").write_text("\n".join(FEW))
    files = (
        "--texts",
        str(tmp_path / "texts.txt"),
        "--json",
        str(tmp_path / "report.json"),
        "--plot",
        str(tmp_path / "report.png"),
    )
    done = invoke("verify", "builtin:tiny", "--dtype", "bfloat16, float16", "--device", "cpu", *files)
    assert done.exit_code == 0, done.output
    assert "builtin:tiny: absolute difference to transformers in float32" in done.stdout
    assert "as near as it must be" in done.stdout
    assert len(json.loads((tmp_path / "report.json").read_text())["results"]) == 6
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")


def test_a_picture_can_hold_zeros_and_infinities(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs matplotlib")
    report = tiny_report()
    first, second, *others = report.results
    zeros = replace(first, real=replace(first.real, quantiles=(0.0,) * 7))
    endless = replace(second, real=replace(second.real, quantiles=(0.0, *(math.inf,) * 6)))
    plot_report(replace(report, model="$x_", results=(zeros, endless, *others)), str(tmp_path / "a.png"))
    plot_report(replace(report, pads=0, results=(zeros,)), str(tmp_path / "b.svg"))
    assert (tmp_path / "b.svg").stat().st_size > 1000


def test_a_picture_without_matplotlib_names_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    done = invoke("verify", "builtin:tiny", "--plot", str(tmp_path / "a.png"))
    assert isinstance(done.exception, ConfigError)
    assert "t5enc[plot]" in str(done.exception)


def test_files_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs matplotlib")
    with pytest.raises(OutputError, match="absent"):
        write_json(str(tmp_path / "absent" / "a.json"), {})
    with pytest.raises(OutputError, match="expected a picture file"):
        plot_report(tiny_report(), str(tmp_path / "a.unknown"))
