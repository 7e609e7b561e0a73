"""What `t5enc verify --pipeline` found, for the terminal."""

from __future__ import annotations

from rich.console import Console

from t5enc.checks.pipeline.verify import Comparison
from t5enc.checks.terminal import format_small, print_table, start_table


def print_comparison(found: Comparison, console: Console) -> None:
    """What was compared, a row a check, and the verdict."""
    console.print(f"{found.repository}: {found.pipeline}", style="bold", markup=False, highlight=False)
    console.print(f"recipe {found.recipe}", markup=False, highlight=False)
    table = start_table(f"{found.captions:,} captions, each beside the pipeline's own encode_prompt", "compared")
    for head in ("times", "differing", "worst difference"):
        table.add_column(head, justify="right", no_wrap=True)
    for check in found.checks:
        worst = "" if check.worst is None else format_small(check.worst)
        table.add_row(check.name, f"{check.compared:,}", f"{check.differing:,}", worst)
    print_table(table, console)
    for failure in found.failures:
        console.print(f"FAILED {failure}", style="red", markup=False, highlight=False)
    if not found.failures:
        verdict = f"the same as the pipeline: numbers within {found.tolerance:g}, everything else equal"
        console.print(verdict, style="green", markup=False, highlight=False)
