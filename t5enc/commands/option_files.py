"""Options of a command in a YAML file, or as NAME=VALUE."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from t5enc.errors import ConfigError
from t5enc.recipes.yaml_files import read_options


def merge_options(given: dict[str, Any], config: str | None) -> dict[str, Any]:
    """The file's options, and over them those given on the command line; of `recipe_options` each by itself."""
    options = read_options(Path(config)) if config else {}
    pairs = parse_pairs("recipe_option", given.pop("recipe_option", None) or ())
    options |= {name: value for name, value in given.items() if value is not None and value != []}
    if pairs:
        options["recipe_options"] = _read_mapping(options, "recipe_options") | pairs
    return options


def _read_mapping(options: dict[str, Any], name: str) -> dict[str, Any]:
    """A file's option that has options of its own; none where it is not there."""
    found = options.get(name, {})
    if not isinstance(found, dict):
        raise ConfigError(f"{name}: expected `option: value` pairs, got {found!r}")
    return found


def parse_pairs(option: str, pairs: Sequence[str]) -> dict[str, Any]:
    """NAME=VALUE pairs; `true`, `false`, whole numbers and quoted texts as YAML has them, the rest as it is."""
    found: dict[str, Any] = {}
    for pair in pairs:
        name, value = split_pair(pair, option)
        found[name] = _parse_scalar(value)
    return found


def split_pair(pair: str, option: str = "option") -> tuple[str, str]:
    """NAME=VALUE; the value is a text as it stands, and may be empty."""
    name, separator, value = pair.partition("=")
    if not separator or not name:
        raise ConfigError(f"{option}: expected NAME=VALUE, got {pair!r}")
    return name.replace("-", "_"), value


def _parse_scalar(value: str) -> str | int | bool:
    """Texts may be prompts: "no" and "blurry: very" stay what they are."""
    if value in ("true", "false"):
        return value == "true"
    if value.removeprefix("-").isdecimal():
        return int(value)
    is_quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "\"'"
    return value[1:-1] if is_quoted else value
