"""Options that are there and say nothing, as `--output "$OUT"` is where OUT is not set: they never mean this folder."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from t5enc.errors import ConfigError


def check_not_blank(**options: Any) -> None:
    """ConfigError naming the first option that is a text, or holds one, of nothing but blanks."""
    for name, value in options.items():
        for text in value if isinstance(value, list | tuple) else (value,):
            if isinstance(text, str) and not text.strip():
                raise ConfigError(f"{name}: expected a value, got {text!r}; is a variable not set?")


def refusing_blanks(command: Callable[..., Any]) -> Callable[..., Any]:
    """A command that says which of its options is blank instead of running."""

    @wraps(command)
    def run(*given: Any, **options: Any) -> Any:
        check_not_blank(**options)
        return command(*given, **options)

    return run
