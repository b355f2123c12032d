"""Rank statistics: known values, ties, degenerate input, and intervals that hold what they promise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from predictors import bootstrap, ranking
from predictors.bootstrap import Interval


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def correlated(n: int, rho: float, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    y = generator.normal(size=n)
    return rho * y + math.sqrt(1 - rho * rho) * generator.normal(size=n), y


def same(one: Interval, other: Interval) -> bool:
    return np.array_equal([one.value, one.low, one.high], [other.value, other.low, other.high], equal_nan=True)


def test_tau_of_known_rankings():
    y = np.arange(5.0)
    assert ranking.kendall_tau(y, y, rng()).value == 1.0
    assert ranking.kendall_tau(-y, y, rng()).value == -1.0
    # One of ten pairs is swapped: (9 - 1) / 10.
    assert ranking.kendall_tau([0, 1, 2, 4, 3], y, rng()).value == pytest.approx(0.8)
    # Four concordant of six pairs, one tied in x and one discordant: (4 - 1) / sqrt(5 * 6).
    assert ranking.kendall_tau([1, 1, 3, 2], [1, 2, 3, 4], rng()).value == pytest.approx(3 / math.sqrt(30))


def test_spearman_of_known_rankings():
    assert ranking.spearman([1, 10, 100], [1, 2, 3], rng()).value == pytest.approx(1.0)
    # d = (0, 0, 1, -1): 1 - 6 * 2 / (4 * 15).
    assert ranking.spearman([1, 2, 4, 3], [1, 2, 3, 4], rng()).value == pytest.approx(0.8)
    x, y = np.array([3, 1, 1, 2, 5, 5]), np.array([1, 2, 2, 2, 9, 7])
    assert ranking.spearman(x, y, rng()).value == pytest.approx(stats.spearmanr(x, y).statistic)


@pytest.mark.parametrize("statistic", [ranking.kendall_tau, ranking.spearman])
def test_values_do_not_depend_on_the_order_of_rows_or_on_scale(statistic):
    x, y = correlated(60, 0.7, rng(1))
    order = rng(2).permutation(60)
    here = statistic(x, y, rng())
    assert statistic(x[order], y[order], rng()).value == pytest.approx(here.value)
    assert same(statistic(np.exp(x), 3 * y - 1, rng()), here)
    assert same(statistic(x, y, rng()), here)
    assert not same(statistic(x, y, rng(9)), here)


def test_a_draw_of_tau_is_the_tau_of_the_drawn_rows():
    generator = rng(3)
    x, y = generator.integers(0, 6, 25).astype(float), generator.integers(0, 9, 25).astype(float)
    rows = generator.integers(0, 25, (40, 25))
    weights = np.stack([np.bincount(row, minlength=25) for row in rows]).astype(np.float32)
    expected = [stats.kendalltau(x[row], y[row]).statistic for row in rows]
    np.testing.assert_allclose(bootstrap.tau_draws(x, y)(weights), expected, atol=1e-6)
    ranks = [stats.spearmanr(x[row], y[row]).statistic for row in rows]
    tied_x, tied_y = bootstrap.Ties(x), bootstrap.Ties(y)
    for row, weight, rank in zip(rows, weights, ranks, strict=True):
        a, b = tied_x.midranks(weight[None])[0][row], tied_y.midranks(weight[None])[0][row]
        assert np.corrcoef(a, b)[0, 1] == pytest.approx(rank)


def test_large_samples_are_linearised_with_next_to_no_error(monkeypatch):
    x, y = correlated(400, 0.6, rng(4))
    exact = ranking.kendall_tau(x, np.round(y, 1), rng())
    monkeypatch.setattr(bootstrap, "_EXACT_ROWS", 10)
    linear = ranking.kendall_tau(x, np.round(y, 1), rng())
    assert linear.value == exact.value
    assert abs(linear.low - exact.low) < 0.004
    assert abs(linear.high - exact.high) < 0.004


def test_tau_intervals_cover_the_truth_as_often_as_stated():
    generator, rho, hits = rng(5), 0.7, 0
    truth = 2 / math.pi * math.asin(rho)
    for _ in range(200):
        x, y = correlated(40, rho, generator)
        interval = ranking.kendall_tau(x, y, generator, n_boot=200)
        hits += interval.low <= truth <= interval.high
    # 90 % of 200, within three standard deviations.
    assert 167 <= hits <= 193


def test_a_difference_is_paired():
    generator = rng(6)
    y = generator.normal(size=80)
    x = y + generator.normal(size=80)
    assert ranking.tau_difference(x, x, y, generator) == Interval(0.0, 0.0, 0.0, 80)
    close = ranking.tau_difference(x + 0.05 * generator.normal(size=80), x, y, generator)
    alone = ranking.kendall_tau(x, y, generator)
    assert close.high - close.low < 0.5 * (alone.high - alone.low)


def test_precision_counts_shared_top_rows():
    predicted, measured = [9, 8, 7, 1, 2, 3], [9, 1, 8, 7, 2, 3]
    assert ranking.precision_at_k(predicted, measured, 3, rng(), maximise=True).value == pytest.approx(2 / 3)
    # The smallest three: {1, 2, 3} at rows 3, 4, 5, and at rows 1, 4, 5.
    assert ranking.precision_at_k(predicted, measured, 3, rng(), maximise=False).value == pytest.approx(2 / 3)
    # All tied: two of four places at random, in both.
    tied = ranking.precision_at_k([1, 1, 1, 1], [1, 2, 3, 4], 2, rng(), maximise=True)
    assert tied.value == pytest.approx(0.5)
    assert tied.low < tied.high
    y = rng(7).normal(size=50)
    assert ranking.precision_at_k(y, y, 5, rng(), maximise=True) == Interval(1.0, 1.0, 1.0, 50)


def test_regret_is_what_the_best_of_the_top_lacks():
    predicted, measured = [5, 4, 3, 2], [0.7, 0.6, 0.9, 0.1]
    assert ranking.regret_at_k(predicted, measured, 2, rng(), maximise=True).value == pytest.approx(0.2)
    assert ranking.regret_at_k(predicted, measured, 3, rng(), maximise=True).value == 0.0
    assert ranking.regret_at_k(predicted, measured, 1, rng(), maximise=False).value == 0.0
    # One of three tied rows at random: the mean of 0.9 - (0.7, 0.6, 0.9).
    tied = ranking.regret_at_k([1, 1, 1, 0], measured, 1, rng(), maximise=True)
    assert tied.value == pytest.approx((0.2 + 0.3 + 0.0) / 3)
    # Two of three: the best of each pair is 0.7, 0.9, 0.9.
    tied = ranking.regret_at_k([1, 1, 1, 0], measured, 2, rng(), maximise=True)
    assert tied.value == pytest.approx(0.2 / 3)


def test_concordance_looks_within_groups_only():
    predicted, measured = [1, 2, 9, 8], [1, 2, 3, 4]
    whole = ranking.concordance(predicted, measured, [0, 0, 0, 0], rng())
    assert whole.value == pytest.approx(5 / 6)
    assert math.isnan(whole.low)
    split = ranking.concordance(predicted, measured, ["a", "a", "b", "b"], rng())
    assert (split.value, split.low, split.high, split.n) == (0.5, 0.0, 1.0, 4)
    # A tied prediction is half right; a tied measurement is no pair.
    assert ranking.concordance([1, 1, 5], [1, 2, 2], [0, 0, 0], rng()).value == pytest.approx(0.75)
    assert math.isnan(ranking.concordance([1, 2], [1, 2], [0, 1], rng()).value)


def test_trust_needs_probes_and_a_margin():
    x, y = correlated(60, 0.95, rng(8))
    weak = y + 3 * rng(9).normal(size=60)
    won = ranking.trust(x, {"macs": weak, "params": -weak}, y, rng())
    assert won.trusted
    assert won.best == "macs"
    assert won.words.startswith("better than macs")
    assert won.difference.value == pytest.approx(won.tau.value - won.baselines["macs"].value)
    early = ranking.trust(x[:14], {"macs": weak[:14]}, y[:14], rng())
    assert not early.trusted
    assert early.words.startswith("not known yet: 14 of the 15")
    even = ranking.trust(weak, {"macs": weak}, y, rng())
    assert not even.trusted
    assert even.words.startswith("no better than macs")
    lost = ranking.trust(weak, {"macs": x}, y, rng())
    assert not lost.trusted
    assert lost.words.startswith("worse than macs")


def test_trust_without_baselines_is_against_chance_and_constants_rank_nothing():
    x, y = correlated(40, 0.9, rng(10))
    assert ranking.trust(x, {}, y, rng()).trusted
    assert ranking.trust(x, {"macs": np.zeros(40)}, y, rng()).difference.value == pytest.approx(
        ranking.kendall_tau(x, y, rng()).value
    )
    constant = ranking.trust(np.ones(40), {"macs": x}, y, rng())
    assert not constant.trusted
    assert math.isnan(constant.tau.value)
    assert constant.difference.high < 0
    assert not ranking.trust([], {"macs": []}, [], rng()).trusted


def test_equal_predictors_are_seldom_trusted():
    generator, trusted = rng(11), 0
    for _ in range(150):
        y = generator.normal(size=20)
        x, baseline = (y + generator.normal(size=20) for _ in range(2))
        trusted += ranking.trust(x, {"macs": baseline}, y, generator, n_boot=200).trusted
    # One-sided 5 % of 150, and three standard deviations.
    assert trusted <= 15


def test_coverage_and_residuals():
    generator = rng(12)
    mean, std = generator.normal(size=500), generator.uniform(0.5, 2, 500)
    y = mean + std * generator.normal(size=500)
    held = ranking.coverage(mean, std, y)
    assert held.low < 0.9 < held.high
    assert ranking.coverage(mean, std, y, nominal=0.5).value == pytest.approx(0.5, abs=0.07)
    assert ranking.coverage(mean, std / 2, y).high < 0.9
    assert ranking.coverage([0.0, 0.0], [1.0, 1.0], [0.0, 9.0]).value == 0.5
    everything = ranking.coverage(np.zeros(10), np.ones(10), np.zeros(10))
    assert everything.value == everything.high == 1.0
    assert everything.low < 0.85
    unbiased = ranking.residual_mean(mean, std, y, generator)
    assert unbiased.low < 0 < unbiased.high
    cursed = ranking.residual_mean(mean + std, std, y, generator)
    assert cursed.value == pytest.approx(unbiased.value - 1)
    assert cursed.high < 0


def test_degenerate_input_is_nan():
    one = ranking.kendall_tau([1.0], [2.0], rng())
    assert math.isnan(one.value)
    assert math.isnan(one.low)
    for statistic in (ranking.kendall_tau, ranking.spearman):
        assert math.isnan(statistic([], [], rng()).value)
        assert math.isnan(statistic([1, 1, 1], [1, 2, 3], rng()).value)
    assert math.isnan(ranking.tau_difference([1, 1, 1], [1, 2, 3], [1, 2, 3], rng()).low)
    assert math.isnan(ranking.precision_at_k([1, 2], [1, 2], 3, rng(), maximise=True).value)
    assert math.isnan(ranking.regret_at_k([1, 2], [1, 2], 3, rng(), maximise=True).value)
    assert math.isnan(ranking.coverage([], [], []).value)
    assert math.isnan(ranking.residual_mean([1.0, 1.0], [0.0, 1.0], [1.0, 2.0], rng()).value)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: ranking.kendall_tau([1, math.nan], [1, 2], rng()), "row 1 is nan"),
        (lambda: ranking.kendall_tau([1, 2, 3], [1, 2], rng()), "equally long"),
        (lambda: ranking.spearman([[1], [2]], [[1], [2]], rng()), "1-d"),
        (lambda: ranking.kendall_tau([1, 2], [1, 2], rng(), level=1.0), "level"),
        (lambda: ranking.kendall_tau([1, 2], [1, 2], rng(), n_boot=0), "n_boot"),
        (lambda: ranking.precision_at_k([1, 2], [1, 2], 0, rng(), maximise=True), "k must be"),
        (lambda: ranking.concordance([1, 2], [1, 2], [1], rng()), "groups"),
        (lambda: ranking.coverage([1], [-1], [1]), "negative"),
        (lambda: ranking.trust([1, 2], {"macs": [1]}, [1, 2], rng()), "equally long"),
    ],
)
def test_wrong_input_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()
