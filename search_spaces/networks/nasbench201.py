"""NAS-Bench-201's networks (Dong & Yang, ICLR 2020) from the six operations of a cell.

Parameters have the names of the published checkpoints. The modules are ordinary ones, none works in place, and nothing
here depends on a search space.

One thing differs from the published code: what an operation makes of zeros is left out of the sums. There, a
convolution behind a missing edge adds the offset of its batch norm, the same for every image; here it runs, and is paid
for, but adds nothing, so that it is dead like any other operation that is cut off.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from search_spaces.networks.cells import flow, reached

Device = torch.device | str | None


class Network(nn.Module):
    """Images (n, channels, side, side) → logits (n, classes). The side is a multiple of 4.

    ``operations``: the names of the operations on the six edges, in the order of the published string. A 3×3
    convolution, three stages of ``cells`` equal cells, a residual block that doubles the channels and halves the side
    before the second and the third stage, then batch norm, ReLU, global average pool and a linear layer.
    """

    def __init__(
        self,
        operations: Sequence[str],
        *,
        in_channels: int = 3,
        classes: int = 10,
        channels: int = 16,
        cells: int = 5,
        device: Device = None,
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, channels, 3, padding=1, bias=False, device=device),
            nn.BatchNorm2d(channels, device=device),
        )
        self.cells = nn.ModuleList()
        for stage in range(3):
            if stage:
                self.cells.append(Reduction(channels, 2 * channels, device))
                channels *= 2
            self.cells.extend(Cell(operations, channels, device) for _ in range(cells))
        self.lastact = nn.Sequential(nn.BatchNorm2d(channels, device=device), nn.ReLU())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, classes, device=device)

    def forward(self, images: Tensor) -> Tensor:
        features = self.stem(images)
        for cell in self.cells:
            features = cell(features)
        return self.classifier(self.pool(self.lastact(features)).flatten(1))  # type: ignore[no-any-return]


class Cell(nn.Module):
    """(n, channels, side, side) → the same shape."""

    def __init__(self, operations: Sequence[str], channels: int, device: Device = None) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_operation(name, channels, device) for name in operations)
        self._counts = reached([name != "none" for name in operations])

    def forward(self, x: Tensor) -> Tensor:
        return flow(x, self.layers, self._counts)


class ReluConvNorm(nn.Module):
    """ReLU, convolution, batch norm, in the order in which they are published."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, device: Device = None) -> None:
        super().__init__()
        self.op = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False, device=device),
            nn.BatchNorm2d(outputs, device=device),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)  # type: ignore[no-any-return]


class Reduction(nn.Module):
    """A residual block of stride 2 (He et al., CVPR 2016), its shortcut an average pool and a 1×1 convolution."""

    def __init__(self, inputs: int, outputs: int, device: Device = None) -> None:
        super().__init__()
        self.conv_a = ReluConvNorm(inputs, outputs, 3, 2, device)
        self.conv_b = ReluConvNorm(outputs, outputs, 3, 1, device)
        self.downsample = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(inputs, outputs, 1, bias=False, device=device))

    def forward(self, x: Tensor) -> Tensor:
        return self.downsample(x) + self.conv_b(self.conv_a(x))  # type: ignore[no-any-return]


class Zero(nn.Module):
    """No connection."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)


def _operation(name: str, channels: int, device: Device) -> nn.Module:
    made: dict[str, nn.Module] = {
        "none": Zero(),
        "skip_connect": nn.Identity(),
        "avg_pool_3x3": nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False),
    }
    if name in made:
        return made[name]
    return ReluConvNorm(channels, channels, {"nor_conv_1x1": 1, "nor_conv_3x3": 3}[name], device=device)
