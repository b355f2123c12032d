"""What a mobile network consists of, layer by layer: plain values, and what they cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from search_spaces.costs import CostTables
from search_spaces.space import IntArray


@dataclass(frozen=True, slots=True)
class Block:
    """One mobile inverted bottleneck (Sandler et al., CVPR 2018), with squeeze-and-excitation if ``squeezed``.

    1×1 convolution to ``middle`` channels (left out where ``expands`` is False), depthwise ``kernel``×``kernel`` with
    ``stride``, 1×1 convolution to ``outputs`` channels; batch norm after each.
    """

    place: int
    """Position in the chain of full depth: which block of a super-network this is."""
    inputs: int
    middle: int
    outputs: int
    kernel: int
    stride: int
    squeezed: int
    """Channels of the squeeze-and-excitation bottleneck; 0 for none."""
    activation: str
    expands: bool = True
    shortcut: bool = True
    """Whether the input may be added to the output, where shapes allow."""
    groups: int = 1
    """Groups of the 1×1 convolutions; if there are several, channels are shuffled behind the first of them."""

    @property
    def residual(self) -> bool:
        """Whether the input is added to the output."""
        return self.shortcut and self.stride == 1 and self.inputs == self.outputs

    @property
    def params(self) -> int:
        """Weights and biases, those of batch norm included."""
        count = self._weights_behind + 2 * self.middle + 2 * self.outputs
        if self.expands:
            count += self.inputs * self.middle // self.groups + 2 * self.middle
        if self.squeezed:
            count += 2 * self.middle * self.squeezed + self.squeezed + self.middle
        return count

    def macs(self, sides: IntArray) -> IntArray:
        """(n,) multiply-accumulates of the convolutions, for square inputs of these sides in pixels, (n,)."""
        after = -(-sides // self.stride)
        count = after**2 * self._weights_behind
        if self.expands:
            count = count + sides**2 * (self.inputs * self.middle // self.groups)
        return count + 2 * self.middle * self.squeezed

    @property
    def _weights_behind(self) -> int:
        """Of the depthwise convolution and of the one behind it."""
        return self.middle * self.kernel**2 + self.middle * self.outputs // self.groups


@dataclass(frozen=True, slots=True)
class Skip:
    """A layer that is left out; where the shape changes, a 1×1 convolution with batch norm does that."""

    inputs: int
    outputs: int
    stride: int
    activation: str = ""
    """Behind the batch norm; none if empty."""

    @property
    def convolves(self) -> bool:
        """Whether the shape changes."""
        return self.stride > 1 or self.inputs != self.outputs

    @property
    def params(self) -> int:
        """Weights and biases, those of batch norm included."""
        return self.inputs * self.outputs + 2 * self.outputs if self.convolves else 0

    def macs(self, sides: IntArray) -> IntArray:
        """(n,) multiply-accumulates, for square inputs of these sides in pixels, (n,)."""
        return (-(-sides // self.stride)) ** 2 * (self.inputs * self.outputs * self.convolves)


@dataclass(frozen=True, slots=True)
class Layout:
    """A whole network: stem, blocks, wide 1×1 convolutions around the global average pool, classifier."""

    in_channels: int
    resolution: int
    stem: int
    """Channels of the first convolution, 3×3."""
    stem_stride: int
    blocks: tuple[Block, ...]
    final: int
    """Channels of the 1×1 convolution before the pool, which batch norm follows."""
    features: int
    """Channels of the 1×1 convolution behind the pool; 0 where there is none."""
    classes: int


def divisible(value: float, divisor: int = 8) -> int:
    """The multiple of ``divisor`` nearest to ``value``, at least ``divisor`` and at least 90 % of ``value``.

    How the MobileNet family rounds channels (Sandler et al., CVPR 2018; Howard et al., ICCV 2019).
    """
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


def chain_costs(full: Layout, resolutions: Sequence[int], variants: Sequence[Sequence[Block]]) -> CostTables:
    """The costs of networks that differ from ``full``, the chain of full depth, in their resolution and blocks.

    ``variants[place][setting]`` are the blocks that may stand at each place behind the first block of ``full``. The
    setting after the last is that of a place that is left empty.
    """
    first, last = full.blocks[0], full.blocks[-1]
    stem, final, mix = full.in_channels * 9 * full.stem, last.outputs * full.final, full.final * full.features
    read = full.features or full.final
    fixed_params = stem + 2 * full.stem + first.params + final + 2 * full.final + mix + (read + 1) * full.classes
    # A stride of s turns side n into ceil(n / s): kernels are odd and padded by half their size.
    sides = -(-np.array(resolutions, dtype=np.int64) // full.stem_stride)
    fixed_macs = sides**2 * stem + first.macs(sides)
    places = []
    for blocks in variants:
        places.append((blocks, sides))
        sides = -(-sides // blocks[0].stride)
    return CostTables(places, fixed_params, fixed_macs + sides**2 * final + mix + read * full.classes)
