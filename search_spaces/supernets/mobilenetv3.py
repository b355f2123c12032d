"""The Once-for-All MobileNetV3 super-network (Cai et al., ICLR 2020).

Its state dict has the published names: a released checkpoint loads with `load_state_dict`, also one from before the
rename of ``mobile_inverted_conv`` to ``conv``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from search_spaces.mobilenetv3 import MobileNetV3
from search_spaces.networks.layout import Block
from search_spaces.networks.mobilenetv3 import Device, Network, Residual, conv_layer, head
from search_spaces.space import Genes
from search_spaces.supernets.elastic import DepthLayer, PointLayer, Weights, prefixed
from search_spaces.supernets.supernet import Supernet


class MobileNetV3Supernet(Supernet):
    """All blocks at their widest; a row uses the first channels, the centres of the kernels, the first blocks."""

    def __init__(self, space: MobileNetV3, device: Device = None) -> None:
        super().__init__()
        self.space: MobileNetV3 = space
        full = space.full
        first, *rest = full.blocks
        self.first_conv = conv_layer(
            full.in_channels, full.stem, kernel=3, stride=full.stem_stride, activation="h_swish", device=device
        )
        kernels = space.options["kernels"]
        self.blocks = nn.ModuleList([Residual(first, device), *(ElasticBlock(b, kernels, device) for b in rest)])
        self.final_expand_layer, self.feature_mix_layer, self.classifier = head(full, device)
        self.register_load_state_dict_pre_hook(_accept_old_names)  # type: ignore[no-untyped-call]

    def forward(self, images: Tensor, row: Genes) -> Tensor:
        first, *rest = self.space.layout(row).blocks
        x = self.blocks[first.place](self.first_conv(images))
        for block in rest:
            x = self.blocks[block.place](x, block)
        x = self.final_expand_layer(x).mean((2, 3), keepdim=True)
        return self.classifier(self.feature_mix_layer(x).flatten(1))  # type: ignore[no-any-return]

    @torch.no_grad()
    def extract(self, row: Genes) -> Network:
        layout = self.space.layout(row)
        weights: Weights = {}
        for index, block in enumerate(layout.blocks):
            part = self.blocks[block.place]
            held = part.weights(block) if isinstance(part, ElasticBlock) else part.state_dict()
            weights |= prefixed(f"blocks.{index}.", held)
        for name in ("first_conv", "final_expand_layer", "feature_mix_layer", "classifier"):
            weights |= prefixed(f"{name}.", self.get_submodule(name).state_dict())
        network = Network(layout, device="meta")
        network.load_state_dict({name: value.detach().clone() for name, value in weights.items()}, assign=True)
        return network.eval()


class ElasticBlock(nn.Module):
    """A mobile inverted bottleneck of which each sub-network uses a part."""

    def __init__(self, block: Block, kernels: list[int], device: Device = None) -> None:
        super().__init__()
        self.conv = ElasticBottleneck(block, kernels, device)
        self.residual = block.residual

    def weights(self, block: Block) -> Weights:
        """Under the names of `search_spaces.networks.mobilenetv3.Residual`."""
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
        self.inverted_bottleneck = PointLayer(block.inputs, block.middle, block.activation, device)
        self.depth_conv = DepthLayer(
            block.middle, kernels, block.stride, block.activation, bool(block.squeezed), device
        )
        self.point_linear = PointLayer(block.middle, block.outputs, device=device)

    def forward(self, x: Tensor, block: Block) -> Tensor:
        x = self.inverted_bottleneck(x, block.middle)
        x = self.depth_conv(x, block.kernel)
        return self.point_linear(x, block.outputs)  # type: ignore[no-any-return]


def _accept_old_names(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    for name in [name for name in state if ".mobile_inverted_conv." in name]:
        state[name.replace(".mobile_inverted_conv.", ".conv.")] = state.pop(name)
