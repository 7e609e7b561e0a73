"""Types of fields: what is let in, and how what is not is named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from t5enc.errors import ConfigError
from t5enc.fields.types import check_fields, check_type


@pytest.mark.parametrize(
    ("hint", "value"),
    [
        (str, "a"),
        (int | None, None),
        (float, 3),
        (bool, False),
        (Any, object()),
        (Literal["a", "b"], "b"),
        (Sequence[str] | None, ("a",)),
        (tuple[str, ...], ("a",)),
        (Mapping[str, float], {"a": 1}),
        (str | int, 3),
    ],
)
def test_what_is_of_the_declared_type_is_let_in(hint: Any, value: Any) -> None:
    check_type("name", hint, value)


@pytest.mark.parametrize(
    ("hint", "value", "message"),
    [
        (str, 5, "name: expected a string, got 5"),
        (int, True, "name: expected a whole number, got True"),
        (int | None, "5", "name: expected a whole number, got '5'"),
        (float, "half", "name: expected a number, got 'half'"),
        (bool, 1, "name: expected true or false, got 1"),
        (str, None, "name: expected a string, got None"),
        (Literal["a", "b"], "c", "name: expected one of a, b, got 'c'"),
        (Sequence[str], "a", "name: expected a list of strings, got 'a'"),
        (Sequence[str], ["a", 1], "name: expected a string, got 1"),
        (tuple[str, ...], ["a"], "name: expected a list of strings, got ['a']"),
        (tuple[str, ...], ("a", 1), "name: expected a string, got 1"),
        (Mapping[str, float], [1], "name: expected `option: value` pairs, got [1]"),
        (Mapping[str, float], {"a": "b"}, "name: a: expected a number, got 'b'"),
        (str | int, 0.5, "name: expected a string or a whole number, got 0.5"),
        (str | Path | None, 5, "name: expected a string or a Path, got 5"),
    ],
)
def test_anything_else_is_named_with_what_was_expected(hint: Any, value: Any, message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        check_type("name", hint, value)
    assert str(refused.value) == message


@dataclass(frozen=True, kw_only=True)
class Holder:
    """Holds a secret."""

    key: str | None = field(default=None, repr=False)


def test_a_value_that_repr_leaves_out_is_not_told() -> None:
    wrong: Any = ["hf_secret"]
    with pytest.raises(ConfigError, match=r"^key: expected a string, got list$"):
        check_fields(Holder(key=wrong))
