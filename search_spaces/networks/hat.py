"""A plain encoder–decoder transformer from explicit settings of each layer: HAT's (Wang et al., ACL 2020).

Norms come behind what they norm (post-norm), positions are sinusoids, queries, keys and values have one width whatever
the number of heads, and a decoder layer may attend to the last encoder layers, not to the last one alone. Token 1 is
padding, as in fairseq's dictionaries. The modules are ordinary ones, none works in place, and nothing here depends on a
search space. Dropout, with which HAT trains, is left out.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from search_spaces.networks.attention import Device, attend, sinusoids
from search_spaces.networks.transformer_layout import DecoderLayer, EncoderLayer, TranslatorLayout

PAD = 1
"""The token that fills short sentences up."""


class Network(nn.Module):
    """Tokens of the source (n, s) and of the target so far (n, t), int64 → logits (n, t, target vocabulary).

    The logits at a place follow from the source and the target up to this place. Each source has a token that is no
    padding.
    """

    def __init__(self, layout: TranslatorLayout, device: Device = None) -> None:
        super().__init__()
        self.layout = layout
        width = layout.decoder_width
        self.source_embedding = nn.Embedding(layout.source_vocabulary, layout.table_width, PAD, device=device)
        self.target_embedding: nn.Embedding | None = None
        self.output: nn.Linear | None = None
        if not layout.shared:
            self.target_embedding = nn.Embedding(layout.target_vocabulary, width, PAD, device=device)
            self.output = nn.Linear(width, layout.target_vocabulary, bias=False, device=device)
        self.encoder = nn.ModuleList(Encoder(layout, layer, device) for layer in layout.encoder)
        self.decoder = nn.ModuleList(Decoder(layout, layer, device) for layer in layout.decoder)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        layout = self.layout
        keep = (source != PAD)[:, None, None, :]
        x = embedded(source, self.source_embedding, layout.encoder_width, layout.encoder_span)
        memory = []
        for layer in self.encoder:
            x = layer(x, keep)
            memory.append(x)
        table = self.source_embedding if self.target_embedding is None else self.target_embedding
        y = embedded(target, table, layout.decoder_width, layout.decoder_span)
        for layer in self.decoder:
            y = layer(y, memory, keep)
        weight = table.weight[:, : layout.decoder_width] if self.output is None else self.output.weight
        return F.linear(y, weight)


class Encoder(nn.Module):
    """(n, s, width) → the same shape."""

    def __init__(self, layout: TranslatorLayout, layer: EncoderLayer, device: Device = None) -> None:
        super().__init__()
        width = layout.encoder_width
        self.self_attn = SelfAttention(width, layout.inner, layer.heads, device)
        self.self_attn_layer_norm = nn.LayerNorm(width, device=device)
        self.fc1 = nn.Linear(width, layer.ffn, device=device)
        self.fc2 = nn.Linear(layer.ffn, width, device=device)
        self.final_layer_norm = nn.LayerNorm(width, device=device)

    def forward(self, x: Tensor, keep: Tensor) -> Tensor:
        x = self.self_attn_layer_norm(x + self.self_attn(x, keep=keep))
        return self.final_layer_norm(x + self.fc2(F.relu(self.fc1(x))))  # type: ignore[no-any-return]


class Decoder(nn.Module):
    """(n, t, width), with the outputs of all encoder layers (n, s, encoder width), → (n, t, width)."""

    def __init__(self, layout: TranslatorLayout, layer: DecoderLayer, device: Device = None) -> None:
        super().__init__()
        width = layout.decoder_width
        self.attends = layer.attends
        self.self_attn = SelfAttention(width, layout.inner, layer.self_heads, device)
        self.self_attn_layer_norm = nn.LayerNorm(width, device=device)
        self.encoder_attn = CrossAttention(layout, layer.cross_heads, device)
        self.encoder_attn_layer_norm = nn.LayerNorm(width, device=device)
        self.fc1 = nn.Linear(width, layer.ffn, device=device)
        self.fc2 = nn.Linear(layer.ffn, width, device=device)
        self.final_layer_norm = nn.LayerNorm(width, device=device)

    def forward(self, y: Tensor, memory: Sequence[Tensor], keep: Tensor) -> Tensor:
        y = self.self_attn_layer_norm(y + self.self_attn(y, causal=True))
        # Layers are read side by side, as one long source.
        read = torch.cat(list(memory[-self.attends :]), dim=1)
        y = self.encoder_attn_layer_norm(y + self.encoder_attn(y, read, keep.repeat(1, 1, 1, self.attends)))
        return self.final_layer_norm(y + self.fc2(F.relu(self.fc1(y))))  # type: ignore[no-any-return]


class SelfAttention(nn.Module):
    """Self-attention of ``inner`` channels, divided among the heads."""

    def __init__(self, width: int, inner: int, heads: int, device: Device = None) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj = nn.Linear(width, 3 * inner, device=device)
        self.out_proj = nn.Linear(inner, width, device=device)

    def forward(self, x: Tensor, *, keep: Tensor | None = None, causal: bool = False) -> Tensor:
        q, k, v = self.in_proj(x).chunk(3, dim=-1)
        return self.out_proj(attend(q, k, v, self.heads, keep=keep, causal=causal))  # type: ignore[no-any-return]


class CrossAttention(nn.Module):
    """Attention of the decoder to the encoder."""

    def __init__(self, layout: TranslatorLayout, heads: int, device: Device = None) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(layout.decoder_width, layout.inner, device=device)
        self.kv_proj = nn.Linear(layout.encoder_width, 2 * layout.inner, device=device)
        self.out_proj = nn.Linear(layout.inner, layout.decoder_width, device=device)

    def forward(self, y: Tensor, read: Tensor, keep: Tensor) -> Tensor:
        k, v = self.kv_proj(read).chunk(2, dim=-1)
        return self.out_proj(attend(self.q_proj(y), k, v, self.heads, keep=keep))  # type: ignore[no-any-return]


def embedded(tokens: Tensor, table: nn.Embedding, width: int, span: int) -> Tensor:
    """(n, t) → (n, t, width): embeddings scaled by √width, and positions, counted without padding."""
    there = tokens != PAD
    positions = there.cumsum(dim=1) + PAD
    x = table(tokens)[..., :width] * width**0.5
    marks = sinusoids(positions, span)[..., :width] * there[..., None]
    return x + marks.to(x.dtype)  # type: ignore[no-any-return]
