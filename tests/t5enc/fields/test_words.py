"""Words that stand for values, as `serve run NAME=VALUE` has them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from t5enc.fields.words import read_word, read_words


@pytest.mark.parametrize(
    ("hint", "word", "value"),
    [
        (int, "80", 80),
        (int | None, 80.0, 80),
        (float | None, "0.5", 0.5),
        (float, 1, 1.0),
        (bool, "True", True),
        (bool, "off", False),
        (bool, 1, True),
        (str | None, "80", "80"),
        (str | bool | None, "true", "true"),
    ],
)
def test_a_word_becomes_what_it_stands_for(hint: Any, word: Any, value: Any) -> None:
    found = read_word(hint, word)
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("hint", "value"),
    [(int, "many"), (int, "0.5"), (int, 0.5), (int, True), (int, "inf"), (float, "a"), (bool, "maybe"), (bool, 2)],
)
def test_what_stands_for_nothing_is_left_to_be_refused(hint: Any, value: Any) -> None:
    assert read_word(hint, value) is value


def test_only_known_names_are_read() -> None:
    hints: Mapping[str, Any] = {"port": int}
    assert read_words(hints, {"port": "80", "other": "80", "models": {}}) == {"port": 80, "other": "80", "models": {}}
