"""What a residual network consists of, layer by layer: plain values, and what they cost."""

from __future__ import annotations

from dataclasses import dataclass

from search_spaces.space import IntArray


@dataclass(frozen=True, slots=True)
class Conv:
    """A square convolution without bias, padded by half its size, and batch norm behind it."""

    inputs: int
    outputs: int
    kernel: int = 1
    stride: int = 1

    @property
    def params(self) -> int:
        """Weights and biases, those of batch norm included."""
        return self.inputs * self.outputs * self.kernel**2 + 2 * self.outputs

    def macs(self, sides: IntArray) -> IntArray:
        """(n,) multiply-accumulates for square inputs of these sides in pixels, (n,)."""
        return (-(-sides // self.stride)) ** 2 * (self.inputs * self.outputs * self.kernel**2)


@dataclass(frozen=True, slots=True)
class Bottleneck:
    """Three convolutions, 1×1, 3×3 with ``stride``, 1×1, whose input is added (He et al., CVPR 2016).

    Where it ``projects``, the input goes through an average pool and a 1×1 convolution (He et al., CVPR 2019, model D).
    """

    place: int
    """Position in the chain of full depth: which block of a super-network this is."""
    inputs: int
    middle: int
    outputs: int
    stride: int
    projects: bool

    @property
    def convs(self) -> tuple[Conv, ...]:
        """The three convolutions, then that of the projection, which reads pooled images, where there is one."""
        three = (
            Conv(self.inputs, self.middle),
            Conv(self.middle, self.middle, 3, self.stride),
            Conv(self.middle, self.outputs),
        )
        return (*three, Conv(self.inputs, self.outputs)) if self.projects else three

    @property
    def params(self) -> int:
        """Weights and biases, those of batch norm included."""
        return sum(conv.params for conv in self.convs)

    def macs(self, sides: IntArray) -> IntArray:
        """(n,) multiply-accumulates of the convolutions, for square inputs of these sides in pixels, (n,)."""
        first, second, *others = self.convs
        after = -(-sides // self.stride)
        return first.macs(sides) + second.macs(sides) + sum(conv.macs(after) for conv in others)


@dataclass(frozen=True, slots=True)
class Stem:
    """Two 3×3 convolutions, the first with ``stride``; if ``residual``, one between them that adds its input."""

    in_channels: int
    middle: int
    outputs: int
    stride: int
    residual: bool

    @property
    def convs(self) -> tuple[Conv, ...]:
        """The two or three convolutions."""
        between = (Conv(self.middle, self.middle, 3),) if self.residual else ()
        return Conv(self.in_channels, self.middle, 3, self.stride), *between, Conv(self.middle, self.outputs, 3)

    @property
    def params(self) -> int:
        """Weights and biases, those of batch norm included."""
        return sum(conv.params for conv in self.convs)

    def macs(self, sides: IntArray) -> IntArray:
        """(n,) multiply-accumulates of the convolutions, for square inputs of these sides in pixels, (n,)."""
        first, *others = self.convs
        after = -(-sides // self.stride)
        return first.macs(sides) + sum(conv.macs(after) for conv in others)


@dataclass(frozen=True, slots=True)
class Classifier:
    """A linear layer of the averages over all pixels."""

    inputs: int
    classes: int

    @property
    def params(self) -> int:
        """Weights and biases."""
        return (self.inputs + 1) * self.classes

    def macs(self, sides: IntArray) -> IntArray:
        """(n,) multiply-accumulates, the same for all sides in pixels, (n,)."""
        return 0 * sides + self.inputs * self.classes


@dataclass(frozen=True, slots=True)
class Layout:
    """A whole network: stem, max pool, blocks, average pool, classifier."""

    resolution: int
    stem: Stem
    pool_stride: int
    blocks: tuple[Bottleneck, ...]
    classifier: Classifier
