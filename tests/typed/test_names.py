"""Options have one list of names and types for callers to read, and one of fields to hold them: they agree."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any, get_type_hints

import pytest

from pipelines.job import EncodeJob, JobNames
from serve_app.config import ServeConfig, ServeNames
from t5enc.fields.parts import list_options
from t5enc.fields.types import find_hints, list_kinds
from t5enc.options import EncoderNames, EncoderOptions, LoadNames

KINDS = [(EncoderOptions, EncoderNames), (EncodeJob, JobNames), (ServeConfig, ServeNames)]


@pytest.mark.parametrize(("kind", "names"), KINDS)
def test_callers_are_told_the_names_that_there_are(kind: type, names: Any) -> None:
    parts = {entry.name for entry in fields(kind) if is_dataclass(find_hints(kind)[entry.name])}
    assert set(get_type_hints(names)) == {*list_options(kind), *parts}


@pytest.mark.parametrize(("kind", "names"), KINDS)
def test_callers_may_give_whatever_a_field_holds(kind: type, names: Any) -> None:
    told = get_type_hints(names)
    for name, (_, held) in list_options(kind).items():
        if name not in ("inputs", "reuse"):  # which may be paths
            assert set(list_kinds(held)) <= set(list_kinds(told[name])), name


def test_a_model_is_loaded_with_the_options_of_an_encoder() -> None:
    assert set(get_type_hints(LoadNames)) == set(list_options(EncoderOptions)) - {"model"}
