"""The tokens of one text with the part of it that each was read from, for people who look at tokens."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

# ByT5's first ids are pad, end and unknown; byte b is b + 3.
BYTE_OFFSET = 3
BYTE_END = 1
BYTE_CONTROLS = ("<pad>", "</s>", "<unk>")


class TokenSpan(NamedTuple):
    """A token, read from `text[start:stop]`; None and None where it was added (special) or nothing tells."""

    id: int
    token: str
    special: bool
    start: int | None
    stop: int | None


def split_with_transformers(tokenizer: Any, text: str) -> list[TokenSpan]:
    """Tokens as a tokenizer of transformers makes them."""
    told = {"return_special_tokens_mask": True, "return_offsets_mapping": tokenizer.is_fast}
    encoded = tokenizer(text, return_attention_mask=False, return_token_type_ids=False, verbose=False, **told)
    ids = encoded["input_ids"]
    places = encoded["offset_mapping"] if tokenizer.is_fast else [(None, None)] * len(ids)
    return [
        TokenSpan(token_id, token, bool(special), *((None, None) if special else place))
        for token_id, token, special, place in zip(
            ids, tokenizer.convert_ids_to_tokens(ids), encoded["special_tokens_mask"], places, strict=True
        )
    ]


def split_with_sentencepiece(processor: Any, text: str) -> list[TokenSpan]:
    """Tokens as sentencepiece makes them, and the end token."""
    from sentencepiece.sentencepiece_pb2 import SentencePieceText

    content = text.encode()
    found = SentencePieceText.FromString(processor.encode(text, out_type="serialized_proto"))
    firsts, lasts = _characters_of_bytes(content)
    spans = [
        TokenSpan(piece.id, piece.piece, False, firsts[piece.begin], max(firsts[piece.begin], lasts[piece.end]))
        for piece in found.pieces
    ]
    end = processor.eos_id()
    return [*spans, TokenSpan(end, processor.id_to_piece(end), True, None, None)]


def split_bytes(text: str) -> list[TokenSpan]:
    """A token a byte, each read from the character that its byte is part of, and the end token."""
    content = text.encode()
    firsts, _ = _characters_of_bytes(content)
    places = zip(content, firsts, strict=False)
    spans = [TokenSpan(byte + BYTE_OFFSET, f"<0x{byte:02X}>", False, first, first + 1) for byte, first in places]
    return [*spans, TokenSpan(BYTE_END, BYTE_CONTROLS[BYTE_END], True, None, None)]


def _characters_of_bytes(content: bytes) -> tuple[list[int], list[int]]:
    """For each place in UTF-8: the character that starts there or runs through it, and how many begin before it."""
    begins = (np.frombuffer(content, np.uint8) & 0xC0) != 0x80
    counts = np.cumsum(begins)
    firsts = [*(counts - 1).tolist(), int(begins.sum())]
    return firsts, [0, *counts.tolist()]
