"""Names and values in a YAML file: of a recipe, a job or a service."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from t5enc.errors import ConfigError


def read_options(path: Path) -> dict[str, Any]:
    """The options of a YAML file, their names as the command line or as Python spells them."""
    return {name.replace("-", "_"): value for name, value in read_yaml(path).items()}


def read_yaml(path: Path) -> dict[str, Any]:
    """What a YAML file of names and values says; ConfigError where it is none."""
    try:
        import yaml
    except ModuleNotFoundError as error:
        raise ConfigError('config needs PyYAML, which is not installed: pip install "t5enc[data]"') from error
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: expected a YAML file of options, got: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected `option: value` lines, got {type(content).__name__}")
    return {str(name): value for name, value in content.items()}
