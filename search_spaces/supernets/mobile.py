"""Elastic chains of inverted bottlenecks, under the names of Once-for-All's super-networks (Cai et al., ICLR 2020)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from search_spaces.networks.layers import Device
from search_spaces.networks.layout import Block
from search_spaces.networks.mobile import Residual
from search_spaces.supernets.elastic import ConvLayer, DepthLayer, Weights, prefixed


class ElasticChain(nn.ModuleList):
    """All blocks at their widest, the first one fixed; a sub-network uses some, and of each a part."""

    def __init__(self, blocks: Sequence[Block], kernels: list[int], device: Device = None) -> None:
        first, *rest = blocks
        super().__init__([Residual(first, device), *(ElasticBlock(block, kernels, device) for block in rest)])

    def weights(self, blocks: Sequence[Block]) -> Weights:
        """Of a chain of these blocks alone, under ``INDEX.``."""
        weights: Weights = {}
        for index, block in enumerate(blocks):
            part = self[block.place]
            held = part.weights(block) if isinstance(part, ElasticBlock) else part.state_dict()
            weights |= prefixed(f"{index}.", held)
        return weights

    def forward(self, x: Tensor, blocks: Sequence[Block]) -> Tensor:
        for block in blocks:
            part = self[block.place]
            x = part(x, block) if isinstance(part, ElasticBlock) else part(x)
        return x


class ElasticBlock(nn.Module):
    """A mobile inverted bottleneck of which each sub-network uses a part."""

    def __init__(self, block: Block, kernels: list[int], device: Device = None) -> None:
        super().__init__()
        self.conv = ElasticBottleneck(block, kernels, device)
        self.residual = block.residual

    def weights(self, block: Block) -> Weights:
        """Under the names of `search_spaces.networks.mobile.Residual`."""
        conv = self.conv
        expand = prefixed("conv.inverted_bottleneck.", conv.inverted_bottleneck.weights(block.inputs, block.middle))
        depth = prefixed("conv.depth_conv.", conv.depth_conv.weights(block.middle, block.kernel))
        project = prefixed("conv.point_linear.", conv.point_linear.weights(block.middle, block.outputs))
        return expand | depth | project

    def forward(self, x: Tensor, block: Block) -> Tensor:
        y: Tensor = self.conv(x, block)
        return x + y if self.residual else y


class ElasticBottleneck(nn.Module):
    """Elastic expansion, depthwise convolution, projection."""

    def __init__(self, block: Block, kernels: list[int], device: Device = None) -> None:
        super().__init__()
        self.inverted_bottleneck = ConvLayer(block.inputs, block.middle, activation=block.activation, device=device)
        self.depth_conv = DepthLayer(
            block.middle, kernels, block.stride, block.activation, bool(block.squeezed), device
        )
        self.point_linear = ConvLayer(block.middle, block.outputs, device=device)

    def forward(self, x: Tensor, block: Block) -> Tensor:
        x = self.inverted_bottleneck(x, block.middle)
        x = self.depth_conv(x, block.kernel)
        return self.point_linear(x, block.outputs)  # type: ignore[no-any-return]
