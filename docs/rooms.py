"""Writes what is where into the READMEs of the rooms: `python -m docs.rooms`.

A table stands between a line that says so and the next heading. Its words are the first lines of the modules'
docstrings, so that they are written once, and a module that moves or is renamed takes them along.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("t5enc", "pipelines", "serve_app")
# Folders whose modules are listed one by one, though they are no room of a package.
OTHERS = ("benchmarks",)
MARK = "<!-- python -m docs.rooms -->\n\n"
TABLE = re.compile(rf"{re.escape(MARK)}.*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)


def list_readmes() -> Iterator[tuple[Path, str]]:
    """Every README with a table, and the table that belongs there."""
    for package in (ROOT / name for name in PACKAGES):
        yield (
            package / "README.md",
            make_table(["room", "what it is for"], list_rooms(package))
            + make_table(["module", "what it holds"], list_modules(package, package.glob("*.py"))),
        )
        for room in find_rooms(package):
            yield room / "README.md", make_table(["module", "what it holds"], list_modules(room, room.rglob("*.py")))
    for folder in (ROOT / name for name in OTHERS):
        yield folder / "README.md", make_table(["module", "what it holds"], list_modules(folder, folder.rglob("*.py")))


def find_rooms(package: Path) -> list[Path]:
    """The folders of a package that hold modules."""
    return sorted(path.parent for path in package.glob("*/__init__.py"))


def list_rooms(package: Path) -> Iterator[tuple[str, str]]:
    """Each room's link and its docstring."""
    for room in find_rooms(package):
        yield f"[{room.name}]({room.name}/README.md)", read_docstring(room / "__init__.py")


def list_modules(folder: Path, paths: Iterator[Path]) -> Iterator[tuple[str, str]]:
    """Each module's name and docstring; an `__init__.py` that holds nothing else is left out."""
    for path in sorted(paths, key=lambda path: (path.parent, path.name)):
        if path.name != "__init__.py" or len(ast.parse(path.read_text(encoding="utf-8")).body) > 1:
            yield f"`{path.relative_to(folder)}`", read_docstring(path)


def read_docstring(path: Path) -> str:
    """The first line of a module's docstring; ValueError where it has none."""
    said = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    if not said:
        raise ValueError(f"{path}: expected a docstring, got none")
    return said.splitlines()[0].replace("|", "\\|")


def make_table(head: list[str], rows: Iterator[tuple[str, str]]) -> str:
    """A table in Markdown, and an empty line."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines) + "\n"


def fill(readme: str, table: str) -> str:
    """A README with its table; ValueError where there is no place for one."""
    if MARK not in readme:
        raise ValueError(f"expected a line {MARK!r}, got none in: {readme[:60]}")
    return TABLE.sub(lambda _: MARK + table, readme).rstrip("\n") + "\n"


if __name__ == "__main__":
    for path, table in list_readmes():
        path.write_text(fill(path.read_text(encoding="utf-8"), table), encoding="utf-8")
