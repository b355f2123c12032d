"""What transformers consist of, block by block: plain values, and what they cost.

Costs are pairs (parameters, multiply-accumulates): of linear layers, convolutions and the products of activations that
attention consists of, for one input.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class VisionBlock:
    """Attention with ``heads`` heads, then two linear layers with ``hidden`` channels between them."""

    heads: int
    hidden: int


@dataclass(frozen=True, slots=True)
class VisionLayout:
    """A vision transformer (Dosovitskiy et al., ICLR 2021) with the options of AutoFormer (Chen et al., ICCV 2021).

    ``relative`` is the largest distance, in patches, that relative positions tell apart; 0 is for none. ``pool`` is
    "mean", over the patches, or "class", the class token.
    """

    side: int
    patch: int
    in_channels: int
    classes: int
    width: int
    head_dim: int
    relative: int
    pool: str
    blocks: tuple[VisionBlock, ...]

    @property
    def grid(self) -> int:
        """Patches along a side."""
        return self.side // self.patch

    @property
    def tokens(self) -> int:
        """Patches and the class token."""
        return self.grid**2 + 1

    def fixed_cost(self) -> tuple[int, int]:
        """Of all but the blocks: patches, tokens, positions, the last norm, the classifier."""
        patches = self.in_channels * self.patch**2 * self.width
        params = patches + self.width + self.width + self.tokens * self.width + 2 * self.width
        params += (self.width + 1) * self.classes
        return params, (self.tokens - 1) * patches + self.width * self.classes

    def block_cost(self, block: VisionBlock) -> tuple[int, int]:
        """Of one block of this width."""
        inner, tokens = block.heads * self.head_dim, self.tokens
        weights = 4 * inner * self.width + 2 * block.hidden * self.width
        biases = 3 * inner + 2 * self.width + block.hidden
        params = weights + biases + 4 * self.width
        products = 2 * tokens**2 * inner
        if self.relative:
            # For keys and for values, a table for rows and one for columns, each with an entry for the class token.
            params += 4 * (2 * self.relative + 2) * self.head_dim
            products *= 2
        return params, tokens * weights + products


@dataclass(frozen=True, slots=True)
class EncoderLayer:
    """Self-attention with ``heads`` heads, then two linear layers with ``ffn`` channels between them."""

    ffn: int
    heads: int


@dataclass(frozen=True, slots=True)
class DecoderLayer:
    """Self-attention, attention to the outputs of the last ``attends`` encoder layers, two linear layers."""

    ffn: int
    self_heads: int
    cross_heads: int
    attends: int


@dataclass(frozen=True, slots=True)
class TranslatorLayout:
    """An encoder–decoder transformer (Vaswani et al., NeurIPS 2017) as HAT varies it (Wang et al., ACL 2020).

    ``inner`` is the width of queries, keys and values, all heads together. ``encoder_span`` and ``decoder_span`` are
    the widths that the positions' sinusoids are made for, of which the first are used. With ``shared``, source,
    target and output have one table of embeddings.
    """

    source_vocabulary: int
    target_vocabulary: int
    shared: bool
    inner: int
    encoder_width: int
    decoder_width: int
    encoder_span: int
    decoder_span: int
    encoder: tuple[EncoderLayer, ...]
    decoder: tuple[DecoderLayer, ...]

    @property
    def table_width(self) -> int:
        """Of the table that the source reads: as wide as the wider side where it is shared."""
        return max(self.encoder_width, self.decoder_width) if self.shared else self.encoder_width

    def fixed_cost(self, target: int) -> tuple[int, int]:
        """Of embeddings and output, for a target of so many tokens."""
        params = self.source_vocabulary * self.table_width
        if not self.shared:
            params += 2 * self.target_vocabulary * self.decoder_width
        return params, target * self.decoder_width * self.target_vocabulary

    def encoder_cost(self, layer: EncoderLayer, source: int) -> tuple[int, int]:
        """Of one layer of this width, for a source of so many tokens."""
        width, inner = self.encoder_width, self.inner
        weights = 4 * width * inner + 2 * width * layer.ffn
        params = weights + 3 * inner + width + layer.ffn + width + 2 * 2 * width
        return params, source * weights + 2 * source**2 * inner

    def decoder_cost(self, layer: DecoderLayer, source: int, target: int) -> tuple[int, int]:
        """Of one layer of this width, for a source and a target of so many tokens."""
        width, inner, read = self.decoder_width, self.inner, layer.attends * source
        of_target = 6 * width * inner + 2 * width * layer.ffn
        of_source = 2 * self.encoder_width * inner
        params = of_target + of_source + 2 * (3 * inner + width) + layer.ffn + width + 3 * 2 * width
        products = 2 * target**2 * inner + 2 * target * read * inner
        return params, target * of_target + read * of_source + products
