"""Derives strict JSON Schemas from KubeRay's CRDs: python -m tests.cluster.kubernetes.derive_schemas CHECKOUT [TAG].

The API server passes over a name that a CRD does not know, and fills in what has a default; a schema that is to find
typing mistakes refuses the former, and asks for nothing of the latter.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.kubernetes.core_kinds import derive_core_kinds, make_kind

SCHEMAS = Path(__file__).parent / "schemas" / "kuberay.json"
KINDS = {"RayCluster": "rayclusters", "RayJob": "rayjobs", "RayService": "rayservices"}
FOLDER = "ray-operator/config/crd/bases"
VERSION = "v1"
# What says as much in a JSON Schema as in a CRD. Descriptions, formats and rules in CEL are left behind.
KEPT = ("type", "enum", "pattern", "minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems")
# A part that occurs more than once and takes more characters than this is written down once.
SHARED_LENGTH = 160
Schema = dict[str, Any]


def tighten(schema: Schema) -> Schema:
    """A CRD's schema as a JSON Schema that knows no other names."""
    if schema.get("x-kubernetes-int-or-string"):
        return allow_null(schema, {"type": ["integer", "string"]})
    found: Schema = {name: schema[name] for name in KEPT if name in schema}
    if "properties" in schema:
        found["properties"] = {name: tighten(value) for name, value in schema["properties"].items()}
        found["additionalProperties"] = bool(schema.get("x-kubernetes-preserve-unknown-fields"))
        if required := list_required(schema):
            found["required"] = required
    elif isinstance(schema.get("additionalProperties"), dict):
        found["additionalProperties"] = tighten(schema["additionalProperties"])
    if "items" in schema:
        found["items"] = tighten(schema["items"])
    return allow_null(schema, found)


def allow_null(schema: Schema, found: Schema) -> Schema:
    """The same, and null where the CRD lets it in."""
    if not schema.get("nullable") or "type" not in found:
        return found
    kinds = found["type"] if isinstance(found["type"], list) else [found["type"]]
    return found | {"type": [*kinds, "null"]}


def list_required(schema: Schema) -> list[str]:
    """Names that must be there, but for those that the API server fills in."""
    properties = schema["properties"]
    return [name for name in schema.get("required", ()) if "default" not in properties.get(name, {})]


def read_spec(definition: Schema) -> Schema:
    """What people write of a kind: its spec, never its status."""
    version = next(entry for entry in definition["spec"]["versions"] if entry["name"] == VERSION)
    return tighten(version["schema"]["openAPIV3Schema"]["properties"]["spec"])


def share(kinds: dict[str, Schema]) -> dict[str, Schema]:
    """The same kinds as definitions, with parts that occur more than once as definitions of their own."""
    counts: Counter[str] = Counter()
    for schema in kinds.values():
        count_parts(schema, counts)
    names: dict[str, str] = {}
    shared: dict[str, Schema] = {}

    def replace(schema: Schema, hint: str) -> Schema:
        text = json.dumps(schema, sort_keys=True)
        if text in names:
            return {"$ref": f"#/$defs/{names[text]}"}
        found = replace_parts(schema, hint)
        if counts[text] < 2 or len(text) < SHARED_LENGTH:
            return found
        names[text] = choose_name(hint, shared)
        shared[names[text]] = found
        return {"$ref": f"#/$defs/{names[text]}"}

    def replace_parts(schema: Schema, hint: str) -> Schema:
        found = dict(schema)
        if "properties" in schema:
            found["properties"] = {name: replace(value, name) for name, value in schema["properties"].items()}
        for name in ("items", "additionalProperties"):
            if isinstance(schema.get(name), dict):
                found[name] = replace(schema[name], f"{hint}.{name[:4]}")
        return found

    return {kind: replace_parts(schema, kind) for kind, schema in kinds.items()} | shared


def count_parts(schema: Schema, counts: Counter[str]) -> None:
    """Count a schema, and those inside of it at their first sight."""
    text = json.dumps(schema, sort_keys=True)
    counts[text] += 1
    if counts[text] > 1:
        return
    parts = [*schema.get("properties", {}).values(), schema.get("items"), schema.get("additionalProperties")]
    for part in parts:
        if isinstance(part, dict):
            count_parts(part, counts)


def choose_name(hint: str, taken: dict[str, Schema]) -> str:
    """`affinity`, or `affinity-2` where there is one."""
    numbers = range(1, len(taken) + 2)
    return next(name for number in numbers if (name := hint if number == 1 else f"{hint}-{number}") not in taken)


def run_git(checkout: Path, *arguments: str) -> bytes:
    """What git prints, for a checkout with or without files."""
    return subprocess.run(["git", "-C", str(checkout), *arguments], check=True, capture_output=True).stdout


def derive(checkout: Path, tag: str) -> Schema:
    """All kinds of a version of KubeRay, those of Kubernetes that it embeds, and what they were derived from."""
    sources, specs = {}, {}
    for kind, plural in KINDS.items():
        path = f"{FOLDER}/ray.io_{plural}.yaml"
        content = run_git(checkout, "show", f"{tag}:{path}")
        sources[path] = hashlib.sha256(content).hexdigest()
        specs[kind] = read_spec(yaml.safe_load(content))
    commit = run_git(checkout, "rev-parse", f"{tag}^{{commit}}").decode().strip()
    origin = {"project": "KubeRay", "version": tag, "commit": commit, "sha256": sources}
    kinds = {kind: make_kind(f"ray.io/{VERSION}", kind, {"spec": spec}) for kind, spec in specs.items()}
    return {"$comment": origin, "$defs": share(kinds | derive_core_kinds(specs["RayCluster"]))}


def format_schemas(schemas: Schema) -> str:
    """JSON with one line a definition."""
    lines = [f"  {json.dumps(name)}: {json.dumps(value, sort_keys=True)}" for name, value in schemas["$defs"].items()]
    origin = json.dumps(schemas["$comment"], indent=2).replace("\n", "\n ")
    return f'{{\n "$comment": {origin},\n "$defs": {{\n' + ",\n".join(lines) + "\n }\n}\n"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkout", type=Path, help="a clone of KubeRay")
    parser.add_argument("tag", nargs="?", default="v1.7.0")
    given = parser.parse_args()
    SCHEMAS.write_text(format_schemas(derive(given.checkout, given.tag)), encoding="utf-8")


if __name__ == "__main__":
    main()
