"""Scores equal to the published implementations' on the networks of ``../shared/reference/proxies``."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from predictors.proxies import measure
from predictors.proxies.signals import Signals
from tests.shared import SHARED, needs_shared

FOLDER = SHARED / "reference" / "proxies"

EXACT = {name: name for name in ("fisher", "grad_norm", "grasp", "params", "plain", "snip")} | {
    "synflow_raw": "synflow"
}
"""Proxies whose published values are met to four digits, with the names of those."""


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.bn2 = nn.BatchNorm2d(16)
        self.classifier = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        return self.classifier(x.mean((2, 3)))


class Convolution(nn.Module):
    """ReLU, convolution, batch norm."""

    def __init__(self, inside: int, outside: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inside, outside, kernel, stride, kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(outside)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(F.relu(x)))


class Zero(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mul(0.0)


OPERATIONS = {
    "none": lambda c: Zero(),
    "skip_connect": lambda c: nn.Identity(),
    "avg_pool_3x3": lambda c: nn.AvgPool2d(3, 1, 1, count_include_pad=False),
    "nor_conv_1x1": lambda c: Convolution(c, c, 1),
    "nor_conv_3x3": lambda c: Convolution(c, c, 3),
}


class Cell(nn.Module):
    def __init__(self, arch: str, channels: int) -> None:
        super().__init__()
        self.edges = nn.ModuleDict()
        for node, text in enumerate(arch.split("+"), 1):
            for edge in text.strip("|").split("|"):
                operation, source = edge.split("~")
                self.edges[f"{source}_{node}"] = OPERATIONS[operation](channels)

    def forward(self, x: Tensor) -> Tensor:
        nodes = [x]
        for node in (1, 2, 3):
            parts = [self.edges[f"{source}_{node}"](nodes[source]) for source in range(node)]
            nodes.append(torch.stack(parts).sum(0) if node == 1 else sum(parts[1:], parts[0]))
        return nodes[3]


class Reduction(nn.Module):
    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.conv_a = Convolution(inside, outside, 3, 2)
        self.conv_b = Convolution(outside, outside, 3)
        self.shortcut = nn.Conv2d(inside, outside, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_b(self.conv_a(x)) + self.shortcut(F.avg_pool2d(x, 2))


class Nb201(nn.Module):
    def __init__(self, arch: str, channels: int, cells: int, classes: int) -> None:
        super().__init__()
        self.stem_conv = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        self.stem_bn = nn.BatchNorm2d(channels)
        layers: list[nn.Module] = []
        for stage in range(3):
            width = channels << stage
            if stage:
                layers.append(Reduction(width // 2, width))
            layers += [Cell(arch, width) for _ in range(cells)]
        self.layers = nn.Sequential(*layers)
        self.last_bn = nn.BatchNorm2d(4 * channels)
        self.classifier = nn.Linear(4 * channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.last_bn(self.layers(self.stem_bn(self.stem_conv(x)))))
        return self.classifier(x.mean((2, 3)))


def reference(name: str) -> tuple[nn.Module, Tensor, Tensor, dict[str, Any]]:
    stated = json.loads((FOLDER / "scores.json").read_text())[name]
    if stated["kind"] == "plain":
        network: nn.Module = Plain()
    else:
        network = Nb201(stated["arch"], stated["channels"], stated["cells_per_stage"], stated["classes"])
    with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as file:
        arrays = {key: torch.from_numpy(file[key]) for key in file.files}
    x, y = arrays.pop("x"), arrays.pop("y")
    own = dict(network.named_parameters())
    assert own.keys() == arrays.keys()
    with torch.no_grad():
        for key, parameter in own.items():
            parameter.copy_(arrays[key])
    return network, x, y, stated["scores"]


@needs_shared
@pytest.mark.parametrize("name", ["plain", "nb201_conv", "nb201_mixed"])
def test_published_scores(name):
    network, x, y, published = reference(name)
    scores = measure(network, [(x, y)], [*EXACT, "gradsign", "synflow"], np.random.default_rng(0))
    for proxy, key in EXACT.items():
        assert scores[proxy] == pytest.approx(published[key], rel=1e-4), proxy
    # Signs of gradients near zero turn with the order of summation.
    assert scores["gradsign"] == pytest.approx(published["gradsign"], rel=2e-3)
    assert scores["synflow"] == pytest.approx(np.log(published["synflow"]), abs=1e-4)


@needs_shared
def test_gradsign_does_not_depend_on_how_many_images_a_pass_takes():
    network, x, y, _ = reference("nb201_conv")
    whole = Signals(network, [(x, y)]).sign_sums()
    # Five passes and one of a single image.
    parts = Signals(network, [(x, y)], at_once=3).sign_sums()
    differing = sum(int((whole[name] != parts[name]).sum()) for name in whole)
    # Sums of another size add up in another order, which turns the signs of a few gradients near zero.
    assert differing < 1e-4 * sum(sums.numel() for sums in whole.values())
