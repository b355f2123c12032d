"""What passes stand on: copies, free memory, repeated initialisations, and what proxies say of themselves."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections import OrderedDict
from dataclasses import replace

import numpy as np
import psutil
import pytest
import torch
from scipy.stats import t
from torch import Tensor, nn

from predictors.proxies import Repeated, Undefined, catalogue, measure, measure_repeatedly
from predictors.proxies.clones import clone
from predictors.proxies.room import free_bytes
from predictors.proxies.signals import Signals
from search_spaces import plugins
from search_spaces.networks.initialise import initialise


class Odd(nn.Module):
    """What copies get wrong: shared weights, lists beside the registry, views, buffers, and a cycle."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.second.weight = self.first.weight
        self.beside = [self.first, self.second]
        self.table = OrderedDict(one=self.first.weight)
        self.register_buffer("counts", torch.arange(3))
        self.register_buffer("scale", torch.ones(3))
        numbers = torch.arange(4)
        self.views = [numbers[1:], numbers[1:3]]
        self.sizes, self.names, self.note = (3, 3), {"a", "b"}, {"depth": [1]}
        self.__dict__["me"] = self
        self.norm = nn.BatchNorm1d(3)
        self.lists = nn.ParameterList([nn.Parameter(torch.ones(2)), nn.Parameter(torch.zeros(1))])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.beside:
            x = layer(x)
        return self.norm(x) * self.scale + self.lists[0].sum()


def test_clones_are_deep_copies():
    torch.manual_seed(0)
    network = Odd().train()
    network.first.bias.requires_grad_(False)
    network.first.weight.grad = torch.ones(3, 3)
    twin, deep = clone(network, torch.float32), copy.deepcopy(network)
    assert type(twin) is Odd
    assert list(twin.state_dict()) == list(network.state_dict())
    assert twin.first.weight is twin.second.weight is twin.table["one"]
    assert twin.beside[0] is twin.first
    assert twin.me is twin
    assert twin.views[0].data_ptr() == twin.views[1].data_ptr() != network.views[0].data_ptr()
    assert twin.note == network.note
    assert twin.note["depth"] is not network.note["depth"]
    assert twin.names is not network.names
    assert [p.requires_grad for p in twin.parameters()] == [p.requires_grad for p in network.parameters()]
    assert all(p.grad is None for p in twin.parameters())
    own = {tensor.untyped_storage().data_ptr() for tensor in network.state_dict().values()}
    assert not own & {tensor.untyped_storage().data_ptr() for tensor in twin.state_dict().values()}
    x = torch.randn(4, 3)
    assert torch.equal(twin(x), deep(x))
    assert not torch.equal(twin.norm.running_mean, network.norm.running_mean)


def test_clones_in_another_dtype():
    network = Odd()
    twin = clone(network, torch.float64)
    assert {p.dtype for p in twin.parameters()} == {torch.float64}
    assert twin.counts.dtype == torch.int64
    assert twin.norm.running_mean.dtype == twin.scale.dtype == torch.float64
    assert torch.equal(twin.first.weight, network.first.weight.double())
    assert {p.dtype for p in network.parameters()} == {torch.float32}


class Copies(nn.Module):
    """A class that copies itself."""

    def __init__(self, label: str) -> None:
        super().__init__()
        self.layer, self.label = nn.Linear(2, 2), label

    def __deepcopy__(self, memo: dict[int, object]) -> Copies:
        return Copies("copied")


def test_classes_that_copy_themselves_do_so():
    network = nn.Sequential(Copies("made"), nn.Linear(2, 2))
    twin = clone(network, torch.float64)
    assert twin[0].label == "copied"
    assert twin[0].layer.weight.dtype == torch.float64


def test_computed_tensors_cannot_be_copied():
    network = nn.Linear(2, 2)
    network.doubled = network.weight * 2
    with pytest.raises(RuntimeError):
        clone(network, torch.float32)
    scores = measure(nn.Sequential(network), [(torch.randn(2, 2), torch.tensor([0, 1]))], ["snip"], rng())
    assert "cannot be copied" in scores["snip"].reason


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_free_memory_is_the_container_s_if_that_is_less(tmp_path):
    cpu = torch.device("cpu")
    assert 0 < free_bytes(cpu) <= psutil.virtual_memory().total
    for name, text in (("max", "1000000\n"), ("current", "700000\n"), ("stat", "anon 5\ninactive_file 100000\n")):
        (tmp_path / f"memory.{name}").write_text(text)
    assert free_bytes(cpu, tmp_path) == 400_000
    (tmp_path / "memory.max").write_text("max\n")
    assert free_bytes(cpu, tmp_path) > 400_000
    assert free_bytes(cpu, tmp_path / "none") > 400_000


def test_images_pass_together_or_in_halves():
    batch = torch.randn(20, 3), torch.zeros(20, dtype=torch.int64)
    network = nn.Linear(3, 2)
    at_once = [Signals(network, [batch], memory_bytes=room).images_at_once(10) for room in (200, 199, 60, 49, 9, 0)]
    assert at_once == [20, 10, 5, 3, 1, 1]
    assert Signals(network, [batch], memory_bytes=10**6, at_once=7).images_at_once(10) == 7
    assert Signals(network, [batch]).images_at_once(10) == 20
    assert Signals(network, [batch]).images_at_once(10**18) == 1


def build(generator: np.random.Generator) -> nn.Module:
    return initialise(nn.Sequential(nn.Flatten(), nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, 3)), generator)


def test_several_initialisations_give_mean_and_interval():
    batches = [(torch.randn(8, 3, 2, 2), torch.randint(0, 3, (8,)))]
    found = measure_repeatedly(build, batches, ["snip", "params", "zico"], [5, 6, 7])
    snip = found["snip"]
    assert isinstance(snip, Repeated)
    scores = np.array(snip.scores)
    assert len(set(snip.scores)) == 3
    assert snip.mean == pytest.approx(scores.mean())
    reach = t.ppf(0.975, 2) * scores.std(ddof=1) / np.sqrt(3)
    assert (snip.low, snip.high) == pytest.approx((scores.mean() - reach, scores.mean() + reach))
    assert found["params"] == Repeated(99.0, 99.0, 99.0, (99.0,) * 3)
    assert found["zico"] == Undefined("initialised from seed 5: one minibatch has nothing to be compared with")
    longer = measure_repeatedly(build, batches, ["snip"], [5, 6, 7, 8], confidence=0.5)["snip"]
    assert longer.scores[:3] == snip.scores
    assert longer.high - longer.low < snip.high - snip.low


@pytest.mark.parametrize(("seeds", "confidence"), [([1], 0.95), ([1, 1], 0.95), ([1, 2], 1.0)])
def test_initialisations_that_cannot_be_compared_are_refused(seeds, confidence):
    with pytest.raises(ValueError, match=r"seeds|confidence"):
        measure_repeatedly(build, [], ["params"], seeds, confidence=confidence)


def test_the_catalogue_is_whole_and_takes_no_torch():
    found = catalogue()
    assert [about.name for about in found] == plugins.names("proxies")
    assert len({about.title for about in found}) == len(found)
    assert catalogue(["snip"])[0] in found
    with pytest.raises(plugins.UnknownPlugin):
        catalogue(["nonesuch"])
    code = "import sys; from predictors.proxies import catalogue; catalogue(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("field", "value"), [("paper", ""), ("needs", frozenset(("luck",))), ("direction", "sideways"), ("title", "")]
)
def test_what_says_too_little_is_refused(field, value):
    about = catalogue(["snip"])[0]
    with pytest.raises(ValueError, match="snip"):
        replace(about, **{field: value})
