"""Which texts are the same to a trainer; other refusals are in `test_export.py`."""

from __future__ import annotations

import sys

import pytest

from t5enc.checkpoint.builtin import open_builtin
from t5enc.text.tokenizer import load_tokenizer
from t5enc.trainers.acceptance import SEEN_BLANK, check_stripped, check_text
from tests.t5enc.trainers.formats.given_rows import make_caption, make_given

BLANKS = [chr(code) for code in range(sys.maxunicode + 1) if chr(code).isspace()]


def test_what_a_trainer_strips_is_nothing_to_the_tokenizer() -> None:
    tokenizer = load_tokenizer(open_builtin("builtin:tiny").tokenizer_source, max_length=64)
    texts = [f"{blank}a red bird{blank}{blank}" for blank in BLANKS]
    plain = tokenizer.encode(["a red bird"]).ids[0].tolist()
    assert [text for text, ids in zip(texts, tokenizer.encode(texts).ids, strict=True) if ids.tolist() != plain] == [
        f"{SEEN_BLANK}a red bird{SEEN_BLANK * 2}"
    ]


@pytest.mark.parametrize("text", ["a", "\n a\t", "\u3000a"])
def test_a_stripped_text_is_the_row_s_own(text: str) -> None:
    assert check_stripped(make_caption("p", text=text), make_given()) is None
    assert check_stripped(make_caption("p", text=text, encoded="a"), make_given()) is None


@pytest.mark.parametrize("text", [SEEN_BLANK, f"a {SEEN_BLANK}", f"{SEEN_BLANK}a"])
def test_the_one_blank_that_the_tokenizer_sees_is_told(text: str) -> None:
    assert "the trainer encodes" in str(check_stripped(make_caption("p", text=text), make_given()))


def test_another_column_than_the_encoded_one_is_told() -> None:
    other = make_caption("p", text="b", encoded="a")
    for check in (check_stripped(other, make_given()), check_text("b", other, make_given())):
        assert "the trainer encodes 'b', the job encoded 'a'" in str(check)
