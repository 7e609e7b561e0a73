"""Texts to ragged token ids: the end token last, cut to a length, never padded.

The reference is the tokenizer that transformers picks for a checkpoint's own files. sentencepiece, which the
models were trained with, serves where only its model is there, or where it is asked for: it reads a few texts
differently (`</s>` in a text is four plain characters to it, and it keeps mT5's byte fallback).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from t5enc.checkpoint.checkpoint import TokenizerSource
from t5enc.checkpoint.opening import TOKENIZER_FILES, find_tokenizer
from t5enc.errors import CheckpointError, ConfigError, InputError
from t5enc.options import ModelPlace, ModelSource
from t5enc.text.token_spans import (
    BYTE_CONTROLS,
    BYTE_END,
    BYTE_OFFSET,
    TokenSpan,
    split_bytes,
    split_with_sentencepiece,
    split_with_transformers,
)

# transformers writes a huge number where a tokenizer has no limit.
LARGEST_LIMIT = 32768
# Where a text that is too long loses tokens.
Cut = Literal["end", "start"]


@dataclass(frozen=True, slots=True)
class TokenizedTexts:
    """Ids of N texts, which of them were cut, and their lengths before that (end token included)."""

    ids: list[NDArray[np.int32]]
    truncated: NDArray[np.bool_]
    lengths: NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokenizer:
    """A text's ids are what `to_ids` says, cut to `max_length` with the end token still last.

    `to_text` is given ids and whether to leave control tokens out. `limit` is the longest text that the tokenizer's
    own files name, if they do. Texts are never padded here; `pad_id` is for those who must.
    """

    max_length: int
    eos_id: int
    pad_id: int
    fingerprint: str
    to_ids: Callable[[list[str]], list[list[int]]]
    to_text: Callable[[list[int], bool], str]
    to_spans: Callable[[str], list[TokenSpan]]
    limit: int | None = None
    is_bytes: bool = False

    def __post_init__(self) -> None:
        if self.max_length < 1:
            raise ConfigError(f"max_length: expected at least 1, got {self.max_length}")

    def encode(self, texts: Sequence[str], *, cut: Cut = "end") -> TokenizedTexts:
        """Ids of N texts; InputError naming the first that is not text."""
        ids = self.to_ids(check_texts(texts)) if len(texts) else []
        lengths = np.array([len(text) for text in ids], dtype=np.int64)
        return TokenizedTexts([self._cut(text, cut) for text in ids], lengths > self.max_length, lengths)

    def decode(self, ids: Sequence[int] | NDArray[np.int32], *, skip_special_tokens: bool = True) -> str:
        """The text that ids stand for; ids beyond the tokenizer's own, which many models have, stand for nothing."""
        return self.to_text([int(token) for token in ids], skip_special_tokens)

    def split(self, text: str) -> list[TokenSpan]:
        """The tokens of one whole text and where in it they were read; their ids are those of `encode`, uncut."""
        return self.to_spans(check_texts([text])[0])

    def _cut(self, ids: list[int], cut: Cut) -> NDArray[np.int32]:
        return np.array(cut_ids(ids, self.max_length, cut), dtype=np.int32)


def cut_ids(ids: list[int], max_length: int, cut: Cut = "end") -> list[int]:
    """At most `max_length` ids, the last still last: of a text, that is the end token."""
    if len(ids) <= max_length:
        return ids
    return ids[-max_length:] if cut == "start" else [*ids[: max_length - 1], ids[-1]]


def load_tokenizer(
    source: TokenizerSource | ModelPlace, *, max_length: int, kind: Literal["auto", "sentencepiece"] = "auto"
) -> Tokenizer:
    """A tokenizer from a folder, a hub id, a sentencepiece model (bytes or .model file), or "byt5" for bytes.

    `kind="sentencepiece"` reads a folder's spiece.model instead of asking transformers.
    Raises CheckpointError when there is none, ConfigError for a length below one.
    """
    if source is None:
        raise CheckpointError(
            "the checkpoint has no tokenizer files: give a folder or a hub id as tokenizer= "
            '(tokenizer="FOLDER" in Python)'
        )
    if (source.model if isinstance(source, ModelSource) else source) == "byt5":
        return _load_bytes(max_length)
    found = source if isinstance(source, bytes) else find_tokenizer(source)
    if isinstance(found, bytes):
        return _load_sentencepiece(found, max_length)
    assert isinstance(found, Path)
    if kind == "sentencepiece":
        return _load_sentencepiece(_read_model(found), max_length)
    return _load_transformers(found, max_length)


def check_texts(texts: Sequence[str]) -> list[str]:
    """The texts as a list; InputError naming the first that is no string or holds half a surrogate pair."""
    if isinstance(texts, str):
        raise InputError("texts: expected a list of strings, got one string")
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise InputError(f"texts[{index}]: expected a string, got {type(text).__name__}")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            found = f"a lone surrogate {text[error.start]!r} at character {error.start}"
            raise InputError(f"texts[{index}]: expected Unicode text, got {found}") from error
    return list(texts)


def _load_transformers(folder: Path, max_length: int) -> Tokenizer:
    from transformers import AutoTokenizer, ByT5Tokenizer

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # a tokenizer's files fail in ways that no exception type tells
        hint = "if it has a spiece.model, give that file as tokenizer="
        raise CheckpointError(f"{folder}: transformers finds no tokenizer ({hint}): {error}") from error

    def to_ids(texts: list[str]) -> list[list[int]]:
        # verbose warns of texts beyond model_max_length, which is not the length that counts here.
        encoded = tokenizer(texts, return_attention_mask=False, return_token_type_ids=False, verbose=False)
        return encoded["input_ids"]  # type: ignore[no-any-return]

    return Tokenizer(
        max_length=max_length,
        eos_id=_find_end(to_ids(["", "a"]), tokenizer.eos_token_id, folder),
        pad_id=tokenizer.pad_token_id or 0,
        limit=tokenizer.model_max_length if 1 <= tokenizer.model_max_length <= LARGEST_LIMIT else None,
        is_bytes=isinstance(tokenizer, ByT5Tokenizer),
        fingerprint=_hash_folder(type(tokenizer).__name__, folder),
        to_ids=to_ids,
        to_text=lambda ids, skip: str(tokenizer.decode(ids, skip_special_tokens=skip)),
        to_spans=partial(split_with_transformers, tokenizer),
    )


def _find_end(ids: list[list[int]], declared: int | None, folder: Path) -> int:
    """The token that ends every text; a bare tokenizer.json adds it without naming it."""
    ends = {text[-1] if text else None for text in ids}
    end = ends.pop()
    if ends or end is None or declared not in (None, end):
        raise CheckpointError(f"{folder}: expected a tokenizer that adds an end token, got {ids} for '' and 'a'")
    return end


def _hash_folder(class_name: str, folder: Path) -> str:
    digest = hashlib.sha256(class_name.encode())
    for name in TOKENIZER_FILES:
        if (folder / name).is_file():
            digest.update(name.encode() + hashlib.sha256((folder / name).read_bytes()).digest())
    return digest.hexdigest()


def _read_model(folder: Path) -> bytes:
    path = folder / "spiece.model"
    if not path.is_file():
        raise CheckpointError(f"{folder}: expected a spiece.model for sentencepiece, found none")
    return path.read_bytes()


def _load_sentencepiece(model: bytes, max_length: int) -> Tokenizer:
    from sentencepiece import SentencePieceProcessor

    processor: Any = SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(model)
    except RuntimeError as error:
        raise CheckpointError(f"sentencepiece model of {len(model)} bytes: {error}") from error
    if processor.eos_id() < 0:
        raise CheckpointError("sentencepiece model: expected an end token, found none")
    return Tokenizer(
        max_length=max_length,
        eos_id=processor.eos_id(),
        pad_id=max(0, processor.pad_id()),
        fingerprint=hashlib.sha256(b"sentencepiece" + model).hexdigest(),
        to_ids=lambda texts: processor.encode(texts, add_eos=True),
        to_text=partial(_join_sentencepiece, processor),
        to_spans=partial(split_with_sentencepiece, processor),
    )


def _join_sentencepiece(processor: Any, ids: list[int], skip: bool) -> str:
    known = [token for token in ids if 0 <= token < processor.vocab_size()]
    if skip:
        return str(processor.decode(known))
    runs = [(is_control, list(run)) for is_control, run in groupby(known, processor.IsControl)]
    return "".join(
        "".join(map(processor.id_to_piece, run)) if is_control else processor.decode(run) for is_control, run in runs
    )


def _load_bytes(max_length: int) -> Tokenizer:
    def to_ids(texts: list[str]) -> list[list[int]]:
        return [[*(byte + BYTE_OFFSET for byte in text.encode()), BYTE_END] for text in texts]

    def to_text(ids: list[int], skip: bool) -> str:
        controls = [b"" if skip else name.encode() for name in BYTE_CONTROLS]
        table = [*controls, *(bytes([byte]) for byte in range(256))]
        return b"".join(table[token] for token in ids if 0 <= token < len(table)).decode(errors="ignore")

    return Tokenizer(
        max_length=max_length,
        eos_id=BYTE_END,
        pad_id=0,
        is_bytes=True,
        fingerprint=hashlib.sha256(b"bytes").hexdigest(),
        to_ids=to_ids,
        to_text=to_text,
        to_spans=split_bytes,
    )
