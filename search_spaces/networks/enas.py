"""ENAS's macro networks (Pham et al., ICML 2018) from the operation and the skip connections of each layer.

The modules are ordinary ones, none works in place, and nothing here depends on a search space. Left out is what only
helps training: dropout before the classifier.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from search_spaces.networks.darts import Separable
from search_spaces.networks.nasbench201 import ReluConvNorm

Device = torch.device | str | None


class Network(nn.Module):
    """Images (n, channels, height, width) → logits (n, classes).

    A 3×3 convolution with batch norm is vertex 0, the layers are vertices 1, 2, …. ``operations``: the name of each
    layer's operation, which reads the vertex before. ``skips``: the vertices that are joined to its output by a 1×1
    convolution; the first layer has none, and is not joined. After a third and two thirds of the layers all vertices
    that are still read get twice the channels and half the side. Global average pool and a linear layer without bias.
    """

    def __init__(
        self,
        operations: Sequence[str],
        skips: Sequence[Sequence[int]],
        *,
        in_channels: int,
        classes: int,
        channels: int,
        device: Device = None,
    ) -> None:
        super().__init__()
        self._skips = [list(each) for each in skips]
        self._halved: dict[int, list[int]] = {}
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, channels, 3, padding=1, bias=False, device=device),
            nn.BatchNorm2d(channels, device=device),
        )
        self.operations, self.joins, self.halvings = nn.ModuleList(), nn.ModuleList(), nn.ModuleDict()
        third = len(operations) // 3
        for layer, (name, joined) in enumerate(zip(operations, skips, strict=True), 1):
            self.operations.append(_operation(name, channels, device))
            inputs = (len(joined) + 1) * channels
            self.joins.append(ReluConvNorm(inputs, channels, 1, device=device) if layer > 1 else nn.Identity())
            if layer in (third, 2 * third):
                read = {layer, *(vertex for later in skips[layer:] for vertex in later if vertex < layer)}
                self._halved[layer] = sorted(read)
                for vertex in self._halved[layer]:
                    self.halvings[f"layer{layer}_vertex{vertex}"] = Halving(channels, 2 * channels, device)
                channels *= 2
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, classes, bias=False, device=device)

    def forward(self, images: Tensor) -> Tensor:
        last = self.stem(images)
        vertices = {0: last}
        for layer, (operation, join, skips) in enumerate(zip(self.operations, self.joins, self._skips, strict=True), 1):
            vertices[layer] = join(torch.cat([*(vertices[vertex] for vertex in skips), operation(last)], dim=1))
            for vertex in self._halved.get(layer, []):
                vertices[vertex] = self.halvings[f"layer{layer}_vertex{vertex}"](vertices[vertex])
            last = vertices[layer]
        return self.classifier(self.pool(last).flatten(1))  # type: ignore[no-any-return]


class Halving(nn.Module):
    """Half the side without losing a pixel: two 1×1 convolutions, one pixel apart, make half of the channels each."""

    def __init__(self, inputs: int, outputs: int, device: Device = None) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(inputs, outputs // 2, 1, 2, bias=False, device=device) for _ in range(2))
        self.pad = nn.ZeroPad2d((0, 1, 0, 1))
        self.bn = nn.BatchNorm2d(outputs, device=device)

    def forward(self, x: Tensor) -> Tensor:
        moved = self.pad(x)[:, :, 1:, 1:]
        return self.bn(torch.cat([self.convs[0](x), self.convs[1](moved)], dim=1))  # type: ignore[no-any-return]


def _operation(name: str, channels: int, device: Device) -> nn.Module:
    if name == "avg_pool_3x3":
        return nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
    if name == "max_pool_3x3":
        return nn.MaxPool2d(3, stride=1, padding=1)
    kernel = {"3x3": 3, "5x5": 5}[name[-3:]]
    first = ReluConvNorm(channels, channels, 1, device=device)
    if name.startswith("sep_conv"):
        return nn.Sequential(first, Separable(channels, kernel, 1, times=1, device=device))
    return nn.Sequential(first, ReluConvNorm(channels, channels, kernel, device=device))
