"""What is said of columns before work: which are kept, which are left out and why, and where files differ."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.inputs.columns.choice import Columns
from pipelines.inputs.columns.plain_types import describe_field

MOST_COLUMNS = 12
MOST_DIFFERENCES = 5
MOST_LETTERS = 120


def describe_columns(columns: Columns) -> dict[str, str]:
    """A line for each of these: columns kept, left out, and differing among files."""
    kept = [f"{_name(field.name)} ({_cut(describe_field(field))})" for field in columns.schema]
    left = [f"{_name(name)} ({_cut(type_)})" for name, type_ in columns.left_out.items()]
    differ = [_describe_difference(name, columns) for name in columns.found]
    lines = {
        "columns kept": _enumerate(kept, MOST_COLUMNS) or "none",
        "left out": _enumerate(left, MOST_COLUMNS),
        "files differ": _enumerate(differ, MOST_DIFFERENCES, "; "),
    }
    return {name: text for name, text in lines.items() if text}


def _describe_difference(name: str, columns: Columns) -> str:
    kept = describe_field(columns.schema.field(name))
    found = [_describe_found(*one) for one in columns.found[name]]
    return f"{_name(name)} is {_enumerate(found, 3)}: kept as {_cut(kept)}"


def _describe_found(type_: str | None, first: str, files: int) -> str:
    more = f" and {files - 1:,} more" if files > 1 else ""
    return f"{'not there' if type_ is None else _cut(type_)} in {first}{more}"


def _name(name: str) -> str:
    return name if name and name.isprintable() else repr(name)


def _enumerate(parts: Sequence[str], most: int, between: str = ", ") -> str:
    more = [f"and {len(parts) - most:,} more"] if len(parts) > most else []
    return between.join([*parts[:most], *more])


def _cut(text: str) -> str:
    return text if len(text) <= MOST_LETTERS else f"{text[:MOST_LETTERS]}..."
