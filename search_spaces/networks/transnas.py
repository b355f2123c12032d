"""TransNAS-Bench-101's networks for classification (Duan et al., CVPR 2021), of cells or of residual blocks.

Parameters have the names of the published code. The modules are ordinary ones, none works in place, and nothing here
depends on a search space.

One thing differs from the published code: what an operation makes of zeros is left out of the sums. There, a
convolution behind a missing edge adds the offset of its batch norm, the same for every image; here it runs, and is paid
for, but adds nothing, so that it is dead like any other operation that is cut off.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from search_spaces.networks.cells import flow, reached

Device = torch.device | str | None


class Network(nn.Module):
    """Images (n, channels, height, width) → logits (n, classes).

    Two 3×3 convolutions of stride 2, the modules ``layer0``, ``layer1``, …, global average pool and a linear layer.
    ``codes``: for each module 1 (plain), 2 (doubles the channels), 3 (halves the side) or 4 (both); its first block
    does that. ``block`` makes one from (channels in, channels out, stride).
    """

    def __init__(
        self,
        codes: Sequence[int],
        block: Callable[[int, int, int], nn.Module],
        *,
        in_channels: int,
        classes: int,
        channels: int,
        blocks: int,
        device: Device = None,
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, channels // 2, 3, 2, 1, bias=False, device=device),
            nn.BatchNorm2d(channels // 2, device=device),
            ReluConvNorm(channels // 2, channels, 3, 2, device),
        )
        self._layers = [f"layer{index}" for index in range(len(codes))]
        for name, code in zip(self._layers, codes, strict=True):
            before, channels = channels, channels * (2 if code in (2, 4) else 1)
            first = block(before, channels, 2 if code in (3, 4) else 1)
            rest = (block(channels, channels, 1) for _ in range(1, blocks))
            self.add_module(name, nn.Sequential(first, *rest))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(channels, classes, device=device)

    def forward(self, images: Tensor) -> Tensor:
        features = self.stem(images)
        for name in self._layers:
            features = self.get_submodule(name)(features)
        return self.head(self.avgpool(features).flatten(1))  # type: ignore[no-any-return]


def of_cells(operations: Sequence[str], codes: Sequence[int], device: Device = None, **sizes: int) -> Network:
    """The network of the cell with these operations on its six edges; ``sizes`` as `Network` takes them."""
    return Network(codes, partial(Cell, operations, device=device), device=device, **sizes)


def of_blocks(codes: Sequence[int], device: Device = None, **sizes: int) -> Network:
    """The network of residual blocks; ``sizes`` as `Network` takes them."""
    return Network(codes, partial(BasicBlock, device=device), device=device, **sizes)


class Cell(nn.Module):
    """(n, inputs, side, side) → (n, outputs, ⌈side / stride⌉, ⌈side / stride⌉).

    What changes the shape are the edges from the first node.
    """

    def __init__(
        self, operations: Sequence[str], inputs: int, outputs: int, stride: int = 1, device: Device = None
    ) -> None:
        super().__init__()
        self.edges = nn.ModuleList()
        for index, name in enumerate(operations):
            # Edges 0, 1 and 3 come from the first node.
            shape = (inputs, outputs, stride) if index in (0, 1, 3) else (outputs, outputs, 1)
            self.edges.append(_operation(name, *shape, device=device))
        self._counts = reached([name != "none" for name in operations])

    def forward(self, x: Tensor) -> Tensor:
        return flow(x, self.edges, self._counts)


class BasicBlock(nn.Module):
    """A residual block (He et al., CVPR 2016), its shortcut a 1×1 convolution where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1, device: Device = None) -> None:
        super().__init__()
        self.conv_a = ReluConvNorm(inputs, outputs, 3, stride, device)
        self.conv_b = ReluConvNorm(outputs, outputs, 3, 1, device)
        self.downsample: nn.Module = nn.Identity()
        if stride > 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False, device=device),
                nn.BatchNorm2d(outputs, device=device),
            )

    def forward(self, x: Tensor) -> Tensor:
        return self.downsample(x) + self.conv_b(self.conv_a(x))  # type: ignore[no-any-return]


class ReluConvNorm(nn.Module):
    """ReLU, convolution, batch norm, in the order in which they are published."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, device: Device = None) -> None:
        super().__init__()
        self.ops = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False, device=device),
            nn.BatchNorm2d(outputs, device=device),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.ops(x)  # type: ignore[no-any-return]


class FactorizedReduce(nn.Module):
    """A skip that changes the shape: two 1×1 convolutions, one pixel apart, make half of the channels each."""

    def __init__(self, inputs: int, outputs: int, stride: int, device: Device = None) -> None:
        super().__init__()
        self.relu = nn.ReLU()
        halves = (outputs // 2, outputs - outputs // 2)
        self.convs = nn.ModuleList(nn.Conv2d(inputs, half, 1, stride, bias=False, device=device) for half in halves)
        self.pad = nn.ZeroPad2d((0, 1, 0, 1))
        self.bn = nn.BatchNorm2d(outputs, device=device)

    def forward(self, x: Tensor) -> Tensor:
        here = self.relu(x)
        moved = self.pad(here)[:, :, 1:, 1:]
        return self.bn(torch.cat([self.convs[0](here), self.convs[1](moved)], dim=1))  # type: ignore[no-any-return]


class Zero(nn.Module):
    """No connection."""

    def __init__(self, outputs: int, stride: int) -> None:
        super().__init__()
        self._outputs, self._stride = outputs, stride

    def forward(self, x: Tensor) -> Tensor:
        sides = [-(-side // self._stride) for side in x.shape[2:]]
        return x.new_zeros((x.shape[0], self._outputs, *sides))


def _operation(name: str, inputs: int, outputs: int, stride: int, device: Device) -> nn.Module:
    if name == "none":
        return Zero(outputs, stride)
    if name == "skip_connect":
        same = stride == 1 and inputs == outputs
        return nn.Identity() if same else FactorizedReduce(inputs, outputs, stride, device)
    return ReluConvNorm(inputs, outputs, {"nor_conv_1x1": 1, "nor_conv_3x3": 3}[name], stride, device)
