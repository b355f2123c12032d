"""What holds GradSign's batched pass to its definition: noise, explosions and mistakes are told apart."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from predictors.proxies import NotDefined, Undefined, measure, sign_sums
from predictors.proxies.per_image import Probe
from predictors.proxies.products import weighted_layers


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        yield


def head(channels: int) -> list[nn.Module]:
    return [nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 4)]


def images(count: int = 8) -> tuple[Tensor, Tensor]:
    return torch.randn((count, 3, 6, 6)), torch.randint(0, 4, (count,))


def score(network: nn.Module, count: int = 8) -> float | Undefined:
    return measure(network, [images(count)], ["gradsign"], np.random.default_rng(0))["gradsign"]


class Turned(nn.Conv2d):
    """Not what its class is."""

    def forward(self, x: Tensor) -> Tensor:
        return -super().forward(x).flip(1)


class Both(nn.Module):
    """Calls a layer, and uses its weight without it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.layer = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, padding=1)
        self.rest = nn.Sequential(*head(4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.rest(self.layer(x) - 2 * F.conv2d(x.flip(2), self.layer.weight, padding=1))


class Centred(nn.Module):
    """Sees the other images."""

    def forward(self, x: Tensor) -> Tensor:
        return x - 3 * x.roll(1, 0) * x.mean(0)


class OwnNorm(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 2


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (lambda: nn.Sequential(Turned(3, 8, 3), *head(8)), "something else than its class"),
        (Both, "something else than its class"),
        (lambda: nn.Sequential(nn.Conv2d(3, 8, 3), Centred(), *head(8)), "images do not stay apart"),
        (lambda: nn.Sequential(nn.Conv2d(3, 8, 3), OwnNorm(8), *head(8)), "OwnNorm is a batch norm"),
    ],
)
def test_layers_that_are_not_what_they_say_are_found(network, words):
    assert words in score(network()).reason


def chain(depth: int) -> nn.Module:
    """Each block multiplies gradients, and the rounding in them."""
    layers: list[nn.Module] = [nn.Conv2d(3, 16, 1, bias=False)]
    for _ in range(depth):
        layers += [nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 1, bias=False)]
    return nn.Sequential(*layers, nn.BatchNorm2d(16), *head(16))


def turned(network: nn.Module) -> float:
    """The share of gradient signs of one image that float32 has wrong, in the layer with the most."""
    x, y = images(1)
    shares = []
    for dtype in (torch.float64, torch.float32):
        network.to(dtype).train().zero_grad()
        F.cross_entropy(network(x.to(dtype)), y).backward()
        shares.append({name: layer.weight.grad.sign() for name, layer in weighted_layers(network)})
    exact, found = shares
    return max(float((exact[name] != found[name]).double().mean()) for name in exact)


def test_gradients_that_explode_until_nothing_is_left_of_them_are_undefined():
    assert isinstance(score(chain(20)), float)
    wild = chain(90)
    assert turned(wild) > 0.3
    assert "explode until rounding decides" in score(wild.float()).reason


@pytest.mark.parametrize(
    ("share", "again", "words"),
    [
        (0.03, 1.0, None),
        (0.2, 0.0, None),
        (0.2, 0.2, "20 of 100 gradient signs are not the definition's"),
        (0.3, 0.0, "rounding decides 30 of 100"),
    ],
)
def test_signs_that_rounding_turns_are_told_from_mistakes(share, again, words):
    """``share`` of the signs differ in float32, ``again`` in float64."""
    exact = torch.randn(100, dtype=torch.float64)

    def differing(part: float) -> dict[str, Tensor]:
        return {"layer": torch.where(torch.arange(100) < round(100 * part), -exact, exact)}

    def check() -> None:
        sign_sums._check(Probe({"layer": exact}, 1), differing(share), lambda: differing(again))

    if words is None:
        check()
    else:
        with pytest.raises(NotDefined, match=words):
            check()


class Halves(nn.Module):
    """One half of its channels is averaged behind a batch norm, the other is not."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm, self.rest = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.layer(x))
        return self.rest(torch.cat([x[:, :4], x[:, 4:].relu()], dim=1).mean((2, 3)))


def test_gradients_of_which_a_part_is_zero_by_structure_are_found():
    assert "are zero by structure" in score(Halves()).reason


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_images_are_checked_too(count):
    assert isinstance(score(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), *head(8)), count), float)
    assert "are zero by structure" in score(Halves(), count).reason
