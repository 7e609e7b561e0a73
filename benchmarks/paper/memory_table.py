"""T5-XXL on cards of three sizes, worked out: the table of docs/memory.md."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from t5enc.config import EncoderConfig
from t5enc.model.memory import GIB, USABLE, choose_budget, count_token_bytes, count_weight_bytes

# Gigabytes of a card, and the share of it that an actor has.
PLACES = {"half of 24 GB": (24, 0.5), "24 GB": (24, 1.0), "40 GB": (40, 1.0), "80 GB": (80, 1.0)}
# What CUDA and its libraries take of a card before anything is loaded.
CONTEXT_BYTES = GIB
LENGTH, MOST = 512, 16384
XXL = {
    "model_type": "t5",
    "vocab_size": 32128,
    "d_model": 4096,
    "d_kv": 64,
    "d_ff": 10240,
    "num_layers": 24,
    "num_heads": 64,
    "feed_forward_proj": "gated-gelu",
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
}


def make_memory_table() -> str:
    """Markdown: weights, the bytes of a token on either path, and the budget, by dtype, card and share of it."""
    head = ["dtype", "card", "weights", "a token, Flex", "a token, SDPA", "budget", "tokens that would fit"]
    rows = [head, ["---", *["---:"] * (len(head) - 1)], *_list_rows(EncoderConfig.from_hf(XXL))]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _list_rows(config: EncoderConfig) -> Iterator[list[str]]:
    for dtype in (torch.bfloat16, torch.float16):
        weights = count_weight_bytes(config, dtype)
        flex, sdpa = (count_token_bytes(config, dtype, attention) for attention in ("flex", "sdpa"))
        for place, (card, share) in PLACES.items():
            free = int((card * GIB - CONTEXT_BYTES) * share)
            budget = choose_budget(config, dtype, "flex", free=free, length=LENGTH, most=MOST)
            yield [
                str(dtype).removeprefix("torch."),
                place,
                f"{weights / GIB:.2f} GiB",
                f"{flex / 1024:.0f} KiB",
                f"{sdpa / 1024:.0f} KiB",
                str(budget),
                f"{(int(free * USABLE) - weights) // flex:,}",
            ]
