"""DARTS' networks (Liu et al., ICLR 2019) from the operations of a normal and a reduction cell.

Parameters have the names of the published networks; the operations of a cell are numbered in the order in which they
are given. The modules are ordinary ones, none works in place, and nothing here depends on a search space.

Left out is what only helps training: dropped paths and the auxiliary head. As in the published networks that are
evaluated, batch norms have a scale and an offset, and poolings none behind them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

Device = torch.device | str | None
Edge = tuple[str, int]
"""An operation's name and the node that it reads; 0 and 1 are the cell's inputs."""


class Network(nn.Module):
    """Images (n, channels, side, side) → logits (n, classes).

    ``normal``, ``reduce``: the edges of the cells, two for each node in turn. ``stem`` "cifar": one convolution to
    three times the ``channels``; the side is a multiple of 4. "imagenet": three of stride 2, the first cell reads the
    outputs of the last two; the side is a multiple of 32 and the channels are even. After a third and two thirds of the
    ``layers`` stands a reduction cell with twice the channels.
    """

    def __init__(
        self,
        normal: Sequence[Edge],
        reduce: Sequence[Edge],
        *,
        in_channels: int = 3,
        classes: int = 10,
        channels: int = 32,
        layers: int = 8,
        stem: str = "cifar",
        device: Device = None,
    ) -> None:
        super().__init__()
        self._two_stems = stem == "imagenet"
        if self._two_stems:
            half = channels // 2
            self.stem0 = nn.Sequential(
                *_conv_norm(in_channels, half, 3, 2, device), nn.ReLU(), *_conv_norm(half, channels, 3, 2, device)
            )
            self.stem1 = nn.Sequential(nn.ReLU(), *_conv_norm(channels, channels, 3, 2, device))
            before = previous = channels
        else:
            self.stem = nn.Sequential(*_conv_norm(in_channels, 3 * channels, 3, 1, device))
            before = previous = 3 * channels
        self.cells = nn.ModuleList()
        halved = self._two_stems
        for layer in range(layers):
            reduction = layer in (layers // 3, 2 * layers // 3)
            if reduction:
                channels *= 2
            cell = Cell(reduce if reduction else normal, before, previous, channels, reduction, halved, device)
            self.cells.append(cell)
            before, previous, halved = previous, cell.nodes * channels, reduction
        self.global_pooling = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(previous, classes, device=device)

    def forward(self, images: Tensor) -> Tensor:
        if self._two_stems:
            before = self.stem0(images)
            previous = self.stem1(before)
        else:
            before = previous = self.stem(images)
        for cell in self.cells:
            before, previous = previous, cell(before, previous)
        return self.classifier(self.global_pooling(previous).flatten(1))  # type: ignore[no-any-return]


class Cell(nn.Module):
    """The outputs of the two cells before → (n, nodes · channels, side, side).

    ``before``, ``previous``: their channels. ``halved``: the former's map has twice the side of the latter's.
    ``reduction``: the side of the output is half that of the latter.
    """

    def __init__(
        self,
        edges: Sequence[Edge],
        before: int,
        previous: int,
        channels: int,
        reduction: bool,
        halved: bool,
        device: Device = None,
    ) -> None:
        super().__init__()
        self.nodes = len(edges) // 2
        self._read = [node for _, node in edges]
        self.preprocess0: nn.Module = (
            FactorizedReduce(before, channels, device) if halved else ReluConvNorm(before, channels, device)
        )
        self.preprocess1 = ReluConvNorm(previous, channels, device)
        strides = [2 if reduction and node < 2 else 1 for node in self._read]
        self._ops = nn.ModuleList(
            _operation(name, channels, stride, device) for (name, _), stride in zip(edges, strides, strict=True)
        )

    def forward(self, before: Tensor, previous: Tensor) -> Tensor:
        nodes = [self.preprocess0(before), self.preprocess1(previous)]
        for first in range(0, len(self._read), 2):
            one, other = (self._ops[edge](nodes[self._read[edge]]) for edge in (first, first + 1))
            nodes.append(one + other)
        return torch.cat(nodes[2:], dim=1)


class ReluConvNorm(nn.Module):
    """ReLU, 1×1 convolution, batch norm."""

    def __init__(self, inputs: int, outputs: int, device: Device = None) -> None:
        super().__init__()
        self.op = nn.Sequential(nn.ReLU(), *_conv_norm(inputs, outputs, 1, 1, device))

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)  # type: ignore[no-any-return]


class FactorizedReduce(nn.Module):
    """Half the side without losing a pixel: half of the outputs read the even ones, half the odd ones.

    The side and the outputs are even.
    """

    def __init__(self, inputs: int, outputs: int, device: Device = None) -> None:
        super().__init__()
        self.relu = nn.ReLU()
        self.conv_1 = nn.Conv2d(inputs, outputs // 2, 1, stride=2, bias=False, device=device)
        self.conv_2 = nn.Conv2d(inputs, outputs // 2, 1, stride=2, bias=False, device=device)
        self.bn = nn.BatchNorm2d(outputs, device=device)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(x)
        return self.bn(torch.cat([self.conv_1(x), self.conv_2(x[:, :, 1:, 1:])], dim=1))  # type: ignore[no-any-return]


class Separable(nn.Module):
    """Depthwise-separable convolutions one behind the other, the first of which has the stride.

    Each is ReLU, depthwise ``kernel``×``kernel``, 1×1, batch norm.
    """

    def __init__(
        self, channels: int, kernel: int, stride: int, *, times: int, dilation: int = 1, device: Device = None
    ) -> None:
        super().__init__()
        parts: list[nn.Module] = []
        for place in range(times):
            depthwise = nn.Conv2d(
                channels,
                channels,
                kernel,
                stride if place == 0 else 1,
                padding=dilation * (kernel // 2),
                dilation=dilation,
                groups=channels,
                bias=False,
                device=device,
            )
            parts += [nn.ReLU(), depthwise, *_conv_norm(channels, channels, 1, 1, device)]
        self.op = nn.Sequential(*parts)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)  # type: ignore[no-any-return]


def _conv_norm(inputs: int, outputs: int, kernel: int, stride: int, device: Device) -> tuple[nn.Module, nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False, device=device)
    return convolution, nn.BatchNorm2d(outputs, device=device)


def _operation(name: str, channels: int, stride: int, device: Device) -> nn.Module:
    if name == "skip_connect":
        return nn.Identity() if stride == 1 else FactorizedReduce(channels, channels, device)
    if name == "max_pool_3x3":
        return nn.MaxPool2d(3, stride, padding=1)
    if name == "avg_pool_3x3":
        return nn.AvgPool2d(3, stride, padding=1, count_include_pad=False)
    kernel = {"3x3": 3, "5x5": 5}[name[-3:]]
    if name.startswith("sep_conv"):
        return Separable(channels, kernel, stride, times=2, device=device)
    return Separable(channels, kernel, stride, times=1, dilation=2, device=device)
