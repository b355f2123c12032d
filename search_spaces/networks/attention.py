"""Attention and positions: what transformers share."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from search_spaces.networks.initialise import SelfInitialised

Device = torch.device | str | None


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, *, keep: Tensor | None = None, causal: bool = False) -> Tensor:
    """Scaled dot-product attention: queries (n, t, c), keys and values (n, s, c) → (n, t, c).

    Head h works on channels h·c/heads to (h+1)·c/heads. ``keep`` (n, 1, 1, s), True where keys may be read;
    ``causal``: no query reads a key behind its own place.
    """
    q, k, v = (_by_head(each, heads) for each in (q, k, v))
    return _joined(F.scaled_dot_product_attention(q, k, v, attn_mask=keep, is_causal=causal))


def attend_relative(q: Tensor, k: Tensor, v: Tensor, heads: int, key_rows: Tensor, value_rows: Tensor) -> Tensor:
    """Self-attention in which keys and values have a part that depends on where they lie, seen from the query.

    As `attend`, with ``key_rows`` and ``value_rows`` (t, t, c/heads), the same for all heads, added to the keys and
    the values of each pair of places (Shaw et al., NAACL 2018).
    """
    q, k, v = (_by_head(each, heads) for each in (q, k, v))
    scores = q @ k.transpose(-2, -1) + torch.einsum("nhtc,tsc->nhts", q, key_rows)
    weights = (scores * q.shape[-1] ** -0.5).softmax(dim=-1)
    return _joined(weights @ v + torch.einsum("nhts,tsc->nhtc", weights, value_rows))


class RelativePositions(SelfInitialised):
    """A vector for each pair of tokens of a square grid of patches behind a class token (Chen et al., ICCV 2021).

    The sum of a vector of the distance in rows and one of the distance in columns, both cut off at ``most`` patches.
    Pairs with the class token in them have an entry of their own, the first of both tables. Zero at first.
    """

    def __init__(self, most: int, channels: int, device: Device = None) -> None:
        super().__init__()
        self.most = most
        self.embeddings_table_v = nn.Parameter(torch.zeros(2 * most + 2, channels, device=device))
        self.embeddings_table_h = nn.Parameter(torch.zeros(2 * most + 2, channels, device=device))

    def initialise(self) -> None:
        for table in self.parameters(recurse=False):
            nn.init.zeros_(table)

    def forward(self, grid: int) -> Tensor:
        """(1 + grid², 1 + grid², channels): [query, key]."""
        places = torch.arange(grid**2, device=self.embeddings_table_v.device)
        return (
            self.embeddings_table_v[self._entries(places // grid)]
            + self.embeddings_table_h[self._entries(places % grid)]
        )

    def _entries(self, places: Tensor) -> Tensor:
        distance = places[None, :] - places[:, None]
        return F.pad(distance.clamp(-self.most, self.most) + self.most + 1, (1, 0, 1, 0))


def sinusoids(positions: Tensor, channels: int) -> Tensor:
    """Positions (...) → (..., channels): sines of falling frequency, then cosines (Vaswani et al., NeurIPS 2017).

    The frequencies fall from 1 to 1/10000; an odd last channel is 0. Needs at least 4 channels.
    """
    half = channels // 2
    steps = torch.arange(half, dtype=torch.float32, device=positions.device)
    angles = positions[..., None] * torch.exp(steps * (-math.log(10_000) / (half - 1)))
    return F.pad(torch.cat([angles.sin(), angles.cos()], dim=-1), (0, channels % 2))


def _by_head(x: Tensor, heads: int) -> Tensor:
    """(n, t, c) → (n, heads, t, c/heads)"""
    n, count, channels = x.shape
    return x.view(n, count, heads, channels // heads).transpose(1, 2)


def _joined(x: Tensor) -> Tensor:
    """The inverse of `_by_head`."""
    return x.transpose(1, 2).flatten(2)
