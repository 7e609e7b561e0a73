"""What is derived from a CRD is stricter than the CRD, and lets in what an API server takes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.cluster.kubernetes.derive_schemas import SCHEMAS, derive, format_schemas, share, tighten
from tests.cluster.kubernetes.manifests import read_schemas


def is_good(schema: dict[str, Any], value: object) -> bool:
    """Whether a JSON Schema lets a value in."""
    return bool(jsonschema.Draft7Validator(schema).is_valid(value))


def test_an_object_with_properties_knows_no_others() -> None:
    schema = tighten({"type": "object", "properties": {"a": {"type": "string"}}})
    assert is_good(schema, {"a": "x"})
    assert not is_good(schema, {"b": "x"})


def test_what_a_crd_leaves_open_stays_open() -> None:
    kept = {"type": "object", "properties": {}, "x-kubernetes-preserve-unknown-fields": True}
    assert is_good(tighten(kept), {"anything": 1})
    assert is_good(tighten({"type": "object", "additionalProperties": {"type": "string"}}), {"any": "name"})
    assert not is_good(tighten({"type": "object", "additionalProperties": {"type": "string"}}), {"any": 1})


def test_what_has_a_default_may_be_left_out() -> None:
    schema = tighten(
        {
            "type": "object",
            "required": ["a", "b"],
            "properties": {"a": {"type": "integer", "default": 1}, "b": {"type": "integer"}},
        }
    )
    assert is_good(schema, {"b": 1})
    assert not is_good(schema, {"a": 1})


def test_quantities_are_numbers_or_texts() -> None:
    schema = tighten({"anyOf": [{"type": "integer"}, {"type": "string"}], "x-kubernetes-int-or-string": True})
    assert [is_good(schema, value) for value in (1, "1Gi", None, [])] == [True, True, False, False]


def test_null_is_let_in_where_the_crd_says_so() -> None:
    assert is_good(tighten({"type": "string", "nullable": True}), None)
    assert not is_good(tighten({"type": "string"}), None)


def test_a_part_that_occurs_twice_is_written_once_and_means_the_same() -> None:
    fields = {f"field{number}": {"type": "string"} for number in range(20)}
    part = {"type": "object", "additionalProperties": False, "properties": fields}
    kinds = {kind: {"type": "object", "properties": {"part": part, kind: {}}} for kind in ("A", "B")}
    shared = share(kinds)
    assert set(shared) == {"A", "B", "part"}
    for kind in kinds:
        schema = {"$defs": shared, "$ref": f"#/$defs/{kind}"}
        assert is_good(schema, {"part": {"field7": "x"}})
        assert not is_good(schema, {"part": {"fields": "x"}})


def test_the_schemas_say_what_they_are_from() -> None:
    origin = read_schemas()["$comment"]
    assert origin["version"] == "v1.7.0"
    assert len(origin["commit"]) == 40
    assert {len(digest) for digest in origin["sha256"].values()} == {64}


def test_the_schemas_are_what_the_script_derives() -> None:
    checkout = os.environ.get("KUBERAY_CHECKOUT")
    if checkout is None:
        pytest.skip("needs KUBERAY_CHECKOUT, the path of a clone of KubeRay")
    derived = format_schemas(derive(Path(checkout), read_schemas()["$comment"]["version"]))
    assert derived == SCHEMAS.read_text(encoding="utf-8")
