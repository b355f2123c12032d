"""What a mobile network consists of, layer by layer: plain values, and what they cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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

    @property
    def residual(self) -> bool:
        """Whether the input is added to the output."""
        return self.stride == 1 and self.inputs == self.outputs

    @property
    def params(self) -> int:
        """Weights and biases, those of batch norm included."""
        count = self.middle * self.kernel**2 + self.middle * self.outputs + 2 * self.middle + 2 * self.outputs
        if self.expands:
            count += self.inputs * self.middle + 2 * self.middle
        if self.squeezed:
            count += 2 * self.middle * self.squeezed + self.squeezed + self.middle
        return count

    def macs(self, sides: IntArray) -> IntArray:
        """(n,) multiply-accumulates of the convolutions, for square inputs of these sides in pixels, (n,)."""
        after = -(-sides // self.stride)
        count = after**2 * (self.middle * self.kernel**2 + self.middle * self.outputs)
        if self.expands:
            count = count + sides**2 * (self.inputs * self.middle)
        return count + 2 * self.middle * self.squeezed


@dataclass(frozen=True, slots=True)
class Layout:
    """A whole network: stem, blocks, two wide 1×1 convolutions around the global average pool, classifier."""

    in_channels: int
    resolution: int
    stem: int
    stem_stride: int
    blocks: tuple[Block, ...]
    final: int
    features: int
    classes: int


def divisible(value: float, divisor: int = 8) -> int:
    """The multiple of ``divisor`` nearest to ``value``, at least ``divisor`` and at least 90 % of ``value``.

    How the MobileNet family rounds channels (Sandler et al., CVPR 2018; Howard et al., ICCV 2019).
    """
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


class CostTables:
    """Parameters and MACs of every block at every setting, looked up and summed.

    ``variants[place][setting]`` are the blocks that may stand at each place of ``full``, the chain of full depth.
    """

    def __init__(self, full: Layout, resolutions: Sequence[int], variants: Sequence[Sequence[Block]]) -> None:
        self.absent = len(variants[0])
        """The setting of a place that is left empty: it costs nothing."""
        params = np.zeros((len(variants), self.absent + 1), dtype=np.int64)
        macs = np.zeros((len(resolutions), *params.shape), dtype=np.int64)
        first, last = full.blocks[0], full.blocks[-1]
        stem, final, mix = full.in_channels * 9 * full.stem, last.outputs * full.final, full.final * full.features
        self._params_fixed = stem + 2 * full.stem + first.params + final + 2 * full.final + mix
        self._params_fixed += (full.features + 1) * full.classes
        # A stride of s turns side n into ceil(n / s): kernels are odd and padded by half their size.
        sides = -(-np.array(resolutions, dtype=np.int64) // full.stem_stride)
        self._macs_fixed = sides**2 * stem + first.macs(sides)
        for place, blocks in enumerate(variants):
            for setting, block in enumerate(blocks):
                params[place, setting] = block.params
                macs[:, place, setting] = block.macs(sides)
            sides = -(-sides // blocks[0].stride)
        self._macs_fixed += sides**2 * final + mix + full.features * full.classes
        self._params, self._macs = params.ravel(), macs.ravel()
        self._places = (np.arange(len(variants)) * (self.absent + 1)).astype(np.int32)

    def look_up(self, resolutions: NDArray[np.integer], settings: NDArray[np.int32]) -> tuple[IntArray, IntArray]:
        """Parameters and MACs, (n,) each, for indices of resolutions (n,) and a setting per place (n, places)."""
        index = settings + self._places
        params = self._params_fixed + self._params.take(index).sum(axis=1)
        index += resolutions.astype(np.int32)[:, None] * np.int32(len(self._params))
        return params, self._macs_fixed[resolutions] + self._macs.take(index).sum(axis=1)
