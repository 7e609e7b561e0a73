"""The YAML of cluster/, and checks of it that are stricter than an API server's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from tests.cluster.kubernetes.derive_schemas import SCHEMAS

REPOSITORY = Path(__file__).resolve().parents[3]
FOLDER = REPOSITORY / "cluster"
Document = dict[str, Any]


class ManifestError(Exception):
    """A manifest says what its kind does not know."""


def read_documents(path: Path) -> list[Document]:
    """The objects of a manifest."""
    return list(yaml.safe_load_all(path.read_text(encoding="utf-8")))


def list_manifests() -> list[tuple[str, Document]]:
    """(file and name, object) of everything that `kubectl apply` takes."""
    found = [(path, document) for path in sorted(FOLDER.glob("*.yaml")) for document in read_documents(path)]
    return [(f"{path.name}/{doc['kind']}/{doc['metadata']['name']}", doc) for path, doc in found if "kind" in doc]


MANIFESTS = dict(list_manifests())


def find_manifest(kind: str, name: str) -> Document:
    """The object of that kind and name."""
    return next(doc for _, doc in list_manifests() if (doc["kind"], doc["metadata"]["name"]) == (kind, name))


@cache
def read_schemas() -> Document:
    """What `tests.cluster.kubernetes.derive_schemas` has written."""
    found: Document = json.loads(SCHEMAS.read_text(encoding="utf-8"))
    return found


def check_manifest(document: Document) -> None:
    """ManifestError naming the place where an object says what its kind does not know, or does not say what it must."""
    kinds = read_schemas()["$defs"]
    kind = document["kind"]
    if kind not in kinds:
        raise ManifestError(f"kind: expected one of those that are derived, got {kind}")
    validator = jsonschema.Draft7Validator({"$defs": kinds, "$ref": f"#/$defs/{kind}"})
    error = jsonschema.exceptions.best_match(validator.iter_errors(document))
    if error is not None:
        raise ManifestError(f"{error.json_path}: {error.message}")


def walk(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """(path, value) of everything in an object."""
    yield path, value
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        yield from walk(inner, (*path, key))


def find_all(value: Any, name: str) -> list[Any]:
    """What stands under that name, at any depth."""
    return [inner for path, inner in walk(value) if path and path[-1] == name]
