"""What `t5enc verify` found, as tables for the terminal and as JSON."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from t5enc.checks.precision.differences import LEVELS, Difference
from t5enc.checks.precision.verify import Report, Result
from t5enc.checks.terminal import format_small, print_table, start_table


def print_report(report: Report, console: Console) -> None:
    """Settings, a table of real tokens, one of pads, one of everything, and the verdict."""
    console.print(f"{report.model}: absolute difference to transformers in float32", style="bold", markup=False)
    console.print(
        f"{report.texts:,} texts of {report.tokens:,} tokens, {report.pads:,} pads; batches of {report.batch_size}, "
        f"{report.attention} attention, {report.device}; "
        + ", ".join(f"{name} {version}" for name, version in report.versions.items()),
        highlight=False,
        markup=False,
    )
    print_table(_quantile_table("real tokens", report.results, lambda result: result.real), console)
    if report.pads:
        print_table(_quantile_table("pads", report.results, lambda result: result.pads), console)
    print_table(_summary_table(report.results), console)
    for name, reason in report.skipped.items():
        console.print(f"not measured: {name}: {reason}", markup=False, highlight=False)
    for failure in report.failures:
        console.print(f"FAILED {failure}", style="red", markup=False, highlight=False)
    if not report.failures:
        console.print(_describe_success(report), style="green", markup=False, highlight=False)


def _describe_success(report: Report) -> str:
    if report.tolerance is not None:
        return f"within the tolerance: relative L2 distance of at most {report.tolerance:g}"
    return "as near as it must be: float32 within rounding, 16 bit nowhere further than transformers (real tokens)"


def _quantile_table(title: str, results: Sequence[Result], select: Callable[[Result], Difference | None]) -> Table:
    """A row a contender, a column a quantile; the smallest of a dtype in bold."""
    table = start_table(f"{title}: quantiles of all elements", "dtype", "contender")
    for level in LEVELS:
        table.add_column(str(level), justify="right", no_wrap=True)
    for dtype, group in _group(results):
        found = [(result, select(result)) for result in group]
        rows = [(result, difference.quantiles) for result, difference in found if difference is not None]
        nearest = [min(column) for column in zip(*(values for _, values in rows), strict=True)]
        for result, values in rows:
            cells = [_emphasise(value, value == best) for value, best in zip(values, nearest, strict=True)]
            table.add_row(dtype if result is group[0] else "", result.name, *cells, end_section=result is group[-1])
    return table


def _summary_table(results: Sequence[Result]) -> Table:
    table = start_table("everything, and the worst real token", "dtype", "contender")
    table.add_column("relative L2", justify="right", no_wrap=True)
    table.add_column("not finite", justify="right", no_wrap=True)
    table.add_column("error", justify="right", no_wrap=True)
    table.add_column("text", justify="right")
    table.add_column("token", justify="right")
    table.add_column("piece", overflow="ellipsis", no_wrap=True)
    for dtype, group in _group(results):
        for result in group:
            worst = result.worst
            table.add_row(
                dtype if result is group[0] else "",
                result.name,
                format_small(result.relative_l2),
                f"{result.non_finite:,}",
                format_small(worst.error),
                str(worst.text),
                str(worst.position),
                escape(repr(worst.piece)),
                end_section=result is group[-1],
            )
    return table


def _group(results: Sequence[Result]) -> list[tuple[str, list[Result]]]:
    dtypes = dict.fromkeys(result.dtype for result in results)
    return [(dtype, [result for result in results if result.dtype == dtype]) for dtype in dtypes]


def _emphasise(value: float, is_best: bool) -> str:
    return f"[bold]{format_small(value)}[/bold]" if is_best else format_small(value)


def describe_report(report: Report) -> dict[str, Any]:
    """All numbers under their names, for `write_json`; `pads` is None where there are none."""
    return asdict(report) | {"levels": LEVELS}
