"""Ranks of several proxies made into one, and the components that AZ-NAS makes them of."""

from __future__ import annotations

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from predictors.proxies import NotDefined, Undefined, catalogue, measure
from predictors.proxies.aggregates import AZ_NAS, VOTE, az_nas, vote
from predictors.proxies.az_components import Expressivity, Progressivity, Trainability
from predictors.proxies.signals import Signals
from search_spaces.plugins import load
from tests.spaces import CASES

NAN = math.nan


def table(rows: int = 40, columns: int = 3, seed: int = 0) -> np.ndarray:
    # Rounded, so that scores are equal at times.
    return np.random.default_rng(seed).normal(size=(rows, columns)).round(1)


# ---------------------------------------------------------------------- ranks


def test_az_nas_by_hand():
    found = az_nas([[1.0, 5.0], [2.0, 5.0], [3.0, 0.0], [4.0, 9.0]], ["a", "b"])
    ranks = [(1, 2.5), (2, 2.5), (3, 1), (4, 4)]
    np.testing.assert_allclose(found.scores, [math.log(a / 4) + math.log(b / 4) for a, b in ranks])
    assert found.ranked == 4


def test_az_nas_is_the_published_sum():
    values = table()
    expected = sum(np.log(stats.rankdata(column) / len(values)) for column in values.T)
    np.testing.assert_allclose(az_nas(values, "abc").scores, expected)
    lower = sum(
        np.log(stats.rankdata(sign * column) / len(values)) for sign, column in zip((1, -1, 1), values.T, strict=True)
    )
    np.testing.assert_allclose(az_nas(values, "abc", ["higher", "lower", "higher"]).scores, lower)


def test_vote_by_hand():
    """The first beats the second two to one and the third three to none; the second and the third draw."""
    found = vote([[3.0, 3.0, 1.0], [2.0, 0.0, 2.0], [1.0, 0.5, 0.5], [9.0, 9.0, 9.0]], ["a", "b", "c"])
    wins = {0: [1, 2], 1: [2], 2: [], 3: [0, 1, 2]}
    np.testing.assert_allclose(found.scores, [len(wins[row]) / 3 for row in range(4)])
    draw = vote([[1.0, 2.0], [2.0, 1.0]], ["a", "b"])
    np.testing.assert_array_equal(draw.scores, [0.5, 0.5])


def test_majorities_that_go_in_circles_are_no_order():
    circle = [[1.0, 3.0, 2.0], [2.0, 1.0, 3.0], [3.0, 2.0, 1.0]]
    np.testing.assert_array_equal(vote(circle, ["a", "b", "c"]).scores, [0.5, 0.5, 0.5])


@pytest.mark.parametrize("columns", [1, 2, 3])
def test_vote_is_the_majority_pair_by_pair(columns, monkeypatch):
    monkeypatch.setattr("predictors.proxies.aggregates._PAIRS", 100)
    values = table(columns=columns)
    expected = []
    for one, mine in enumerate(values):
        won = 0.0
        for other, theirs in enumerate(values):
            balance = sum(np.sign(a - b) for a, b in zip(mine, theirs, strict=True))
            won += (one != other) * (1.0 if balance > 0 else 0.5 if balance == 0 else 0.0)
        expected.append(won / (len(values) - 1))
    np.testing.assert_allclose(vote(values, "abc"[:columns]).scores, expected)


def test_vote_agrees_with_every_published_majority_without_circles():
    """Published: a pair's better one is that with the majority of three scores."""
    rng = np.random.default_rng(3)
    quality = np.arange(30.0)
    values = np.stack([quality, quality, rng.normal(size=30)], axis=1)
    scores = vote(values).scores
    for i, j in itertools.combinations(range(30), 2):
        positive = sum(d > 0 for d in values[j] - values[i])
        assert (scores[j] > scores[i]) == (positive >= 3 / 2)


@pytest.mark.parametrize("aggregate", [az_nas, vote])
def test_rows_without_a_score_are_left_out_of_the_pool(aggregate):
    values = table(12)
    whole = aggregate(values, "abc")
    holes = np.insert(values, [0, 5], [[NAN, 9.0, 9.0], [9.0, NAN, NAN]], axis=0)
    found = aggregate(holes, "abc")
    assert np.flatnonzero(np.isnan(found.scores)).tolist() == [0, 6]
    np.testing.assert_array_equal(found.scores[~np.isnan(found.scores)], whole.scores)
    assert (found.pool, found.ranked) == (whole.pool, 12)
    nothing = aggregate(np.full((3, 3), NAN), "abc")
    assert np.isnan(nothing.scores).all()
    assert nothing.ranked == 0
    assert len(aggregate(np.empty((0, 3)), "abc").scores) == 0


def test_the_pool_is_a_set():
    values = table(20)
    pool = az_nas(values, "abc").pool
    assert len(pool) == 32
    assert az_nas(values[::-1], "abc").pool == pool
    assert vote(values, "abc").pool == pool
    assert az_nas(values[1:], "abc").pool != pool
    assert az_nas(values + np.array([0.0, 1e-9, 0.0]), "abc").pool != pool
    assert az_nas(values, "abd").pool != pool
    assert az_nas(values, "abc", ["higher", "higher", "lower"]).pool != pool
    zeros = np.array([[0.0, 1.0], [-0.0, 2.0]])
    assert az_nas(zeros, "ab").pool == az_nas(np.abs(zeros), "ab").pool


def test_a_rank_depends_on_the_pool():
    values = table(20)
    whole, half = az_nas(values, "abc"), az_nas(values[:10], "abc")
    assert not np.allclose(whole.scores[:10], half.scores)
    assert az_nas(values[:1], "abc").scores == 0.0
    assert vote(values[:1], "abc").scores == 0.5


@pytest.mark.parametrize("aggregate", [az_nas, vote])
@pytest.mark.parametrize(
    ("values", "columns", "directions", "words"),
    [
        ([[1.0, 2.0]], ["a"], None, r"must be \(n, 1\)"),
        ([1.0, 2.0], ["a", "b"], None, r"must be \(n, 2\)"),
        (np.empty((2, 0)), [], None, r"must be \(n, 0\)"),
        ([[1.0, 2.0]], ["a", "a"], None, "must differ"),
        ([[1.0, 2.0]], ["a", "b"], ["higher"], "one for each"),
        ([[1.0, 2.0]], ["a", "b"], ["higher", "best"], "higher or lower"),
        ([[1.0, math.inf]], ["a", "b"], None, "infinite"),
    ],
)
def test_tables_that_are_none(aggregate, values, columns, directions, words):
    with pytest.raises(ValueError, match=words):
        aggregate(values, columns, directions)


def test_published_columns_are_proxies_of_their_direction():
    known = {about.name: about for about in catalogue()}
    for name in {*AZ_NAS, *VOTE} & set(known):
        assert known[name].direction == "higher"
    assert set(AZ_NAS) <= set(known)


# ---------------------------------------------------------------------- AZ-NAS's components


class Blocks(nn.Module):
    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__()
        self.stem, self.blocks = nn.Conv2d(3, 4, 3, padding=1), nn.ModuleList(blocks)
        self.head = nn.LazyLinear(3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((2, 3)))


def block(inside: int, outside: int, stride: int = 1) -> nn.Module:
    return nn.Sequential(
        nn.ReLU(inplace=True), nn.Conv2d(inside, outside, 3, stride, 1, bias=False), nn.BatchNorm2d(outside)
    )


def blocks(*members: nn.Module) -> nn.Module:
    network = Blocks(*members)
    network(torch.zeros(2, 3, 8, 8))
    return network


def signals(network: nn.Module, count: int = 6, size: int = 8) -> Signals:
    x = torch.zeros(count, 3, size, size)
    return Signals(network, [(x, torch.zeros(count, dtype=torch.int64))], seed=7)


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def published(network: nn.Module, given: Signals) -> tuple[list[float], list[float]]:
    """Each block's entropy and Jacobian score, written out as in the paper; the same draws."""
    network, generator = copy.deepcopy(network), given.generator("blocks")
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                inputs = layer.weight[0].numel()
                layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator) * math.sqrt(2 / inputs))
                if layer.bias is not None:
                    layer.bias.zero_()
    x = network.stem(torch.randn(given.batches[0][0].shape, generator=generator))
    entropies, features = [], []
    for member in network.train().blocks:
        x = member(x.clone())
        features.append(x)
        rows = np.array(
            [x[i, :, u, v].tolist() for i in range(len(x)) for u in range(x.shape[2]) for v in range(x.shape[3])]
        )
        values = np.linalg.eigvalsh(np.cov(rows.T, bias=True))
        shares = values / values.sum()
        entropies.append(float(-(shares * np.log(shares + 1e-8)).sum()))
    scores = []
    for given_map, made in reversed(list(itertools.pairwise(features))):
        signs = torch.randint(0, 2, made.shape, generator=generator) * 2.0 - 1.0
        (gradient,) = torch.autograd.grad(made, given_map, signs, retain_graph=True)
        if gradient.shape[2:] != made.shape[2:]:
            gradient = nn.PixelUnshuffle(gradient.shape[2] // made.shape[2])(gradient)
        product = torch.einsum("nihw,nohw->io", gradient, signs) / signs[:, 0].numel()
        largest = float(torch.linalg.svdvals(product)[0])
        scores.append(-largest - 1 / (largest + 1e-6) + 2)
    return entropies, scores


def test_components_are_the_published_formulas():
    network = blocks(block(4, 4), block(4, 6, 2), nn.Dropout(0.5), block(6, 6))
    given = signals(network)
    entropies, scores = published(blocks_without_dropout(network), given)
    assert Expressivity().score(given) == pytest.approx(sum(entropies), rel=1e-4)
    growth = [after - before for before, after in itertools.pairwise(entropies)]
    assert Progressivity().score(given) == pytest.approx(min(growth), rel=1e-3)
    assert Trainability().score(given) == pytest.approx(np.mean(scores), rel=1e-4)


def blocks_without_dropout(network: nn.Module) -> nn.Module:
    network = copy.deepcopy(network)
    network.blocks = nn.ModuleList(member for member in network.blocks if not isinstance(member, nn.Dropout))
    return network


def test_blocks_are_the_outer_row():
    """Neither the three layers of a block, nor the four branches of a wide one."""
    wide = nn.Sequential(*[block(4, 4) for _ in range(4)])
    for network, count in (
        (blocks(block(4, 4), block(4, 4)), 2),
        (blocks(block(4, 4), nn.MaxPool2d(2), wide), 2),
        (nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), wide, nn.Flatten(), nn.Linear(256, 2)), 4),
        (nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Dropout(), nn.Flatten(), nn.Linear(256, 2)), 2),
    ):
        assert len(signals(network).block_scores().expressivity) == count


def test_trainability_is_highest_where_blocks_keep_gradients():
    """A 1 × 1 convolution with an orthogonal matrix has singular values 1: 2 - 1 - 1 = 0, up to the average's noise."""

    class Fixed(nn.Module):
        def __init__(self, scale: float) -> None:
            super().__init__()
            turn = torch.linalg.qr(torch.randn(4, 4))[0] * scale
            self.register_buffer("kernel", turn[:, :, None, None])

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.conv2d(x, self.kernel)

    values = [Trainability().score(signals(blocks(Fixed(1.0), Fixed(scale)), 64)) for scale in (0.5, 1.0, 2.0)]
    # Four positions of 1/4 each: σ = 1/2. Of 5 × 5 positions some lie beyond the edge, and the others of a mean count
    # more: 4/9, 2/9, 2/9 and 1/9 on average, σ = 5/9.
    for size, expected in ((6, -0.5), (5, 2 - 5 / 9 - 9 / 5)):
        pooled = blocks(Fixed(1.0), nn.AvgPool2d(2, ceil_mode=True))
        assert Trainability().score(signals(pooled, 1000, size)) == pytest.approx(expected, abs=0.06)
    # By hand: 2 - σ - 1/σ for σ = 1/2, 1 and 2.
    np.testing.assert_allclose(values, [-0.5, 0.0, -0.5], atol=0.06)


class Constant(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 0.0 + 1.0


class Deaf(nn.Module):
    """Its output varies, but not with its input."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 0.0 + torch.linspace(0, 1, x.numel()).view_as(x)


def test_components_are_undefined_with_a_reason():
    with pytest.raises(NotDefined, match="block 2 gives a constant"):
        Expressivity().score(signals(blocks(block(4, 4), nn.Sequential(Constant()))))
    with pytest.raises(NotDefined, match="no row of two blocks"):
        Progressivity().score(signals(blocks(nn.Conv2d(4, 4, 1), nn.Dropout())))
    for member, words in (
        (nn.LeakyReLU(1.0), "block 2 hands on its input"),
        (Deaf(), "block 2 does not depend"),
        (nn.Upsample(scale_factor=2), "which is more"),
    ):
        given = signals(blocks(block(4, 4), nn.Sequential(member)))
        assert isinstance(Expressivity().score(given), float)
        with pytest.raises(NotDefined, match=words):
            Trainability().score(given)


@pytest.mark.parametrize(("case", "side"), [("nasbench201-tiny", 16), ("vit-tiny", 4), ("mobilenetv3-tiny", 32)])
def test_components_rank_architectures_of_a_space(case, side):
    plugin, options = CASES[case]
    space = load("spaces", plugin)(**options)
    rows = []
    for genes in space.sample(4, np.random.default_rng(6)):
        batch = (torch.zeros(6, options.get("in_channels", 3), side, side), torch.zeros(6, dtype=torch.int64))
        scores = measure(space.build(genes), [batch], AZ_NAS, np.random.default_rng(0))
        rows.append([NAN if isinstance(scores[name], Undefined) else scores[name] for name in AZ_NAS])
    found = az_nas(rows)
    assert found.ranked >= 2
    assert len(set(found.scores[~np.isnan(found.scores)])) >= 2
