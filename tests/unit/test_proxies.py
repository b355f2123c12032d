"""The mathematics of the proxies: hand-computed values, the definition beside the batched pass, and refusals."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from predictors.proxies import Undefined, measure, per_image, products
from predictors.proxies.gradsign import GradSign
from predictors.proxies.signals import Signals
from predictors.proxies.synflow import SynFlow


def images(count: int = 6, channels: int = 3, size: int = 9) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return (
        torch.randn((count, channels, size, size), generator=generator),
        torch.randint(0, 4, (count,), generator=generator),
    )


def score(network: nn.Module, name: str, batch: tuple[Tensor, Tensor] | None = None) -> float | Undefined:
    return measure(network, [batch or images()], [name], np.random.default_rng(0))[name]


def reason(network: nn.Module, name: str) -> str:
    result = score(network, name)
    assert isinstance(result, Undefined)
    return result.reason


def head(channels: int) -> list[nn.Module]:
    return [nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 4)]


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def two_layers() -> nn.Module:
    network = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        network[1].weight.copy_(torch.eye(2))
        network[3].weight.copy_(torch.tensor([[1.0, -1.0], [-1.0, 1.0]]))
    return network


def test_hand_computed_values_of_a_two_layer_network():
    """Signs of the gradients, first layer then second, by hand:

    (1, 2) of class 0: [[-, -], [+, +]] and [[-, -], [+, +]]; (2, 1) of class 0: the same;
    (1, 0) of class 1: [[+, 0], [0, 0]] and [[+, 0], [-, 0]], as the second hidden unit is off.
    Sums: |-1| + |-2| + 2 + 2 = 7 and |-1| + |-2| + |1| + 2 = 6. Flow: R = 4 through either layer.
    """
    x = torch.tensor([[1.0, 2.0], [2.0, 1.0], [1.0, 0.0]])
    batch = (x, torch.tensor([0, 0, 1]))
    names = ["gradsign", "gradsign_mean", "macs", "params", "synflow", "synflow_raw"]
    scores = measure(two_layers(), [batch], names, np.random.default_rng(0))
    assert scores["gradsign"] == 13.0
    assert scores["gradsign_mean"] == 13 / 8
    assert scores["synflow"] == pytest.approx(math.log(8.0))
    assert scores["params"] == 8.0
    assert scores["macs"] == 8.0
    assert scores["synflow_raw"] == 8.0


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU(inplace=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class Gated(nn.Module):
    """Squeeze-and-excite: one position, without batch norm."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(channels, 4, 1), nn.Conv2d(4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        gate = x.mean((2, 3), keepdim=True)
        return x * F.hardsigmoid(self.up(F.relu(self.down(gate))))


CONVOLUTIONS: dict[str, Callable[[], nn.Conv2d]] = {
    "plain": lambda: nn.Conv2d(8, 16, 3, padding=1),
    "odd": lambda: nn.Conv2d(8, 9, 3, padding=1),
    "strided": lambda: nn.Conv2d(8, 8, 3, stride=2, padding=1),
    "uneven": lambda: nn.Conv2d(8, 8, (3, 2), stride=(1, 3), padding=(2, 0), dilation=(2, 1)),
    "row": lambda: nn.Conv2d(8, 6, (1, 3), padding=(0, 1)),
    "pointwise": lambda: nn.Conv2d(8, 6, 1, stride=2),
    "grouped": lambda: nn.Conv2d(8, 12, 3, padding=1, groups=2, stride=2),
    "grouped pointwise": lambda: nn.Conv2d(8, 4, 1, groups=2),
    "depthwise": lambda: nn.Conv2d(8, 8, 3, padding=1, groups=8, stride=2),
    "depthwise large": lambda: nn.Conv2d(8, 8, 5, padding=2, groups=8, stride=2),
    "depthwise dilated": lambda: nn.Conv2d(8, 16, 3, padding=2, groups=8, dilation=2, stride=(2, 1)),
    "same": lambda: nn.Conv2d(8, 8, (5, 4), padding="same", dilation=(1, 1)),
    "reflected": lambda: nn.Conv2d(8, 16, 3, padding=2, padding_mode="reflect"),
    "circular": lambda: nn.Conv2d(8, 8, (3, 2), padding=(1, 0), padding_mode="circular", groups=8),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_per_image_gradients_are_those_of_single_images(kind, dtype):
    """In float32 some are made by convolutions, in float64 all by matrix products and correlations."""
    layer = CONVOLUTIONS[kind]()
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Tanh(), layer, *head(layer.out_channels))
    network.to(dtype)
    x, y = images()
    found: dict[str, list[Tensor]] = {}
    sums: dict[str, Tensor] = {}

    def collect(name: str, layer: products.Weighted, inputs: Tensor, delta: Tensor) -> None:
        for place, gradients in products.products(layer, inputs, delta):
            assert place == len(found.setdefault(name, []))
            found[name].extend(products.as_weight(layer, part) for part in gradients.unbind(1))
        sums[name] = products.as_weight(layer, products.sign_sum(layer, inputs, delta))

    per_image.backward(per_image.separate(copy.deepcopy(network)), x.to(dtype), y, collect)
    network.train()
    for i in range(len(x)):
        network.zero_grad()
        F.cross_entropy(network(x[i : i + 1].to(dtype)), y[i : i + 1]).backward()
        for name in ("0", "3", "7"):
            gradient = network.get_submodule(name).weight.grad
            # In float32 the difference of two roundings beside the largest number of the gradient.
            close = {} if dtype == torch.float64 else {"rtol": 1e-4, "atol": 1e-5 * float(gradient.abs().max())}
            torch.testing.assert_close(found[name][i], gradient, **close)
    for name in ("0", "3", "7"):
        assert torch.equal(sums[name], torch.stack(found[name]).sign().sum(0)), name


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "residual": lambda: nn.Sequential(nn.Conv2d(3, 8, 3), Residual(8), Residual(8), *head(8)),
    "squeeze-excite": lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Hardswish(), Gated(8), *head(8)),
    "no affine": lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, affine=False), *head(8)),
    "no statistics": lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, track_running_stats=False), *head(8)),
    "in place after the first layer": lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(inplace=True), *head(8)),
    "dropout": lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.Dropout(0.5), *head(8)),
    "group norm": lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), *head(8)),
    "in place after linear on positions": lambda: nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.Flatten(2), nn.Linear(49, 5), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(40, 4)
    ),
    "linear on positions": lambda: nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.Flatten(2), nn.Linear(49, 5), nn.LayerNorm(5), nn.ReLU(), nn.Flatten(), nn.Linear(40, 4)
    ),
}


@pytest.mark.parametrize("kind", NETWORKS)
def test_gradsign_is_the_definition_image_by_image(kind):
    network = NETWORKS[kind]()
    x, y = images(16)
    batched = score(network, "gradsign", (x, y))
    network.train()
    for layer in network.modules():
        if isinstance(layer, nn.Dropout):
            layer.eval()
    sums = {name: torch.zeros_like(layer.weight) for name, layer in products.weighted_layers(network)}
    for i in range(len(x)):
        network.zero_grad()
        F.cross_entropy(network(x[i : i + 1]), y[i : i + 1]).backward()
        for name, layer in products.weighted_layers(network):
            sums[name] += layer.weight.grad.sign()
    literal = sum(float(total.abs().sum()) for total in sums.values())
    assert batched == pytest.approx(literal, rel=2e-3)
    assert literal > 0


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.again = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, padding=1)
        self.rest = nn.Sequential(*head(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.rest(self.again(F.relu(self.again(self.first(x)))))


class Borrowed(nn.Module):
    """Uses a layer's weight without calling the layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3)
        self.rest = nn.Sequential(*head(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.rest(F.conv2d(x, self.first.weight))


class Deaf(nn.Module):
    """Its output is its bias, as that of a cell without a path from input to output."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.rest = nn.Sequential(nn.BatchNorm2d(4), *head(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.rest(self.stem(x).mul(0.0))


def shared_weight() -> nn.Module:
    one, other = nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3)
    other.weight = one.weight
    return nn.Sequential(one, nn.ReLU(), other, *head(3))


def parametrised() -> nn.Module:
    layer = torch.nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3))
    return nn.Sequential(layer, *head(4))


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (Twice, "called twice"),
        (Borrowed, "used outside of the layer"),
        (Deaf, "does not depend on the image"),
        (shared_weight, "share a weight"),
        (parametrised, "parametrised"),
        (lambda: nn.Sequential(nn.Conv2d(3, 4, 9), nn.BatchNorm2d(4), *head(4)), "one value per channel"),
        (
            lambda: nn.Sequential(nn.Conv2d(3, 8, 9), nn.Flatten(), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4)),
            "one value per channel",
        ),
        # Averages of normalised channels do not depend on the image.
        (
            lambda: nn.Sequential(
                nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
            ),
            "zero by structure",
        ),
        (lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), "no Conv2d or Linear"),
        (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), "the output must be"),
        (
            lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(2), nn.Flatten(0, 1), nn.Linear(49, 4)),
            "rows for|output must be",
        ),
    ],
)
def test_gradsign_is_undefined_with_a_reason(network, words):
    assert re.search(words, reason(network(), "gradsign"))


def test_a_layer_whose_gradient_never_arrives_counts_nothing():
    class Unused(nn.Module):
        def __init__(self, network: nn.Module) -> None:
            super().__init__()
            self.network, self.spare, self.dead = network, nn.Conv2d(3, 5, 3), nn.Conv2d(3, 5, 3)

        def forward(self, x: Tensor) -> Tensor:
            self.dead(x)
            return self.network(x)

    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), *head(8))
    assert score(Unused(network), "gradsign") == score(network, "gradsign")


def test_synflow_survives_depth_that_overflows_float64():
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Flatten(), nn.Linear(243, 64)]
    for _ in range(400):
        layers += [nn.ReLU(), nn.Linear(64, 64, bias=False)]
        nn.init.constant_(layers[-1].weight, 1.0)
    layers += [nn.ReLU(), nn.Linear(64, 4)]
    network = nn.Sequential(*layers)
    value = score(network, "synflow")
    assert isinstance(value, float)
    # Each layer of ones multiplies the flow by 64.
    first, last = (layer.weight.detach().abs().double().sum().item() for layer in (network[1], network[-1]))
    entering = first + network[1].bias.detach().abs().double().sum().item()
    # The first layer's weights carry what enters without its bias, the 401 others all that passes them.
    expected = math.log(last / 64) + 400 * math.log(64) + math.log(first + 401 * entering)
    assert value == pytest.approx(expected, rel=1e-9)
    assert "above 1.8e308" in reason(network, "synflow_raw")


def test_synflow_equals_plain_arithmetic_where_branches_and_biases_meet():
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), Residual(8), Residual(8), *head(8))
    twin = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Identity(), Residual(8), Residual(8), *head(8)).double()
    own = dict(network.double().named_parameters())
    for block in (twin[2], twin[3]):
        block.body[1] = nn.Identity()
    with torch.no_grad():
        for name, parameter in twin.named_parameters():
            parameter.copy_(own[name].abs())
    twin(torch.ones(1, 3, 9, 9, dtype=torch.float64)).sum().backward()
    expected = sum((layer.weight * layer.weight.grad).sum().item() for _, layer in products.weighted_layers(twin))
    assert score(network.float(), "synflow_raw") == pytest.approx(expected, rel=1e-6)


def test_synflow_states_its_rules():
    plain = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), *head(8))
    value = score(plain, "synflow")
    for activation in (nn.Hardswish, nn.SiLU, nn.ReLU6, nn.LeakyReLU, nn.GELU):
        assert score(nn.Sequential(plain[0], activation(), *plain[2:]), "synflow") == value
    # A gate counts as 1, and nothing flows through its own layers.
    gated = nn.Sequential(plain[0], nn.ReLU(), Gated(8), *plain[2:])
    assert score(gated, "synflow") == value


class Product(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * x


@pytest.mark.parametrize(
    ("middle", "words"),
    [(nn.Tanh(), "no rule for the operation tanh"), (Product(), "mul"), (nn.Softmax(1), "softmax")],
)
def test_synflow_refuses_what_it_has_no_rule_for(middle, words):
    assert words in reason(nn.Sequential(nn.Conv2d(3, 8, 3), middle, *head(8)), "synflow")


def test_synflow_of_a_network_without_a_path():
    assert "nothing flows" in reason(Deaf(), "synflow")


def test_macs_by_hand():
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, padding=1, groups=8), *head(8)
    )
    # 4 × 4 positions: 8 · 27, then 8 · 9; and 8 · 4 of the classifier.
    assert score(network, "macs") == 16 * 8 * 27 + 16 * 8 * 9 + 32
    tied = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU())
    assert score(nn.Sequential(tied, tied, *head(3)), "macs") == 2 * 81 * 9 + 12
    assert score(nn.Sequential(tied, tied, *head(3)), "params") == 12 + 16


@pytest.mark.parametrize(
    ("batches", "words"),
    [
        ([], "at least one batch"),
        ([(torch.zeros(2, 3, 9, 9), torch.zeros(3, dtype=torch.int64))], "labels must be"),
        ([(torch.zeros(2, 3, 9, 9), torch.zeros(2))], "labels must be"),
        ([(torch.zeros(2, 3, 9, 9, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64))], "floating point"),
        ([(torch.full((2, 3, 9, 9), math.nan), torch.zeros(2, dtype=torch.int64))], "NaN"),
        ([(torch.randn(2, 3, 9, 9), torch.tensor([0, 9]))], "9, the network has 4 classes"),
        ([(torch.randn(2, 3, 9, 9), torch.tensor([0, -1]))], "negative"),
    ],
)
def test_wrong_batches_are_refused(batches, words):
    network = nn.Sequential(nn.Conv2d(3, 8, 3), *head(8))
    with pytest.raises(ValueError, match=words):
        measure(network, batches, ["gradsign"], np.random.default_rng(0))


def test_a_network_that_fails_fails():
    with pytest.raises(RuntimeError):
        measure(nn.Sequential(nn.Conv2d(5, 8, 3), *head(8)), [images()], ["gradsign"], np.random.default_rng(0))


def test_shared_passes_run_once(monkeypatch):
    network = nn.Sequential(nn.Conv2d(3, 8, 3), *head(8))
    signals, runs = Signals(network, [images()]), []
    run = per_image.backward
    monkeypatch.setattr(per_image, "backward", lambda *args: (runs.append(1), run(*args)))
    assert GradSign().score(signals) == GradSign().score(signals)
    assert SynFlow().score(signals) == SynFlow().score(signals)
    assert len(runs) == 1
