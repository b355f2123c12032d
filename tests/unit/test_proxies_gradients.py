"""Proxies of a minibatch's summed gradient: hand-computed values, definitions beside passes, and refusals."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from predictors.proxies import Undefined, measure, summed
from predictors.proxies.products import weighted_layers
from predictors.proxies.signals import Signals

FAMILY = ("fisher", "grad_norm", "grasp", "plain", "snip", "zico")
"""Of which all but grasp and l2_norm, which has none, share their passes."""


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def images(count: int = 12, size: int = 6) -> tuple[Tensor, Tensor]:
    return torch.randn((count, 3, size, size)), torch.randint(0, 4, (count,))


def head(channels: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 4)]


def convolutions(*between: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), *between, *head(8))


def scores(network: nn.Module, names: tuple[str, ...] = FAMILY, count: int = 2) -> dict[str, float | Undefined]:
    batches = [images() for _ in range(count)]
    return measure(network, batches, names, np.random.default_rng(0))


def two_layers() -> nn.Module:
    network = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        network[1].weight.copy_(torch.eye(2))
        network[3].weight.copy_(torch.tensor([[1.0, -1.0], [-1.0, 1.0]]))
    return network


A, B = 1 / (1 + math.exp(-2)), 1 / (1 + math.exp(2))
"""What is said for and against: the logits of all images below differ by 2."""


def test_hand_computed_values_of_a_two_layer_network():
    """Gradients of the images' losses, first layer then second.

    (1, 2) of class 0: a [[-2, -4], [2, 4]], a [[-1, -2], [1, 2]];
    (2, 1) of class 0: b [[-4, -2], [4, 2]], b [[-2, -1], [2, 1]];
    (1, 0) of class 1: a [[2, 0], [0, 0]], a [[1, 0], [-1, 0]], as the second hidden unit is off.
    Activation · gradient of the channels: (-2a, 4a), (-4b, 2b), (2a, 0), then (a, a), (-b, -b), (a, a).
    """
    x, y = torch.tensor([[1.0, 2.0], [2.0, 1.0], [1.0, 0.0]]), torch.tensor([0, 0, 1])
    names = ["fisher", "grad_norm", "l2_norm", "plain", "snip"]
    found = measure(two_layers(), [(x, y)], names, np.random.default_rng(0))
    first = math.hypot(4 * B, 4 * A + 2 * B, 2 * A + 4 * B, 4 * A + 2 * B) / 3
    second = math.hypot(2 * B, 2 * A + B, 2 * B, 2 * A + B) / 3
    assert found["grad_norm"] == pytest.approx(first + second, rel=1e-6)
    assert found["plain"] == pytest.approx((8 * A - 4 * B) / 3, rel=1e-6)
    assert found["snip"] == pytest.approx((8 * A + 12 * B) / 3, rel=1e-6)
    # Of each channel half the mean over three images of a square of thirds, for both of its weights.
    hidden = (4 * A**2 + 16 * B**2 + 4 * A**2) + (16 * A**2 + 4 * B**2)
    assert found["fisher"] == pytest.approx((hidden + 2 * (2 * A**2 + B**2)) / 27, rel=1e-6)
    assert found["l2_norm"] == pytest.approx(math.sqrt(2) + 2)


def test_zico_by_hand():
    """Of two numbers of one sign, mean over standard deviation is their sum over their difference.

    Accumulated, g and g + h: (|g| + |h| / 2) / (|h| / 2).
    """
    batches = [(torch.tensor([[1.0, 2.0]]), torch.tensor([0])), (torch.tensor([[2.0, 1.0]]), torch.tensor([0]))]
    found = measure(two_layers(), batches, ["zico", "zico_accumulated"], np.random.default_rng(0))
    layer = 2 * (A + 2 * B) / (A - 2 * B) + 2 * (2 * A + B) / (2 * A - B)
    assert found["zico"] == pytest.approx(2 * math.log(layer), rel=1e-5)
    accumulated = 2 * (1 + 2 * A / (2 * B)) + 2 * (1 + 4 * A / B)
    assert found["zico_accumulated"] == pytest.approx(2 * math.log(accumulated), rel=1e-5)


def test_zico_of_three_minibatches_is_the_formula():
    network, batches = convolutions(), [images() for _ in range(3)]
    gradients: dict[str, list[np.ndarray]] = {}
    for x, y in batches:
        network.zero_grad()
        F.cross_entropy(network.train()(x), y).backward()
        for name, layer in weighted_layers(network):
            gradients.setdefault(name, []).append(layer.weight.grad.double().numpy().copy())
    found = measure(network, batches, ["zico", "zico_accumulated"], np.random.default_rng(0))
    for name, turn in (("zico", np.asarray), ("zico_accumulated", lambda parts: np.cumsum(parts, axis=0))):
        total = 0.0
        for parts in gradients.values():
            rows = turn(parts)
            total += np.log((np.abs(rows).mean(0) / rows.std(0)).sum())
        assert found[name] == pytest.approx(total, rel=1e-4)


def test_grasp_is_the_whole_hessian_times_the_gradient():
    network = nn.Sequential(
        nn.Conv2d(3, 2, 3, bias=False), nn.BatchNorm2d(2), nn.Hardswish(), nn.Flatten(), nn.Linear(32, 4)
    )
    x, y = images()
    weights = [layer.weight.detach().double() for _, layer in weighted_layers(network)]
    shapes, sizes = [weight.shape for weight in weights], [weight.numel() for weight in weights]
    names = [f"{name}.weight" for name, _ in weighted_layers(network)]
    twin = network.double().train()

    def loss(flat: Tensor) -> Tensor:
        parts = [part.view(shape) for part, shape in zip(flat.split(sizes), shapes, strict=True)]
        return F.cross_entropy(torch.func.functional_call(twin, dict(zip(names, parts, strict=True)), x.double()), y)

    flat = torch.cat([weight.flatten() for weight in weights])
    hessian = torch.autograd.functional.hessian(loss, flat)
    (gradient,) = torch.autograd.grad(loss(flat.requires_grad_()), flat)
    found = measure(network.float(), [(x, y)], ["grasp"], np.random.default_rng(0))
    assert found["grasp"] == pytest.approx(-float(flat.detach() @ hessian @ gradient), rel=1e-3)


@pytest.mark.parametrize("gate", [nn.Hardsigmoid, nn.Sigmoid, nn.Hardswish, nn.GELU])
def test_grasp_knows_activations_that_torch_differentiates_once(gate):
    assert isinstance(scores(convolutions(nn.Conv2d(8, 8, 1), gate()))["grasp"], float)


class Attentive(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.qkv, self.head = nn.Conv2d(3, 8, 2, stride=2), nn.Linear(8, 24), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.stem(x).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(tokens).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        return self.head(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2).mean(1))


def test_attention_has_all_of_them():
    """Channels of a linear layer are its last axis; fused attention is left out where it cannot be differentiated."""
    network, (x, y) = Attentive(), images()
    found = measure(network, [(x, y), images()], FAMILY, np.random.default_rng(0))
    assert all(isinstance(score, float) for score in found.values())
    tokens = network.qkv(network.stem(x).flatten(2).transpose(1, 2))
    signals = Signals(network, [(x, y)])
    assert signals.gradient().factors["qkv"].shape == (12, tokens.shape[2])


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.again, self.rest = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, padding=1), nn.Sequential(*head(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.rest(self.again(F.relu(self.again(self.first(x)))))


def test_a_layer_that_is_called_twice_has_the_derivative_of_one_factor():
    network, (x, y) = Twice(), images()
    factor = torch.ones(12, 4, dtype=torch.float64, requires_grad=True)
    twin = Signals(network, [(x, y)]).copy(torch.float64)
    twin.again.register_forward_hook(lambda layer, args, output: output * factor[:, :, None, None])
    F.cross_entropy(twin(x.double()), y).backward()
    found = Signals(network, [(x, y)]).gradient().factors["again"]
    torch.testing.assert_close(found.double(), factor.grad, rtol=1e-4, atol=1e-7)


def test_a_shared_weight_counts_once():
    one, other = nn.Conv2d(3, 3, 3, padding=1, bias=False), nn.Conv2d(3, 3, 3, padding=1, bias=False)
    other.weight = one.weight
    rest = head(3)
    shared = nn.Sequential(one, nn.ReLU(), other, nn.ReLU(), *rest)
    twice = nn.Sequential(one, nn.ReLU(), one, nn.ReLU(), *rest)
    names, batches = ("grad_norm", "grasp", "l2_norm", "plain", "snip", "zico"), [images(), images()]
    found = measure(shared, batches, names, np.random.default_rng(0))
    assert found == measure(twice, batches, names, np.random.default_rng(0))


def test_activations_in_place_do_not_change_what_channels_are_worth():
    torch.manual_seed(3)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Hardswish(), nn.Conv2d(8, 8, 1), nn.ReLU(), *head(8))
    expected = scores(network)
    torch.manual_seed(3)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Hardswish(True), nn.Conv2d(8, 8, 1), nn.ReLU(True), *head(8))
    assert scores(network) == expected


class InPlace(nn.Module):
    """Changes what a layer gave without a layer."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mul_(2.0)


class Rows(nn.Module):
    """A layer that sees positions as rows."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.rest = nn.Linear(3, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.inner(x.permute(0, 2, 3, 1).reshape(-1, 3))
        return self.rest(F.relu(rows).unflatten(0, (len(x), -1)).mean(1))


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.rest = nn.Conv2d(3, 4, 3), nn.Sequential(*head(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.rest(F.relu(F.conv2d(x, self.first.weight)))


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (lambda: nn.Sequential(nn.Conv2d(3, 8, 3), InPlace(), nn.ReLU(), *head(8)), "changed in place"),
        (Rows, "gives 432 rows for 12 images"),
        (Functional, "used outside of the layer"),
    ],
)
def test_what_fisher_refuses_the_others_do_not(network, words):
    found = scores(network())
    assert words in found.pop("fisher").reason
    assert all(isinstance(score, float) for score in found.values())


class Deaf(nn.Module):
    """Its output is its bias."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.rest = nn.Conv2d(3, 4, 3), nn.Sequential(nn.BatchNorm2d(4), nn.ReLU(), *head(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.rest(self.stem(x).mul(0.0))


@pytest.mark.parametrize("count", [1, 12])
def test_a_network_that_does_not_see_its_input_is_undefined(count):
    batches = [images(count, 9) for _ in range(2)]
    for name, score in measure(Deaf(), batches, FAMILY, np.random.default_rng(0)).items():
        assert isinstance(score, Undefined), name
        assert "does not depend on the image" in score.reason


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), "the output must be"),
        (lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(3)), "no Conv2d or Linear"),
        (
            lambda: nn.Sequential(torch.nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3)), *head(4)),
            "parametrised",
        ),
        (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(64, 4), Huge()), "overflowed"),
    ],
)
def test_all_are_undefined_with_a_reason(network, words):
    for name, score in scores(network()).items():
        assert isinstance(score, Undefined), name
        assert words in score.reason


class Huge(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 1e30 * 1e30


def test_one_value_for_a_batch_norm_is_undefined():
    network = nn.Sequential(nn.Conv2d(3, 4, 6), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4, 4))
    found = measure(network, [images(1)], ("grad_norm", "grasp"), np.random.default_rng(0))
    assert all("one value per channel" in score.reason for score in found.values())


def test_zico_refuses_what_tells_it_nothing():
    batch = images()
    alone = measure(convolutions(), [batch], ["zico"], np.random.default_rng(0))["zico"]
    assert "nothing to be compared with" in alone.reason
    same = measure(convolutions(), [batch, batch], ["zico"], np.random.default_rng(0))["zico"]
    assert "same gradient" in same.reason
    # A layer norm over all that is averaged: the mean is constant, whatever comes before.
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.Flatten(), nn.LayerNorm(64, elementwise_affine=False), Mean(), Sense()
    )
    noise = scores(network)["zico"]
    assert "zero by structure" in noise.reason


class Mean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x.mean(1, keepdim=True), x[:, :0]], dim=1)


class Sense(nn.Module):
    """A classifier that sees the image beside what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 4)
        self.noise = nn.Parameter(torch.randn(12, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + self.noise[: len(x)]


def test_passes_are_shared(monkeypatch):
    runs: list[int] = []
    run = summed.batch_gradient
    monkeypatch.setattr(summed, "batch_gradient", lambda signals, batch: (runs.append(batch), run(signals, batch))[1])
    names = ("fisher", "grad_norm", "l2_norm", "plain", "snip", "zico", "zico_accumulated")
    found = scores(convolutions(), names, count=3)
    assert all(isinstance(score, float) for score in found.values())
    assert sorted(runs) == [0, 1, 2]
