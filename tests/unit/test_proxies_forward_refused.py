"""Proxies of activations and Jacobians: what counts as a rectifier, what is refused, and what is left as it was."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from predictors.proxies import NotDefined, Proxy, measure
from predictors.proxies.aggregates import AZ_NAS
from predictors.proxies.dse import DiffusionEntropy, entropy
from predictors.proxies.epe_nas import EpeNas
from predictors.proxies.jacob_cov import JacobCov
from predictors.proxies.linear_regions import LinearRegions
from predictors.proxies.naswot import NasWot, log_determinant
from predictors.proxies.ntk_condition import NtkCondition
from predictors.proxies.rectifiers import rectifies
from predictors.proxies.swap import Swap
from predictors.proxies.zen import Zen
from tests.unit.test_proxies_forward import NAMES, batch, ordinary, score, two_layers


def reason(proxy: Proxy, network: nn.Module, images: Tensor | None = None) -> str:
    with pytest.raises(NotDefined) as refusal:
        score(proxy, network, images)
    return str(refusal.value)


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


# ---------------------------------------------------------------------- rectifiers


@pytest.mark.parametrize(
    ("call", "counts"),
    [
        (F.relu, True),
        (torch.relu, True),
        (lambda x: x.relu_(), True),
        (nn.ReLU(inplace=True), True),
        (lambda x: x.clamp(min=0), True),
        (lambda x: torch.clamp_min(x, 0.0), True),
        (lambda x: F.threshold(x, 0.0, 0.0), True),
        (nn.ReLU6(), True),
        (F.relu6, True),
        (nn.LeakyReLU(), True),
        (nn.PReLU(), True),
        (nn.GELU(), True),
        (nn.SiLU(), True),
        (nn.Hardswish(), True),
        (nn.ELU(), True),
        (nn.Softplus(), True),
        (torch.tanh, False),
        (nn.Sigmoid(), False),
        (nn.Hardtanh(), False),
        (lambda x: x.clamp(min=-1.0), False),
        (lambda x: x.clamp(max=1.0), False),
    ],
)
def test_what_counts_as_a_rectifier(call: Callable[[Tensor], Tensor], counts: bool):
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Conv2d(3, 6, 3), nn.Linear(216, 2)
            self.call = call

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.call(self.first(x)).flatten(1))

    torch.manual_seed(1)
    network = Own()
    if not counts:
        assert "no ReLU" in reason(NasWot(), network)
        return
    torch.manual_seed(1)
    plain = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(216, 2))
    assert score(NasWot(), network) == score(NasWot(), plain)


def test_rectifiers_called_by_name():
    assert rectifies("hardtanh", (), {"min_val": 0.0, "max_val": 6.0})
    assert not rectifies("clamp", (None,), {})
    assert not rectifies("threshold", (None, 0.0, 1.0), {})


# ---------------------------------------------------------------------- refusals


def chain(*layers: nn.Module) -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(*layers)


def dead() -> nn.Module:
    """Every unit is off for every image."""
    network = chain(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(216, 2))
    nn.init.constant_(network[0].bias, -1e3)
    return network


def averaged() -> nn.Module:
    """The batch's mean behind batch norm is 0, whatever the images."""
    return chain(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))


def noisy() -> nn.Module:
    """Instance norm's averages are 0 but for rounding, whose signs the ReLU sees."""
    return chain(
        nn.Conv2d(3, 8, 3), nn.InstanceNorm2d(8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.ReLU(), nn.Linear(8, 4)
    )


def exploding() -> nn.Module:
    network = ordinary()
    nn.init.constant_(network[-1].weight, 1e38)
    return network


class Borrowed(nn.Module):
    """Uses a layer's weight without calling the layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(F.relu(self.layer(x)), self.layer.weight).flatten(1)


class ChannelByChannel(nn.Module):
    """Its ReLU does not know which rows are one image."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 4)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.layer(x.flatten(2).flatten(0, 1))).reshape(len(x), -1)


REFUSALS: dict[str, tuple[Callable[[], Proxy], Callable[[], nn.Module], Callable[[], Tensor] | None, str]] = {
    "one image, patterns": (NasWot, ordinary, lambda: batch(1)[0], "one image"),
    "one image, gradients": (JacobCov, ordinary, lambda: batch(1)[0], "one image"),
    "one image, kernel": (NtkCondition, ordinary, lambda: batch(1)[0], "one image"),
    "two images, diffusion": (DiffusionEntropy, ordinary, lambda: batch(2)[0], "2 images"),
    "same image twice, patterns": (NasWot, ordinary, lambda: batch(6)[0][[0, 1, 2, 3, 1]], "1 pairs of 5"),
    "same image twice, kernel": (NtkCondition, ordinary, lambda: batch(6)[0][[0, 1, 2, 3, 4, 1]], "singular"),
    "same image always, patterns": (Swap, ordinary, lambda: batch(1)[0].expand(5, -1, -1, -1), "no rectifier tells"),
    "fewer units than images": (NasWot, two_layers, lambda: torch.randn(9, 2), "singular"),
    "dead, patterns": (NasWot, dead, None, "no rectifier tells"),
    "dead, swap": (Swap, dead, None, "no rectifier tells"),
    "dead, regions": (LinearRegions, dead, None, "no rectifier tells"),
    "dead, inputs": (lambda: LinearRegions(inputs=20), dead, None, "one region"),
    "dead, gradients": (JacobCov, dead, None, "does not depend on the images"),
    "dead, classes": (EpeNas, dead, None, "does not depend on the images"),
    "dead, diffusion": (DiffusionEntropy, dead, None, "same representation"),
    "every input its own": (lambda: LinearRegions(inputs=20), ordinary, None, "20 inputs lie in 20 regions"),
    "few images, first of all": (lambda: Swap(images=3), ordinary, None, "all 8 patterns of 3"),
    "regularised away": (lambda: Swap(mu=1e9, sigma=1.0), ordinary, None, "nothing is left"),
    "constant sum": (JacobCov, averaged, None, "constant by structure"),
    "constant sum, classes": (EpeNas, averaged, None, "constant by structure"),
    "noisy signs": (NasWot, noisy, None, "rectifier 1: .* signs turn in float64"),
    "noisy signs, regions": (LinearRegions, noisy, None, "signs turn"),
    "noisy signs, inputs": (lambda: LinearRegions(inputs=20), noisy, None, "signs turn"),
    "noisy representation": (DiffusionEntropy, noisy, None, "rounding noise"),
    "borrowed weight": (NtkCondition, Borrowed, None, "outside of its layer"),
    "zero by structure": (
        NtkCondition,
        lambda: chain(*noisy()[:4], nn.Linear(8, 4, bias=False)),
        None,
        "zero by structure",
    ),
    "overflow, patterns": (NasWot, exploding, lambda: batch()[0] * 1e6, "overflowed"),
    "overflow, kernel": (NtkCondition, exploding, lambda: batch()[0] * 1e6, "not finite"),
    "rows are no images": (
        NasWot,
        ChannelByChannel,
        None,
        "30 rows for 10 images",
    ),
    "no maps": (Zen, lambda: chain(nn.Linear(8, 4)), None, "no output before pooling"),
    "constant maps": (Zen, lambda: chain(*averaged()[:1], nn.Threshold(1e9, 0.0), *averaged()[2:]), None, "depend"),
    "no class with two": (EpeNas, ordinary, lambda: batch(2)[0], "no class has two"),
}


@pytest.mark.parametrize("kind", REFUSALS)
def test_undefined_with_a_reason(kind):
    proxy, network, images, words = REFUSALS[kind]
    assert re.search(words, reason(proxy(), network(), images() if images else None))


def test_kernels_and_vectors_that_say_nothing():
    with pytest.raises(NotDefined, match="depend on one another"):
        log_determinant(torch.tensor([[3.0, 1.0, 2.0], [1.0, 3.0, 2.0], [2.0, 2.0, 2.0]]).double(), 4)
    with pytest.raises(NotDefined, match="same representation"):
        entropy(torch.ones(5, 3), 10.0, 1.0)
    with pytest.raises(NotDefined, match="no neighbour"):
        entropy(torch.eye(5) * 1e3, 10.0, 1.0)
    with pytest.raises(NotDefined, match="rounding noise"):
        entropy(torch.eye(5) * 1e-8, 10.0, 1.0)
    with pytest.raises(NotDefined, match="nothing is left"):
        entropy(torch.eye(5), 10.0, 1e4)


@pytest.mark.parametrize(
    ("proxy", "options"),
    [
        (Swap, {"images": 1}),
        (Swap, {"mu": 1.0}),
        (Swap, {"mu": 1.0, "sigma": 0.0}),
        (LinearRegions, {"inputs": 1}),
        (Zen, {"gamma": 0.0}),
        (Zen, {"repeats": 0}),
        (DiffusionEntropy, {"sigma": 0.0}),
        (DiffusionEntropy, {"time": -1.0}),
    ],
)
def test_options_that_mean_nothing(proxy: type[Any], options: dict[str, Any]):
    with pytest.raises(ValueError, match=r"must|need|go together"):
        proxy(**options)


def test_a_network_may_begin_in_place():
    x, y = batch()
    before, network = x.clone(), nn.Sequential(nn.ReLU(inplace=True), *ordinary())
    scores = measure(network, [(x, y)], [*NAMES, *AZ_NAS], np.random.default_rng(0))
    assert torch.equal(x, before)
    plain = measure(nn.Sequential(nn.ReLU(), *ordinary()), [(x, y)], [*NAMES, *AZ_NAS], np.random.default_rng(0))
    assert scores == plain
    assert all(isinstance(value, float) for value in scores.values())
