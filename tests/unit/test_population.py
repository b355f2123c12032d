"""Distribution functions and what shifts them, beside scipy's own and beside a bootstrap that really draws."""

from __future__ import annotations

import numpy as np
import pytest
from pyarrow import parquet
from scipy import stats

from search_spaces.nasbench201 import NasBench201
from service.core import population
from service.core.objectives import Direction
from tests.shared import SHARED, needs_shared

SPACE = NasBench201(identity="row")
MIN, MAX = Direction.MINIMISE, Direction.MAXIMISE


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(5)


@pytest.mark.parametrize("direction", [MIN, MAX])
def test_the_curve_counts_those_at_least_as_good(direction: Direction, rng: np.random.Generator) -> None:
    values = np.round(rng.normal(size=300), 1)
    made = population.curve(values, direction)
    np.testing.assert_array_equal(made.thresholds, np.unique(values))
    for threshold, share in zip(made.thresholds, made.share, strict=True):
        assert share == (values <= threshold if direction is MIN else values >= threshold).mean()
    assert (made.low <= made.share).all()
    assert (made.share <= made.high).all()


def test_the_band_is_what_drawing_again_gives(rng: np.random.Generator) -> None:
    values = rng.normal(size=80)
    made = population.curve(values, MIN)
    drawn = values[rng.integers(80, size=(20_000, 80))]
    shares = (drawn[:, :, None] <= made.thresholds[None, None, ::20]).mean(axis=1)
    low, high = np.quantile(shares, [0.025, 0.975], axis=0)
    np.testing.assert_allclose(made.low[::20], low, atol=1 / 80)
    np.testing.assert_allclose(made.high[::20], high, atol=1 / 80)


def test_long_curves_are_thinned_and_keep_their_ends(rng: np.random.Generator) -> None:
    values = rng.normal(size=5000)
    made = population.curve(values, MIN)
    assert len(made.thresholds) == 200
    assert made.thresholds[[0, -1]].tolist() == [values.min(), values.max()]
    assert np.isin(made.thresholds, values).all()


@pytest.mark.parametrize("direction", [MIN, MAX])
def test_shifts_are_those_of_scipy(direction: Direction, rng: np.random.Generator) -> None:
    values = np.round(rng.normal(size=120), 1)
    mask = rng.random(120) < 0.3
    values[mask] += 0.4
    found = population.shift(mask, values, direction)
    assert found is not None
    one, other = values[mask], values[~mask]
    welch = stats.ttest_ind(one, other, equal_var=False).confidence_interval(0.95)
    np.testing.assert_allclose([found.low, found.high], welch)
    assert found.difference == pytest.approx(one.mean() - other.mean())
    # The signed area between two distribution functions is the difference of the means.
    grid = np.linspace(values.min() - 1, values.max() + 1, 200_001)
    area = sum(
        sign * (np.searchsorted(np.sort(side), grid, side="right") / len(side)).mean() * np.ptp(grid)
        for sign, side in ((-1, one), (1, other))
    )
    assert found.difference == pytest.approx(area, abs=1e-3)
    pairs = one[:, None] - other[None, :]
    wins = ((pairs < 0) if direction is MIN else (pairs > 0)).mean() + 0.5 * (pairs == 0).mean()
    assert found.better == pytest.approx(wins)


def test_few_on_one_side_are_not_compared() -> None:
    assert population.shift(np.arange(40) < 4, np.arange(40.0), MIN) is None


def test_effects_are_kruskal_and_wallis(rng: np.random.Generator) -> None:
    genes = SPACE.sample(400, rng)
    values = np.round(rng.normal(size=400) + 2.0 * (genes[:, 2] == 3), 1)
    found = population.effects(SPACE, genes, values, MIN)
    assert found[0].choice == "e12"
    raw = []
    for each in sorted(found, key=lambda each: each.choice):
        column = [choice.name for choice in SPACE.choices].index(each.choice)
        tested = stats.kruskal(*(values[genes[:, column] == option] for option in range(5)))
        assert each.effect == pytest.approx(tested.statistic / 399)
        raw.append(tested.pvalue)
        assert [option for option, _ in each.options] == list(SPACE.choices[column].options)
    adjusted = stats.false_discovery_control(raw)
    np.testing.assert_allclose([each.p for each in sorted(found, key=lambda each: each.choice)], adjusted)
    strongest = max(found[0].options, key=lambda pair: pair[1].difference)
    assert strongest[0] == "nor_conv_3x3"


def test_values_that_are_all_equal_shift_nothing(rng: np.random.Generator) -> None:
    made = population.describe(SPACE, SPACE.sample(60, rng), np.ones(60), MIN, rng)
    assert (made.mean, made.mean_low, made.mean_high, made.median, made.best) == (1, 1, 1, 1, 1)
    assert made.curve.share.tolist() == [1.0]
    assert all((each.effect, each.p) == (0, 1) for each in made.choices)
    assert all(shift.difference == 0 and shift.better == 0.5 for each in made.choices for _, shift in each.options)


def test_too_little_is_refused(rng: np.random.Generator) -> None:
    genes = SPACE.sample(3, rng)
    for rows, values in ((genes[:1], [1.0]), (genes, [1.0, 2.0]), (genes, [1.0, 2.0, np.nan])):
        with pytest.raises(ValueError, match=r"two rows|finite"):
            population.describe(SPACE, rows, np.array(values), MIN, rng)


@needs_shared
def test_the_published_table_as_a_population(rng: np.random.Generator) -> None:
    """What hundreds of cells say of all: 95 % bands hold the distribution of the whole table in most places."""
    folder = SHARED / "data/nb201"
    genes = SPACE.from_notation(parquet.read_table(folder / "archs.parquet", columns=["arch_str"])[0].to_pylist())
    column = parquet.read_table(folder / "cifar10_acc.parquet", columns=["test_acc_200"])[0]
    error = 100 - np.array(column.to_pylist())
    ordered, held = np.sort(error), []
    for _ in range(100):
        drawn = population.curve(error[rng.choice(len(genes), 400, replace=False)], MIN)
        truth = np.searchsorted(ordered, drawn.thresholds, side="right") / len(error)
        inner = (truth > 0.02) & (truth < 0.98)  # at the ends a bootstrap never sees what was not drawn
        held.append(((drawn.low <= truth) & (truth <= drawn.high))[inner].mean())
    assert 0.91 < np.mean(held) < 0.98
    some = rng.choice(len(genes), 1000, replace=False)
    made = population.describe(SPACE, genes[some], error[some], MIN, rng)
    assert made.mean_low < error.mean() < made.mean_high
    # What counts is a way for the gradient past everything: the edge from input to output, and not cutting it.
    assert made.choices[0].choice == "e03"
    shifts = dict(made.choices[0].options)
    assert shifts["none"].low > 0
    assert shifts["skip_connect"].high < 0
    assert shifts["nor_conv_3x3"].high < 0
