"""The formats by name, loaded when they are asked for: a further trainer is a module in `formats`, and a line here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from importlib import import_module
from typing import Any

from t5enc.errors import ConfigError
from t5enc.trainers.format import CaptionFormat, ShardFormat

# Name -> module in `formats`, and class.
FORMATS: Mapping[str, tuple[str, str]] = {
    "musubi": ("musubi", "Musubi"),
    "ai-toolkit": ("ai_toolkit", "AiToolkit"),
    "simpletuner": ("simple_tuner", "SimpleTuner"),
    "pixart": ("pixart", "PixArt"),
    "cosmos": ("cosmos", "Cosmos"),
    "sd-scripts-flux": ("sd_scripts", "Flux"),
    "sd-scripts-sd3": ("sd_scripts", "SD3"),
    "fastvideo": ("fastvideo", "FastVideo"),
    "webdataset": ("webdataset", "WebDataset"),
}
PARSERS: Mapping[str, Callable[[str], Any]] = {"bool": {"true": True, "false": False}.__getitem__, "int": int}


def build_format(name: str, options: Mapping[str, str] | None = None) -> CaptionFormat | ShardFormat:
    """A format with its options as the command line has them; ConfigError names what is unknown."""
    if name not in FORMATS:
        raise ConfigError(f"format: expected one of {', '.join(FORMATS)}, got {name!r}")
    module, class_name = FORMATS[name]
    kind = getattr(import_module(f"t5enc.trainers.formats.{module}"), class_name)
    types = {entry.name: str(entry.type) for entry in fields(kind)}
    given = {option: _parse(name, option, text, types) for option, text in (options or {}).items()}
    for entry in fields(kind):
        if entry.default is MISSING and entry.default_factory is MISSING and entry.name not in given:
            raise ConfigError(f"option: {name} needs {entry.name} (--option {entry.name}=...), and it is not there")
    made: CaptionFormat | ShardFormat = kind(**given)
    return made


def _parse(format_: str, option: str, text: str, types: Mapping[str, str]) -> Any:
    """The value of an option, by the type of its field: text, a whole number, or true and false."""
    if option not in types:
        raise ConfigError(f"option: {format_} expected one of {', '.join(types) or 'none'}, got {option!r}")
    kind = types[option].removesuffix(" | None")
    try:
        return PARSERS.get(kind, str)(text)
    except (KeyError, ValueError) as error:
        raise ConfigError(f"option: {option}: expected {kind}, got {text!r}") from error
