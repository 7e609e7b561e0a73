"""Tokens with the text they were read from: the same ids as the encoder gets, and spans of the text itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from t5enc.checkpoint.builtin import open_builtin, write_builtin
from t5enc.errors import InputError
from t5enc.text.tokenizer import Tokenizer, load_tokenizer

# Whatever UTF-8 can hold.
TEXT = st.text(st.characters(codec="utf-8"), max_size=40)


@pytest.fixture(scope="module", params=["sentencepiece", "transformers", "byt5"])
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """The built-in tokenizer as each library reads it, and ByT5's."""
    if request.param == "byt5":
        return load_tokenizer("byt5", max_length=10_000)
    if request.param == "sentencepiece":
        return load_tokenizer(open_builtin("tiny").tokenizer_source, max_length=10_000)
    folder = tmp_path_factory.mktemp("tokenizer")
    write_builtin("tiny", folder)
    return load_tokenizer(folder, max_length=10_000)


@given(text=TEXT)
def test_tokens_have_the_ids_that_are_encoded_and_spans_in_order(tokenizer: Tokenizer, text: str) -> None:
    tokens = tokenizer.split(text)
    assert [token.id for token in tokens] == tokenizer.encode([text]).ids[0].tolist()
    spans = [(token.start or 0, token.stop or 0) for token in tokens if not token.special]
    assert all(0 <= start <= stop <= len(text) for start, stop in spans)
    assert [start for start, _ in spans] == sorted(start for start, _ in spans)


def test_the_end_token_is_special_and_read_from_nothing(tokenizer: Tokenizer) -> None:
    *read, end = tokenizer.split("a bird")
    assert (end.id, end.token, end.special, end.start, end.stop) == (1, "</s>", True, None, None)
    assert not any(token.special for token in read)


def find_unread(tokenizer: Tokenizer, text: str) -> set[int]:
    """Places of characters, spaces apart, that no token was read from."""
    spans = [(token.start, token.stop) for token in tokenizer.split(text)]
    read = {place for start, stop in spans if start is not None and stop is not None for place in range(start, stop)}
    return {place for place, character in enumerate(text) if not character.isspace()} - read


def test_spans_count_characters_and_not_bytes(tokenizer: Tokenizer) -> None:
    text = "Üüß 🐦 bird"
    assert find_unread(tokenizer, text) == set()
    assert tokenizer.split(text)[-2].stop == len(text)
    assert any(text[token.start : token.stop] == "🐦" for token in tokenizer.split(text) if not token.special)


def test_half_a_surrogate_pair_has_no_tokens(tokenizer: Tokenizer) -> None:
    with pytest.raises(InputError, match="lone surrogate"):
        tokenizer.split("a \ud800")


def test_control_tokens_are_text_only_where_they_are_asked_for(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(["a red bird"]).ids[0]
    assert tokenizer.decode(ids) == "a red bird"
    assert tokenizer.decode([*ids, 0], skip_special_tokens=False) == "a red bird</s><pad>"


def test_ids_beyond_the_tokenizers_own_stand_for_nothing(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(["a bird"]).ids[0][:-1]
    assert tokenizer.decode([*ids, 1_000_000], skip_special_tokens=False) == "a bird"


@pytest.mark.parametrize("name", ["t5", "mt5", "umt5"])
def test_real_tokenizers_read_every_character(name: str, shared: Path) -> None:
    folder = shared / "data" / "tokenizers" / name
    tokenizers = [load_tokenizer(folder, max_length=512)]
    if (folder / "stoken.model").is_file():
        tokenizers.append(load_tokenizer(folder, max_length=512, kind="sentencepiece"))
    text = "Zwei Vögel fliegen 🐦 over the sea"
    for tokenizer in tokenizers:
        assert [token.id for token in tokenizer.split(text)] == tokenizer.encode([text]).ids[0].tolist()
        assert find_unread(tokenizer, text) == set()
