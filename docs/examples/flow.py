"""A small transformer that turns noise into pictures, and reads their captions by cross-attention.

B pictures, P patches, D width of the transformer, S tokens of the longest caption, M width of a token's embedding.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

PATCH, WIDTH, HEADS, BLOCKS = 4, 96, 4, 3


class FlowModel(nn.Module):
    """The velocity from a picture to noise at a point between the two (Liu et al. 2022, rectified flow)."""

    def __init__(self, *, side: int, text_dim: int) -> None:
        super().__init__()
        self.side = side // PATCH
        self.patches = nn.Linear(3 * PATCH**2, WIDTH)
        self.places = nn.Parameter(0.5 * torch.randn(self.side**2, WIDTH))
        self.time = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH))
        self.text = nn.Sequential(nn.Linear(text_dim, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH))
        self.blocks = nn.ModuleList(Block() for _ in range(BLOCKS))
        self.out = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3 * PATCH**2))

    def forward(self, noisy: Tensor, time: Tensor, text: Tensor, mask: Tensor) -> Tensor:
        """(B, 3, side, side) of as much, of times (B,) from 0 to 1, text (B, S, M) and its mask (B, S)."""
        hidden = self.patches(rearrange(noisy, "b c (h p) (w q) -> b (h w) (c p q)", p=PATCH, q=PATCH)) + self.places
        moment, words = self.time(_expand_time(time))[:, None], self.text(text)
        for block in self.blocks:
            hidden = block(hidden + moment, words, mask)
        found = self.out(hidden)
        return rearrange(found, "b (h w) (c p q) -> b c (h p) (w q)", h=self.side, p=PATCH, q=PATCH)


class Block(nn.Module):
    """Patches look at each other, then at the caption's tokens, then each at itself."""

    def __init__(self) -> None:
        super().__init__()
        self.own, self.cross = Attention(), Attention()
        self.wide = nn.Sequential(
            nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH)
        )

    def forward(self, hidden: Tensor, words: Tensor, mask: Tensor) -> Tensor:
        """(B, P, D) of as much; pads, where the mask (B, S) is false, are seen by nobody."""
        hidden = hidden + self.own(hidden)
        hidden = hidden + self.cross(hidden, words, mask[:, None, None])
        return hidden + self.wide(hidden)


class Attention(nn.Module):
    """Attention of several heads, over the rows themselves or over others."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.query, self.both, self.out = (nn.Linear(WIDTH, size * WIDTH) for size in (1, 2, 1))

    def forward(self, hidden: Tensor, others: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """(B, P, D) of what each row of `hidden` reads."""
        rows = self.norm(hidden)
        query = rearrange(self.query(rows), "b p (h d) -> b h p d", h=HEADS)
        key, value = rearrange(
            self.both(rows if others is None else others), "b s (two h d) -> two b h s d", two=2, h=HEADS
        )
        return self.out(rearrange(F.scaled_dot_product_attention(query, key, value, mask), "b h p d -> b p (h d)"))


def _expand_time(time: Tensor) -> Tensor:
    """(B, D): sines and cosines of a time from 0 to 1, slow ones first."""
    speeds = torch.exp(torch.linspace(0, math.log(1000), WIDTH // 2, device=time.device))
    angles = time[:, None] * speeds
    return torch.cat([angles.sin(), angles.cos()], dim=1)
