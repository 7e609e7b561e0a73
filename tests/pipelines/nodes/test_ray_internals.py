"""Ray's private modules are known in one place, which says of each what was tried instead."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import pipelines

ROOT = Path(pipelines.__file__).parent
PRIVATE = ("ray._", "ray.core", "ray.autoscaler", "ray.data._", "ray.util.state._", "ray.serve._")


def list_imports(path: Path) -> list[str]:
    found: list[str] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_what_is_private_to_ray_is_imported_in_one_module(path: Path) -> None:
    private = [name for name in list_imports(path) if name.startswith(PRIVATE)]
    assert bool(private) == (path.name == "ray_internals.py"), private
