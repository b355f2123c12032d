"""A plain vision transformer from explicit settings of each block: AutoFormer's (Chen et al., ICCV 2021).

Norms come before what they norm (pre-norm), queries, keys and values have a fixed width per head, and the classifier
reads the mean of the patches or the class token. Parameters have the names of AutoFormer's published checkpoints, but
for the class token and the positions, which lie in ``tokens``. The modules are ordinary ones, none works in place, and
nothing here depends on a search space. Dropout and stochastic depth, with which AutoFormer trains, are left out.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from search_spaces.networks.attention import Device, RelativePositions, attend, attend_relative, sinusoids
from search_spaces.networks.initialise import SelfInitialised
from search_spaces.networks.transformer_layout import VisionBlock, VisionLayout

_SPREAD = 0.02
"""Root mean square of positions at first."""


class Network(nn.Module):
    """Images (n, channels, side, side) → logits (n, classes)."""

    def __init__(self, layout: VisionLayout, device: Device = None) -> None:
        super().__init__()
        width = layout.width
        patches = nn.Conv2d(layout.in_channels, width, layout.patch, layout.patch, device=device)
        self.patch_embed_super = nn.Sequential(OrderedDict(proj=patches))
        self.tokens = Tokens(layout.tokens, width, device)
        self.blocks = nn.ModuleList(Block(layout, block, device) for block in layout.blocks)
        self.norm = nn.LayerNorm(width, device=device)
        self.head = nn.Linear(width, layout.classes, device=device)
        self._mean = layout.pool == "mean"

    def forward(self, images: Tensor) -> Tensor:
        x = self.tokens(self.patch_embed_super(images).flatten(2).transpose(1, 2))
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return self.head(x[:, 1:].mean(dim=1) if self._mean else x[:, 0])  # type: ignore[no-any-return]


class Tokens(SelfInitialised):
    """Puts the class token before the patches and adds the positions, both learnt.

    At first the class token is 0 and positions are faint sinusoids.
    """

    def __init__(self, count: int, width: int, device: Device = None) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.empty(1, 1, width, device=device))
        self.pos_embed = nn.Parameter(torch.empty(1, count, width, device=device))

    def initialise(self) -> None:
        nn.init.zeros_(self.cls_token)
        places = torch.arange(self.pos_embed.shape[1], device=self.pos_embed.device)
        self.pos_embed.copy_(sinusoids(places, self.pos_embed.shape[2]) * (2**0.5 * _SPREAD))

    def forward(self, patches: Tensor) -> Tensor:
        return torch.cat([self.cls_token.expand(patches.shape[0], -1, -1), patches], dim=1) + self.pos_embed


class Block(nn.Module):
    """Attention, then two linear layers with a GELU between them; both add to their input."""

    def __init__(self, layout: VisionLayout, block: VisionBlock, device: Device = None) -> None:
        super().__init__()
        width = layout.width
        self.attn_layer_norm = nn.LayerNorm(width, device=device)
        self.attn = Attention(layout, block.heads, device)
        self.ffn_layer_norm = nn.LayerNorm(width, device=device)
        self.fc1 = nn.Linear(width, block.hidden, device=device)
        self.fc2 = nn.Linear(block.hidden, width, device=device)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.attn_layer_norm(x))
        return x + self.fc2(F.gelu(self.fc1(self.ffn_layer_norm(x))))  # type: ignore[no-any-return]


class Attention(nn.Module):
    """Self-attention with a fixed width per head, with relative positions where the layout has them."""

    def __init__(self, layout: VisionLayout, heads: int, device: Device = None) -> None:
        super().__init__()
        inner = heads * layout.head_dim
        self.heads, self.grid = heads, layout.grid
        self.qkv = nn.Linear(layout.width, 3 * inner, device=device)
        self.proj = nn.Linear(inner, layout.width, device=device)
        self.rel_pos_embed_k: RelativePositions | None = None
        self.rel_pos_embed_v: RelativePositions | None = None
        if layout.relative:
            self.rel_pos_embed_k = RelativePositions(layout.relative, layout.head_dim, device)
            self.rel_pos_embed_v = RelativePositions(layout.relative, layout.head_dim, device)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        if self.rel_pos_embed_k is None or self.rel_pos_embed_v is None:
            y = attend(q, k, v, self.heads)
        else:
            y = attend_relative(q, k, v, self.heads, self.rel_pos_embed_k(self.grid), self.rel_pos_embed_v(self.grid))
        return self.proj(y)  # type: ignore[no-any-return]
