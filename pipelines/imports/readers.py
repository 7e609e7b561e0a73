"""The readers of caches by the names of their formats, made of options as the command line has them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pipelines.imports.ai_toolkit import AiToolkitCache
from pipelines.imports.cache import CacheReader
from pipelines.imports.fastvideo import FastVideoCache
from pipelines.imports.musubi import MusubiCache
from pipelines.imports.simple_tuner import SimpleTunerCache
from t5enc.errors import ConfigError

READERS: Mapping[str, Callable[..., CacheReader]] = {
    "musubi": MusubiCache,
    "ai-toolkit": AiToolkitCache,
    "simpletuner": SimpleTunerCache,
    "fastvideo": FastVideoCache,
}
CAPTIONS = "captions"


def open_reader(
    name: str, options: Mapping[str, str] | None = None, captions: Iterable[str] | None = None
) -> CacheReader:
    """A reader; ConfigError for a format, an option or captions that it cannot use, or that it lacks."""
    if name not in READERS:
        raise ConfigError(f"format: expected one of {', '.join(READERS)}, got {name!r}")
    types = {entry: str(found.annotation) for entry, found in inspect.signature(READERS[name]).parameters.items()}
    given: dict[str, Any] = {}
    for option, text in (options or {}).items():
        if option not in types or option == CAPTIONS:
            names = ", ".join(entry for entry in types if entry != CAPTIONS) or "none"
            raise ConfigError(f"option: {name} expected one of {names}, got {option!r}")
        given[option] = _parse_bool(option, text) if types[option] == "bool" else text
    if (CAPTIONS in types) != (captions is not None):
        raise ConfigError(f"captions: {name} {'needs them' if CAPTIONS in types else 'has its own'}")
    return READERS[name](**given, **({} if captions is None else {CAPTIONS: captions}))


def _parse_bool(option: str, text: str) -> bool:
    if text not in ("true", "false"):
        raise ConfigError(f"option: {option}: expected true or false, got {text!r}")
    return text == "true"
