"""What `t5enc calibrate` found, as a table for the terminal and as numbers for JSON."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from t5enc.checks.headroom.calibrate import SITES, Calibration, Peak
from t5enc.checks.terminal import print_table, start_table


def print_calibration(found: Calibration, console: Console) -> None:
    """Each layer's largest values with their headroom, and the verdict."""
    console.print(f"{found.model}: largest absolute values, measured in float32", style="bold", markup=False)
    console.print(
        f"{found.texts:,} texts of {found.tokens:,} tokens, {found.device}; beside each value the powers of two from "
        f"what {found.dtype} has to hold there to {found.limit:g}",
        markup=False,
        highlight=False,
    )
    print_table(_layer_table(found), console)
    style = "green" if found.headroom >= 0 else "red"
    console.print(describe_verdict(found), style=style, markup=False, highlight=False)


def _layer_table(found: Calibration) -> Table:
    table = start_table("")
    table.add_column("layer", justify="right", no_wrap=True)
    for site in SITES:
        scale = f"\n/ {1 / found.input_scale:g}" if site.holds == "scaled" and found.input_scale != 1 else ""
        table.add_column(f"{site.title}{scale}", justify="right", no_wrap=True)
    for layer, peaks in enumerate(found.layers):
        cells = [_describe_peak(peaks[site.name], (layer, site.name) == found.tightest) for site in SITES]
        table.add_row(str(layer), *cells)
    return table


def _describe_peak(peak: Peak, is_tightest: bool) -> Text:
    text = Text(format_large(peak.largest), no_wrap=True)
    if peak.headroom is not None:
        text.append(f" {format_room(peak.headroom)}", style="bold red" if is_tightest else "dim")
    return text


def format_large(value: float) -> str:
    """Three digits, at most five characters: 0.12, 3.49, 12.3, 65504, 1.2e6."""
    if value >= 99999.5 or 0 < value < 0.005:
        digits, _, exponent = f"{value:.1e}".partition("e")
        return f"{digits}e{int(exponent)}"
    return f"{value:.0f}" if value >= 99.95 else f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"


def format_room(headroom: float) -> str:
    """Powers of two, with a decimal where they are few."""
    return f"{headroom:.1f}" if headroom < 9.95 else f"{headroom:.0f}"


def describe_verdict(found: Calibration) -> str:
    """One sentence: whether the dtype is safe on these texts, with how much room, and where it is tightest."""
    layer, name = found.tightest
    title = next(site.title for site in SITES if site.name == name).replace("\n", " ")
    place = f"layer {layer}, {title} (largest {format_large(found.layers[layer][name].largest)})"
    if math.isinf(found.headroom):
        return f"{found.dtype} is safe on these texts: all values are zero"
    if found.headroom >= 0:
        return (
            f"{found.dtype} is safe on these texts with {found.headroom:.1f} powers of two to spare, least in {place}"
        )
    return (
        f"{found.dtype} is not safe on these texts: {-found.headroom:.1f} powers of two beyond its range, furthest in "
        f"{place}; texts that go there fail, the others do not"
    )


def describe_calibration(found: Calibration) -> dict[str, Any]:
    """All numbers under their names, for `write_json`."""
    layer, site = found.tightest
    return asdict(found) | {"tightest": {"layer": layer, "site": site, "headroom": found.headroom}}
