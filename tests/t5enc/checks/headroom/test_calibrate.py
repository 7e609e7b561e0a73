"""`t5enc calibrate`: the peaks are those of transformers' own modules, and the tightest layer is where they are."""

from __future__ import annotations

import io
import json
import math
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from t5enc import TextEncoder
from t5enc.checkpoint.builtin import sample_captions, write_builtin
from t5enc.checks.headroom.calibrate import SITES, Calibration, Peak, add_headroom, calibrate
from t5enc.checks.headroom.table import describe_calibration, describe_verdict, format_large, print_calibration
from t5enc.checks.json_report import write_json
from t5enc.cli import build_app
from t5enc.errors import PrecisionError
from t5enc.options import EncoderOptions
from t5enc.text.tokenizer import load_tokenizer
from tests.families import make_checkpoint

TEXTS = sample_captions()[::20]


def make_model(folder: Path, family: str = "t5_v1_1", *, enlarged: int | None = None, factor: float = 1.0) -> Any:
    """A random checkpoint with the built-in tokenizer; the `wo` of one layer is enlarged."""
    write_builtin("builtin:tiny", folder)
    model = make_checkpoint(family, folder, vocab_size=1000, num_layers=4)
    if enlarged is not None:
        with torch.no_grad():
            model.encoder.block[enlarged].layer[1].DenseReluDense.wo.weight.mul_(factor)
        model.save_pretrained(folder)
    return model


def run(folder: Path, dtype: str | None = None) -> Calibration:
    return calibrate(EncoderOptions(model=str(folder), dtype=dtype, device="cpu"), TEXTS)


def peaks_of_transformers(model: Any, folder: Path) -> list[dict[str, float]]:
    """The same figures from hooks on transformers' modules, a text at a time."""
    found: list[dict[str, float]] = [defaultdict(float) for _ in model.encoder.block]

    def watch(module: Any, layer: int, *, before: str | None = None, after: str | None = None) -> None:
        def hook(_: Any, inputs: Any, result: Any) -> None:
            result = result[0] if isinstance(result, tuple) else result
            for name, values in ((before, inputs[0]), (after, result)):
                if name is not None:
                    found[layer][name] = max(found[layer][name], float(values.abs().max()))

        module.register_forward_hook(hook)

    for layer, block in enumerate(model.encoder.block):
        attention, feed_forward = block.layer[0], block.layer[1]
        inner = feed_forward.DenseReluDense
        for part in (attention, feed_forward):
            watch(part.layer_norm, layer, after="normed")
        for name, site in (("q", "queries_keys"), ("k", "queries_keys"), ("v", "values")):
            watch(getattr(attention.SelfAttention, name), layer, after=site)
        watch(attention.SelfAttention.o, layer, before="attended", after="attention_output")
        for name in ("wi", "wi_0", "wi_1"):
            if hasattr(inner, name):
                watch(getattr(inner, name), layer, after="up")
        watch(inner.wo, layer, before="gated", after="down_output")
        watch(block, layer, after="residual")
    with torch.no_grad():
        for ids in load_tokenizer(folder, max_length=512).encode(TEXTS).ids:
            model(input_ids=torch.from_numpy(ids).long()[None])
    return found


@pytest.mark.parametrize("family", ["t5_v1_1", "t5_v1_0", "umt5"])
def test_the_peaks_are_those_of_transformers_own_modules(tmp_path: Path, family: str) -> None:
    model = make_model(tmp_path, family)
    found = run(tmp_path)
    expected = peaks_of_transformers(model, tmp_path)
    assert [layer.keys() for layer in found.layers] == [{site.name for site in SITES}] * 4
    for ours, theirs in zip(found.layers, expected, strict=True):
        assert {name: peak.largest for name, peak in ours.items()} == pytest.approx(theirs, rel=1e-4)
    assert (found.texts, found.dtype, found.limit, found.input_scale) == (len(TEXTS), "float16", 65504.0, 1 / 64)


def test_an_enlarged_layer_is_found_where_it_is(tmp_path: Path) -> None:
    make_model(tmp_path, enlarged=2, factor=2.0**12)
    found = run(tmp_path)
    assert found.tightest == (2, "down_output")
    planted = found.layers[2]["down_output"]
    assert planted.largest > 1000 * max(found.layers[layer]["down_output"].largest for layer in (0, 1, 3))
    assert found.headroom == pytest.approx(math.log2(65504 * 64 / planted.largest))
    assert found.headroom > 0
    assert "float16 is safe on these texts" in describe_verdict(found)


def test_a_peak_that_only_the_scale_makes_room_for_is_safe_and_encodes(tmp_path: Path) -> None:
    make_model(tmp_path, enlarged=1, factor=2.0**16)
    found = run(tmp_path)
    assert found.layers[1]["down_output"].largest > 65504
    assert 0 < found.headroom < 6
    encoder = TextEncoder.from_pretrained(str(tmp_path), dtype="float16", device="cpu")
    assert torch.isfinite(encoder.encode(TEXTS).values).all()


def test_a_peak_beyond_the_range_is_said_and_is_no_error(tmp_path: Path) -> None:
    make_model(tmp_path, enlarged=1, factor=2.0**24)
    found = run(tmp_path)
    assert found.tightest == (1, "down_output")
    assert found.headroom < 0
    done = CliRunner().invoke(build_app(), ["calibrate", str(tmp_path), "--device", "cpu"], env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    assert "float16 is not safe on these texts" in done.stdout
    assert "layer 1, down output" in done.stdout


def test_bfloat16_is_judged_by_its_own_range_and_without_a_scale(tmp_path: Path) -> None:
    make_model(tmp_path, enlarged=1, factor=2.0**24)
    found = run(tmp_path, dtype="bfloat16")
    assert (found.dtype, found.input_scale) == ("bfloat16", 1.0)
    assert found.headroom > 90


def test_a_model_beyond_float32_is_an_error_that_names_the_texts(tmp_path: Path) -> None:
    make_model(tmp_path, enlarged=1, factor=2.0**120)
    with pytest.raises(PrecisionError, match="activations left the range of float32") as raised:
        run(tmp_path)
    assert set(raised.value.failed) == set(range(len(TEXTS)))


def test_headroom_counts_the_scale_where_activations_are_held_scaled() -> None:
    peaks = add_headroom(dict.fromkeys((site.name for site in SITES), 65504.0), torch.float16)
    rooms = {name: peak.headroom for name, peak in peaks.items()}
    assert {name for name, room in rooms.items() if room == 6.0} == {"attention_output", "gated", "down_output"}
    assert rooms["residual"] is None
    assert sum(room == 0.0 for room in rooms.values()) == 5
    assert add_headroom({site.name: 0.0 for site in SITES}, torch.float16)["up"] == Peak(0.0, math.inf)


def test_the_json_holds_every_peak(tmp_path: Path) -> None:
    make_model(tmp_path)
    found = run(tmp_path)
    write_json(str(tmp_path / "peaks.json"), describe_calibration(found))
    read = json.loads((tmp_path / "peaks.json").read_text())
    layer, site = found.tightest
    assert read["tightest"] == {"layer": layer, "site": site, "headroom": found.headroom}
    assert [
        {name: Peak(peak["largest"], peak["headroom"]) for name, peak in layer.items()} for layer in read["layers"]
    ] == list(found.layers)
    assert read["versions"] == found.versions


@pytest.mark.parametrize("width", [60, 100, 140])
def test_no_figure_is_cut_in_the_table(tmp_path: Path, width: int) -> None:
    make_model(tmp_path, enlarged=2, factor=2.0**24)
    found = run(tmp_path)
    console = Console(width=width, record=True, file=io.StringIO())
    print_calibration(found, console)
    shown = console.export_text()
    assert "…" not in shown
    for layer in found.layers:
        assert all(format_large(peak.largest) in shown for peak in layer.values())


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.0, "0.00"), (0.001, "1.0e-3"), (3.491, "3.49"), (12.34, "12.3"), (65504.0, "65504"), (1234567.0, "1.2e6")],
)
def test_large_numbers_are_short(value: float, expected: str) -> None:
    assert format_large(value) == expected
