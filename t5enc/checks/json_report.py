"""What the checks write for programs: strict JSON, and the versions of what took part."""

from __future__ import annotations

import json
import math
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from t5enc.errors import OutputError

PACKAGES = ("t5enc", "torch", "transformers", "nai-t5-wrapper")


def without_infinities(value: Any) -> Any:
    """The same with None for every number that JSON has no word for."""
    if isinstance(value, dict):
        return {name: without_infinities(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [without_infinities(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_json(path: str, content: dict[str, Any]) -> None:
    """Write a report to a file, null for what is not finite; OutputError where it cannot be written."""
    try:
        Path(path).write_text(
            json.dumps(without_infinities(content), indent=2, allow_nan=False) + "\n", encoding="utf-8"
        )
    except OSError as error:
        raise OutputError(f"{path}: expected a file that can be written, got: {error}") from error


def read_versions() -> dict[str, str]:
    """Versions of what took part, as far as installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
