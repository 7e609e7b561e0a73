"""A long list as the requests it is sent in: runs of neighbours, each under a count and a number of tokens."""

from __future__ import annotations

from collections.abc import Sequence

# English prose has about four bytes a token, and so, in UTF-8, has much else.
BYTES_PER_TOKEN = 4


def cut_chunks(sizes: Sequence[int], *, max_texts: int, max_tokens: int) -> list[range]:
    """Ranges that cover all texts in order; a text of more than `max_tokens` goes alone."""
    chunks: list[range] = []
    start, tokens = 0, 0
    for index, size in enumerate(sizes):
        if index > start and (index - start == max_texts or tokens + size > max_tokens):
            chunks.append(range(start, index))
            start, tokens = index, 0
        tokens += size
    return [*chunks, range(start, len(sizes))] if len(sizes) else []


def guess_tokens(text: str) -> int:
    """About how many tokens a text has; only the server can tell."""
    return len(text.encode()) // BYTES_PER_TOKEN + 1
