"""report.html: what a run did, for people. One file made of report.json alone, without scripts or other files."""

from __future__ import annotations

from functools import cache, reduce
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from pipelines.progress.charts import Band, draw_bands, draw_bars, find_edges, merge_slices, show_seconds
from pipelines.progress.findings import bar_width

TEMPLATE = "static/report.html"
MOST_POINTS = 80


def render_page(content: dict[str, Any]) -> str:
    """The page of a report; `content` is what report.json holds."""
    return load_template().render(
        report=content,
        number=_Numbers(content),
        seconds=show_seconds,
        time=show_time,
        rates=describe_rates(content),
        lengths=describe_lengths(content),
        split=describe_split(content["progress"]),
    )


def show_time(text: str) -> str:
    """A moment as people write it, to the second."""
    return text.replace("T", " ")[:19]


@cache
def load_template() -> Template:
    """The page without its numbers."""
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    return environment.from_string(files("pipelines.progress").joinpath(TEMPLATE).read_text(encoding="utf-8"))


class _Numbers:
    """Writes a number of the report for people, with the number itself, and where it stands, for machines."""

    def __init__(self, content: dict[str, Any]) -> None:
        self.content = content

    def __call__(self, path: str, form: str = ",.0f", unit: str = "", scale: float = 1.0) -> Markup:
        value = reduce(lambda found, name: found[name], path.split("."), self.content)
        text = format(float(value) * scale, form) + unit  # type: ignore[arg-type]
        return Markup('<data data-of="{}" value="{}">{}</data>').format(path, value, text)


def describe_rates(content: dict[str, Any]) -> dict[str, Any] | None:
    """Charts of what a run did when, and their numbers; None where it committed nothing."""
    history = content["details"]["history"]
    columns = {name: merge_slices(values, MOST_POINTS) for name, values in history["columns"].items()}
    slices = len(columns["captions"])
    if not slices:
        return None
    together = -(-len(history["columns"]["captions"]) // MOST_POINTS)
    edges = find_edges(slices, width=history["width"] * together, end=history["end"])
    rates = {name: _divide(values, edges) for name, values in columns.items()}
    return {
        "tokens": _draw_rate(rates["tokens"], edges, "Useful tokens a second"),
        "captions": _draw_rate(rates["captions"], edges, "Captions a second"),
        "actors": draw_bands(
            [
                Band(name="computing", style="computing", values=rates["computing_seconds"]),
                Band(name="waiting", style="waiting", values=rates["waiting_seconds"]),
            ],
            edges=edges,
            label="Actors over the time of the run, on average in each slice: those that compute, those that wait",
        ),
        "rows": _tabulate(rates, edges),
    }


def _divide(values: list[float], edges: list[float]) -> list[float]:
    """Amounts a second; the last slice may be too short to tell, and is as long as the others then."""
    widths = [edges[place + 1] - edges[place] for place in range(len(values))]
    widths[-1] = max(widths[-1], 0.2 * widths[0])
    return [value / width for value, width in zip(values, widths, strict=True)]


def _draw_rate(values: list[float], edges: list[float], name: str) -> Markup:
    label = f"{name} over the time of the run: at most {max(values):,.0f}, at the end {values[-1]:,.0f}"
    return draw_bands([Band(name=name, style="rate", values=values)], edges=edges, label=label)


def _tabulate(rates: dict[str, list[float]], edges: list[float]) -> list[tuple[str, ...]]:
    columns = [rates[name] for name in ("tokens", "captions", "computing_seconds", "waiting_seconds")]
    forms = (",.0f", ",.1f", ",.2f", ",.2f")
    rows = zip(edges[:-1], *columns, strict=True)
    return [(show_seconds(row[0]), *map(format, row[1:], forms)) for row in rows]


def describe_lengths(content: dict[str, Any]) -> dict[str, Any] | None:
    """The length histogram of a run and its numbers; None where nothing was tokenized."""
    counts = {int(bar): count for bar, count in content["details"]["findings"]["lengths"].items()}
    if not counts:
        return None
    cut = content["max_length"]
    width = bar_width(cut)
    bars = [counts.get(place, 0) for place in range(max(max(counts) + 1, -(-cut // width)))]
    label = f"{sum(bars):,} captions by their length in tokens before they were cut at {cut:,}"
    rows = [(f"{place * width + 1:,} to {(place + 1) * width:,}", count) for place, count in enumerate(bars) if count]
    return {"chart": draw_bars(bars, width=width, cut=cut, label=label), "rows": rows}


def describe_split(progress: dict[str, Any]) -> dict[str, float] | None:
    """Shares of the actors' time; None where there was none."""
    waiting, computing = progress["waiting_seconds"], progress["computing_seconds"]
    together = waiting + computing
    return {"waiting": waiting / together, "computing": computing / together} if together else None
