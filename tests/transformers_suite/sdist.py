"""The tests that transformers' source distribution carries, unpacked as a package that can be imported.

The distribution has the modules that every model's tests are made of, not all that those import. An empty module stands
in for one that is missing, with a class that has no tests for each name that is asked of it.
"""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
import tarfile
from pathlib import Path
from types import ModuleType

import transformers

PACKAGE = "transformers_tests"
WANTED = ("test_modeling_common.py",)
RELATIVE_IMPORT = re.compile(r"^from \.([\w.]+) import (\([^)]*\)|.*)$", re.MULTILINE)


class NoDistributionError(Exception):
    """The source distribution of the version that is installed cannot be had."""


def find_distribution(folder: Path) -> Path:
    """The source distribution of the installed version: in the folder, or fetched into it."""
    name = f"transformers-{transformers.__version__}.tar.gz"
    path = folder / name
    if not path.exists():
        _fetch(name, path)
    return path


def _fetch(name: str, path: Path) -> None:
    """By pip, which knows the index that this machine uses."""
    path.parent.mkdir(parents=True, exist_ok=True)
    options = ["--quiet", "--no-deps", "--no-binary", ":all:", "--retries", "1", "--dest", str(path.parent)]
    command = [sys.executable, "-m", "pip", "download", *options, f"transformers=={transformers.__version__}"]
    pip = subprocess.run(command, capture_output=True, text=True, check=False)
    if not path.exists():
        why = (pip.stderr.strip().splitlines() or ["no such file came"])[-1]
        raise NoDistributionError(f"{name}: expected it on this machine or from pip, got: {why}")


def unpack_tests(distribution: Path, folder: Path) -> None:
    """The modules of `WANTED` as a package in a folder, with stand-ins for what they import and is not there."""
    package = folder / PACKAGE
    package.mkdir(parents=True, exist_ok=True)
    (package / "__init__.py").touch()
    with tarfile.open(distribution) as archive:
        root = archive.getnames()[0].partition("/")[0]
        for name in WANTED:
            member = archive.extractfile(f"{root}/tests/{name}")
            assert member is not None
            (package / name).write_bytes(member.read())
    for name in WANTED:
        for module, names in RELATIVE_IMPORT.findall((package / name).read_text(encoding="utf-8")):
            _stand_in(package, module, re.findall(r"\w+", names))


def _stand_in(package: Path, module: str, names: list[str]) -> None:
    path = package.joinpath(*module.split(".")).with_suffix(".py")
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    (path.parent / "__init__.py").touch()
    path.write_text("".join(f"class {name}:\n    pass\n\n\n" for name in names), encoding="utf-8")


def import_tests(folder: Path, module: str = "test_modeling_common") -> ModuleType:
    """A module of the package that `unpack_tests` made."""
    sys.path.insert(0, str(folder))
    return importlib.import_module(f"{PACKAGE}.{module}")
