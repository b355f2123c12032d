"""The blocks of mobile networks: inverted bottlenecks (Sandler et al., CVPR 2018), under Once-for-All's names."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from search_spaces.networks.layers import Device, conv_layer
from search_spaces.networks.layout import Block


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
    """Expansion, depthwise convolution with optional squeeze-and-excitation, projection; shuffled if in groups."""

    def __init__(self, block: Block, device: Device = None) -> None:
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        if block.expands:
            layers["inverted_bottleneck"] = conv_layer(
                block.inputs, block.middle, groups=block.groups, activation=block.activation, device=device
            )
        if block.groups > 1:
            layers["shuffle"] = Shuffle(block.groups)
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
        layers["point_linear"] = conv_layer(block.middle, block.outputs, groups=block.groups, device=device)
        super().__init__(layers)


class Shuffle(nn.Module):
    """Channels in another order: the first of each group, then the second of each (Zhang et al., CVPR 2018)."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self._groups = groups

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], self._groups, -1, *x.shape[2:]).transpose(1, 2).flatten(1, 2)


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
