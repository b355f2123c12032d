"""NAS-Bench-101's networks (Ying et al., ICML 2019) from the vertices and edges of a cell.

The modules are ordinary ones, none works in place, and nothing here depends on a search space. Convolutions and norms
are those of the published networks; running statistics follow torch's default (a tenth of each batch instead of 0.003),
so that trainings of a few epochs can be evaluated.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

Device = torch.device | str | None


class Network(nn.Module):
    """Images (n, channels, side, side) → logits (n, classes). The side is divisible by 2^(stacks - 1).

    ``adjacency`` (v, v) is upper triangular, and each vertex lies on a path from the first to the last one;
    ``operations`` are the v - 2 names of the inner ones. A 3×3 convolution to ``channels``, ``stacks`` of ``cells``
    equal cells, a 2×2 max pool between stacks, behind which channels double; then global average pool and a linear
    layer.
    """

    def __init__(
        self,
        adjacency: Sequence[Sequence[int]],
        operations: Sequence[str],
        *,
        in_channels: int = 3,
        classes: int = 10,
        channels: int = 128,
        stacks: int = 3,
        cells: int = 3,
        device: Device = None,
    ) -> None:
        super().__init__()
        self.stem = ConvNormRelu(in_channels, channels, 3, device)
        self.cells = nn.ModuleList()
        inputs = channels
        for stack in range(stacks):
            if stack:
                self.cells.append(nn.MaxPool2d(2))
                channels *= 2
            for _ in range(cells):
                self.cells.append(Cell(adjacency, operations, inputs, channels, device))
                inputs = channels
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, classes, device=device)

    def forward(self, images: Tensor) -> Tensor:
        features = self.stem(images)
        for cell in self.cells:
            features = cell(features)
        return self.classifier(self.pool(features).flatten(1))  # type: ignore[no-any-return]


class Cell(nn.Module):
    """(n, inputs, side, side) → (n, outputs, side, side).

    A vertex adds up what its edges bring and applies its operation. What comes from the cell's input is projected to
    the channels of the vertex; of what comes from an inner vertex, channels beyond the vertex's own are dropped. The
    output is all that leads into it side by side, plus the projected input if an edge brings that.
    """

    def __init__(
        self,
        adjacency: Sequence[Sequence[int]],
        operations: Sequence[str],
        inputs: int,
        outputs: int,
        device: Device = None,
    ) -> None:
        super().__init__()
        last = len(adjacency) - 1
        self.widths = widths(adjacency, outputs)
        self.sources = [[a for a in range(1, b) if adjacency[a][b]] for b in range(last + 1)]
        self.projections = nn.ModuleDict(
            {str(b): ConvNormRelu(inputs, self.widths[b], 1, device) for b in range(1, last + 1) if adjacency[0][b]}
        )
        self.vertices = nn.ModuleList(
            _operation(name, self.widths[vertex], device) for vertex, name in enumerate(operations, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        values = [x]
        for vertex, operation in enumerate(self.vertices, 1):
            width = self.widths[vertex]
            read = [values[source][:, :width] for source in self.sources[vertex]] + self._projected(x, vertex)
            total = read[0]
            for each in read[1:]:
                total = total + each
            values.append(operation(total))
        last = len(self.vertices) + 1
        leading = [values[source] for source in self.sources[last]]
        result = [torch.cat(leading, 1)] if leading else []
        result += self._projected(x, last)
        return result[0] if len(result) == 1 else result[0] + result[1]

    def _projected(self, x: Tensor, vertex: int) -> list[Tensor]:
        """What an edge from the cell's input brings, nothing where there is none."""
        name = str(vertex)
        return [self.projections[name](x)] if name in self.projections else []


class ConvNormRelu(nn.Module):
    """Convolution, batch norm, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int, device: Device = None) -> None:
        super().__init__()
        self.op = nn.Sequential(
            nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False, device=device),
            nn.BatchNorm2d(outputs, device=device),
            nn.ReLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)  # type: ignore[no-any-return]


def widths(adjacency: Sequence[Sequence[int]], outputs: int) -> list[int]:
    """Channels of each vertex of a cell, the first one's as 0.

    The output's channels are split evenly among the inner vertices that lead into it; what is left over goes to the
    first of them, one channel each. Any other vertex has as many as the widest that it feeds.
    """
    last = len(adjacency) - 1
    leading = [vertex for vertex in range(1, last) if adjacency[vertex][last]]
    result = [0] * last + [outputs]
    for place, vertex in enumerate(leading):
        result[vertex] = outputs // len(leading) + (place < outputs % len(leading))
    for vertex in range(last - 1, 0, -1):
        if vertex not in leading:
            result[vertex] = max(result[other] for other in range(vertex + 1, last) if adjacency[vertex][other])
    return result


def _operation(name: str, channels: int, device: Device) -> nn.Module:
    if name == "maxpool3x3":
        return nn.MaxPool2d(3, stride=1, padding=1)
    return ConvNormRelu(channels, channels, {"conv1x1-bn-relu": 1, "conv3x3-bn-relu": 3}[name], device)
