"""The picture of `t5enc verify`: quantiles to the right, absolute difference upwards, one line a contender."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from t5enc.checks.precision.contenders import FUSED, PEER
from t5enc.checks.precision.differences import LEVELS, Difference
from t5enc.checks.precision.verify import Report, Result
from t5enc.errors import ConfigError, OutputError

STYLES: dict[str, dict[str, Any]] = {
    "transformers": {"color": "#c8453b", "marker": "s", "linestyle": "-"},
    PEER: {"color": "#e0a030", "marker": "^", "linestyle": "-"},
    FUSED: {"color": "#5aa9a3", "marker": "D", "linestyle": "--"},
    "t5enc": {"color": "#12507b", "marker": "o", "linestyle": "-"},
}
GROUPS: dict[str, Callable[[Result], Difference | None]] = {
    "real tokens": lambda result: result.real,
    "pads": lambda result: result.pads,
}


def plot_report(report: Report, path: str) -> None:
    """Draw a column of panels a dtype, real tokens above pads, into a file of matplotlib's kinds (.png, .svg).

    Raises ConfigError where matplotlib is missing, OutputError where the file cannot be written.
    """
    dtypes = list(dict.fromkeys(result.dtype for result in report.results))
    groups = [name for name in GROUPS if report.pads or name != "pads"]
    figure = make_figure(figsize=(1.2 + 4.4 * len(dtypes), 1.6 + 3.4 * len(groups)), layout="constrained")
    panels = figure.subplots(len(groups), len(dtypes), sharex=True, sharey="col", squeeze=False)
    for row, group in zip(panels, groups, strict=True):
        for axes, dtype in zip(row, dtypes, strict=True):
            axes.set_title(f"{dtype}, {group}", fontsize="medium")
            _draw_lines(axes, [result for result in report.results if result.dtype == dtype], GROUPS[group])
    for axes in panels.flat:
        _dress(axes)
    figure.suptitle(
        f"{report.model}: {report.texts:,} texts, {report.tokens:,} tokens, {report.device}", parse_math=False
    )
    for axes in panels[-1]:
        axes.set_xlabel("quantile of all elements")
    figure.supylabel("absolute difference to transformers in float32", fontsize="medium")
    _add_legend(figure, panels)
    try:
        figure.savefig(path, dpi=140)
    except (OSError, ValueError) as error:
        raise OutputError(f"{path}: expected a picture file that can be written, got: {error}") from error


def make_figure(**options: Any) -> Any:
    """matplotlib's Figure on the Agg canvas, without a window or global state; ConfigError where it is missing."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError("plot: expected matplotlib (pip install 't5enc[plot]'), got none installed") from error
    figure: Any = Figure(**options)
    FigureCanvasAgg(figure)
    return figure


def _draw_lines(axes: Any, results: list[Result], select: Callable[[Result], Difference | None]) -> None:
    for result in sorted(results, key=lambda result: list(STYLES).index(result.name)):
        difference = select(result)
        if difference is not None:
            heights = [value if 0 < value < math.inf else math.nan for value in difference.quantiles]
            axes.plot(range(len(LEVELS)), heights, markersize=5, label=result.name, **STYLES[result.name])


def _dress(axes: Any) -> None:
    """A logarithmic scale with ticks at 1, 2 and 5; a column of zeros and infinities has no lines, and no scale."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    if _has_heights(axes):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0e}".replace("e-0", "e-")))
    axes.set_xticks(range(len(LEVELS)), [str(level) for level in LEVELS], fontsize="small")
    axes.grid(color="#dddddd", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _has_heights(axes: Any) -> bool:
    """Whether anything is drawn in the panels that share these axes' scale."""
    lines = [line for one in axes.get_shared_y_axes().get_siblings(axes) for line in one.get_lines()]
    return any(math.isfinite(value) for line in lines for value in line.get_ydata())


def _add_legend(figure: Any, panels: Any) -> None:
    found = {
        label: handle for axes in panels.flat for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    names = [name for name in STYLES if name in found]
    handles = [found[name] for name in names]
    figure.legend(handles, names, loc="outside lower center", ncols=2 * min(2, panels.shape[1]), frameon=False)
