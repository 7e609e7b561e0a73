"""Prints what a project's pyproject.toml asks for, so that an image installs it before the code is there."""

from __future__ import annotations

import argparse
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NAME = re.compile(r"[A-Za-z0-9._-]+")
OWN_EXTRAS = re.compile(r"\[([^\]]+)\]")


def list_requirements(project: dict[str, Any], extras: list[str]) -> list[str]:
    """Each requirement of the project and of these extras, once."""
    return list(dict.fromkeys([*project["dependencies"], *list_extras(project, extras)]))


def list_extras(project: dict[str, Any], extras: list[str]) -> Iterator[str]:
    """What the extras ask for; the project's own name stands for further extras of it."""
    for extra in extras:
        for requirement in project["optional-dependencies"][extra]:
            if find_name(requirement) != project["name"]:
                yield requirement
            elif found := OWN_EXTRAS.search(requirement):
                yield from list_extras(project, found.group(1).split(","))


def find_name(requirement: str) -> str:
    """`ray` for `ray[data]>=2.60`."""
    found = NAME.match(requirement)
    assert found is not None, requirement
    return found.group()


def main() -> None:
    """The command line: FILE EXTRA... [--without NAME]."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("extras", nargs="*")
    parser.add_argument("--without", action="append", default=[])
    given = parser.parse_args()
    project = tomllib.loads(given.file.read_text(encoding="utf-8"))["project"]
    found = list_requirements(project, given.extras)
    print("\n".join(requirement for requirement in found if find_name(requirement) not in given.without))


if __name__ == "__main__":
    main()
