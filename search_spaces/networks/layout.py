"""What a mobile network consists of, layer by layer: plain values, read by the builders and by the cost model."""

from __future__ import annotations

from dataclasses import dataclass

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
