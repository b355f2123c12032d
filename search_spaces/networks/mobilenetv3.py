"""A plain MobileNetV3 (Howard et al., ICCV 2019) from explicit settings of each layer.

Parameters have the names that Once-for-All (Cai et al., ICLR 2020) publishes its specialised networks under. The
modules are ordinary ones, none works in place, and nothing here depends on a search space: a network and its state
dict are all that is needed to use it.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from search_spaces.networks.layout import Block, Layout

Device = torch.device | str | None


class Network(nn.Module):
    """Images (n, channels, height, width) → logits (n, classes)."""

    def __init__(self, layout: Layout, device: Device = None) -> None:
        super().__init__()
        self.first_conv = conv_layer(
            layout.in_channels, layout.stem, kernel=3, stride=layout.stem_stride, activation="h_swish", device=device
        )
        self.blocks = nn.Sequential(*(Residual(block, device) for block in layout.blocks))
        self.final_expand_layer, self.feature_mix_layer, self.classifier = head(layout, device)
        self.pool = nn.AdaptiveAvgPool2d(1)

    def forward(self, images: Tensor) -> Tensor:
        features = self.final_expand_layer(self.blocks(self.first_conv(images)))
        features = self.feature_mix_layer(self.pool(features))
        return self.classifier(features.flatten(1))  # type: ignore[no-any-return]


class Residual(nn.Module):
    """A mobile inverted bottleneck, its input added where shapes allow."""

    def __init__(self, block: Block, device: Device = None) -> None:
        super().__init__()
        self.conv = Bottleneck(block, device)
        self.residual = block.residual

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return x + y if self.residual else y


class Bottleneck(nn.Sequential):
    """Expansion, depthwise convolution with optional squeeze-and-excitation, projection."""

    def __init__(self, block: Block, device: Device = None) -> None:
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        if block.expands:
            layers["inverted_bottleneck"] = conv_layer(
                block.inputs, block.middle, activation=block.activation, device=device
            )
        layers["depth_conv"] = conv_layer(
            block.middle,
            block.middle,
            kernel=block.kernel,
            stride=block.stride,
            groups=block.middle,
            activation=block.activation,
            device=device,
        )
        if block.squeezed:
            layers["depth_conv"].add_module("se", Squeeze(block.middle, block.squeezed, device))
        layers["point_linear"] = conv_layer(block.middle, block.outputs, device=device)
        super().__init__(layers)


class Squeeze(nn.Module):
    """Squeeze-and-excitation with a hard sigmoid (Hu et al., CVPR 2018; Howard et al., ICCV 2019)."""

    def __init__(self, channels: int, squeezed: int, device: Device = None) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Sequential(
            OrderedDict(
                reduce=nn.Conv2d(channels, squeezed, 1, device=device),
                relu=nn.ReLU(),
                expand=nn.Conv2d(squeezed, channels, 1, device=device),
                h_sigmoid=nn.Hardsigmoid(),
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        gate: Tensor = self.fc(self.pool(x))
        return x * gate


def conv_layer(
    inputs: int,
    outputs: int,
    *,
    kernel: int = 1,
    stride: int = 1,
    groups: int = 1,
    norm: bool = True,
    activation: str = "",
    device: Device = None,
) -> nn.Sequential:
    """``conv`` without bias, then ``bn`` if ``norm``, then ``act`` if an activation is named."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["conv"] = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False, device=device)
    if norm:
        layers["bn"] = nn.BatchNorm2d(outputs, device=device)
    if activation:
        layers["act"] = act(activation)
    return nn.Sequential(layers)


def head(layout: Layout, device: Device = None) -> tuple[nn.Sequential, nn.Sequential, nn.Sequential]:
    """The layers before the global average pool, behind it, and the classifier."""
    final = conv_layer(layout.blocks[-1].outputs, layout.final, activation="h_swish", device=device)
    mix = conv_layer(layout.final, layout.features, norm=False, activation="h_swish", device=device)
    linear = nn.Linear(layout.features, layout.classes, device=device)
    return final, mix, nn.Sequential(OrderedDict(linear=linear))


def act(name: str) -> nn.Module:
    """``relu`` or ``h_swish``, x·relu6(x + 3)/6."""
    return {"relu": nn.ReLU, "h_swish": nn.Hardswish}[name]()
