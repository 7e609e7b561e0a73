"""What `t5enc verify OUTPUT` found, as a table for the terminal."""

from __future__ import annotations

from rich.console import Console

from t5enc.checks.output.report import OutputReport
from t5enc.checks.terminal import format_small, print_table, start_table


def print_output_report(report: OutputReport, console: Console) -> None:
    """What was looked at, a row a check, the first place where each does not hold, why, and the verdict."""

    def say(text: str, style: str = "") -> None:
        console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)

    state = "finished" if report.is_finished else "UNFINISHED, as far as it is there"
    say(f"{report.output}: {state}", "bold")
    say(f"{report.drawn:,} of {report.rows:,} rows (seed {report.seed}) of {report.shards:,} shards")
    say(f"model {report.model}, recipe {report.recipe}, at most {report.max_length} tokens")
    say(f"computed in {report.dtype}, stored as {report.storage}; captions {report.captions}")
    reference = "transformers" if report.against == "transformers" else "t5enc"
    say(f"held against {reference} in float32 on {report.device}")
    table = start_table("checks", "check", "what holds")
    for head in ("checked", "wrong"):
        table.add_column(head, justify="right", no_wrap=True)
    for check in report.checks:
        table.add_row(
            check.name, check.meaning, f"{check.checked:,}", f"{check.wrong:,}", style="red" if check.wrong else ""
        )
    print_table(table, console)
    if report.compared:
        say(
            f"numbers: at most {format_small(report.farthest.row)} off (relative L2); allowed at least "
            f"{format_small(report.nearest_limit.row)}"
        )
        say(f"allowed: {report.bound}")
    if report.missing:
        say(f"{report.missing:,} of the {report.drawn:,} rows have no embedding, and say why")
    for check in report.failures:
        say(f"FAILED {check.name}: {check.wrong:,} of {check.checked:,}; first {check.first}", "red")
    for cause in report.causes:
        say(f"WHY {cause}", "red")
    if report.failures:
        say(f"not sound: {', '.join(check.name for check in report.failures)}", "red")
    elif not report.compared:
        why = "there are no rows" if not report.drawn else "no row that was drawn has an embedding"
        say(f"nothing was compared: {why}", "red")
    else:
        say(f"sound: {report.compared:,} embeddings are those of their captions", "green")
