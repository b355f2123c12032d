"""How well a predictor ranks, and how sure that is: rank statistics with bootstrap intervals.

Every function takes ``predicted`` and ``measured``, (n,) each, row i of both for the same architecture, in the same
direction (a predictor's mean and the metric it predicts), and an explicit generator. It gives an `Interval`: the
value on all rows and the ends of the central ``level`` interval of a percentile bootstrap over rows (Efron &
Tibshirani, An Introduction to the Bootstrap, 1993, ch. 13), ``n_boot`` draws, all of them at once in matrix products.

Degenerate input (fewer than 2 rows, or a constant where a ranking is needed) gives NaN, and so do the ends where no
draw is defined; draws that are degenerate themselves are left out. NaN or infinite numbers, arrays that are not 1-d
or differ in length, and a level outside (0, 1) raise ValueError.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

from predictors.bootstrap import (
    Interval,
    Ties,
    Values,
    Weights,
    bootstrap,
    draw,
    expected_best,
    interval,
    ratio,
    share_of_top,
    taken,
    tau_draws,
)

LEVEL = 0.9
N_BOOT = 1000
LEAST_PROBES = 15


@dataclass(frozen=True, slots=True)
class Trust:
    """Whether a predictor ranks better than what costs nothing.

    Attributes:
        trusted: the lower end of ``difference`` is above 0, on at least 15 probes.
        tau: the predictor's Kendall tau-b.
        baselines: the baselines' tau-b, by name.
        best: the baseline with the highest tau; empty without baselines (then chance, tau 0, is to be beaten).
        difference: tau minus the best baseline's, on the same rows.
        probes: the number of rows.
        words: the verdict as a sentence.
    """

    trusted: bool
    tau: Interval
    baselines: Mapping[str, Interval]
    best: str
    difference: Interval
    probes: int
    words: str


def kendall_tau(
    predicted: ArrayLike,
    measured: ArrayLike,
    rng: np.random.Generator,
    *,
    n_boot: int = N_BOOT,
    level: float = LEVEL,
) -> Interval:
    """Kendall's tau-b: (concordant − discordant pairs) / √(pairs untied in predicted · pairs untied in measured).

    In [-1, 1]; 1 is the same order. Source: Kendall, "The treatment of ties in ranking problems", Biometrika 1945.
    """
    x, y = _columns(predicted, measured)
    draws = tau_draws(x, y)
    return bootstrap(_on_all(draws, len(x)), draws, len(x), rng, n_boot, level)


def spearman(
    predicted: ArrayLike,
    measured: ArrayLike,
    rng: np.random.Generator,
    *,
    n_boot: int = N_BOOT,
    level: float = LEVEL,
) -> Interval:
    """Spearman's rho: Pearson's correlation of the mid-ranks. In [-1, 1]. Source: Spearman, 1904."""
    x, y = _columns(predicted, measured)
    tied_x, tied_y = Ties(x), Ties(y)

    def draws(weights: Weights) -> Values:
        a, b = tied_x.midranks(weights), tied_y.midranks(weights)
        total = weights.sum(axis=1, keepdims=True)
        a -= (weights * a).sum(axis=1, keepdims=True) / total
        b -= (weights * b).sum(axis=1, keepdims=True) / total
        spread = np.sqrt((weights * a * a).sum(axis=1) * (weights * b * b).sum(axis=1))
        return ratio((weights * a * b).sum(axis=1), spread)

    return bootstrap(_on_all(draws, len(x)), draws, len(x), rng, n_boot, level)


def tau_difference(
    first: ArrayLike,
    second: ArrayLike,
    measured: ArrayLike,
    rng: np.random.Generator,
    *,
    n_boot: int = N_BOOT,
    level: float = LEVEL,
) -> Interval:
    """Tau-b of ``first`` minus tau-b of ``second`` against the same measurements; every draw takes the same rows.

    Pairing removes what the two have in common, so the interval is that of the difference.
    """
    a, y = _columns(first, measured)
    b, _ = _columns(second, measured)
    draw_a, draw_b = tau_draws(a, y), tau_draws(b, y)

    def draws(weights: Weights) -> Values:
        return draw_a(weights) - draw_b(weights)

    return bootstrap(_on_all(draws, len(y)), draws, len(y), rng, n_boot, level)


def precision_at_k(
    predicted: ArrayLike,
    measured: ArrayLike,
    k: int,
    rng: np.random.Generator,
    *,
    maximise: bool,
    n_boot: int = N_BOOT,
    level: float = LEVEL,
) -> Interval:
    """The share of the k best predicted rows that are among the k best measured ones, in [0, 1].

    Ties at the k-th place count as if broken at random, independently in both: the value is the expectation, the
    draws break them at random. NaN if k > n. Raises ValueError if k < 1.
    """
    x, y = _oriented(predicted, measured, k, maximise)
    n = len(x)

    def draws(weights: Weights) -> Values:
        chosen, best = (taken(values, weights, k, rng) for values in (x, y))
        return np.asarray(np.minimum(chosen, best).sum(axis=1, dtype=np.float64) / k)

    value = float(share_of_top(x, k) @ share_of_top(y, k)) / k if k <= n else math.nan
    return bootstrap(value, draws, n, rng, n_boot, level)


def regret_at_k(
    predicted: ArrayLike,
    measured: ArrayLike,
    k: int,
    rng: np.random.Generator,
    *,
    maximise: bool,
    n_boot: int = N_BOOT,
    level: float = LEVEL,
) -> Interval:
    """By how much the best of the k best predicted rows falls short of the best row; ≥ 0, in the metric's units.

    Ties as in `precision_at_k`; NaN if k > n. An extreme: its bootstrap interval is a rough one, since no draw can
    hold a better row than the best that was measured (Bickel & Freedman, Annals of Statistics 1981, §6).
    Raises ValueError if k < 1.
    """
    x, y = _oriented(predicted, measured, k, maximise)
    n = len(x)

    def draws(weights: Weights) -> Values:
        chosen = np.where(taken(x, weights, k, rng) > 0, y, -np.inf).max(axis=1)
        return np.asarray(np.where(weights > 0, y, -np.inf).max(axis=1) - chosen)

    value = float(y.max() - expected_best(x, y, k)) if k <= n else math.nan
    return bootstrap(value, draws, n, rng, n_boot, level)


def concordance(
    predicted: ArrayLike,
    measured: ArrayLike,
    groups: ArrayLike,
    rng: np.random.Generator,
    *,
    n_boot: int = N_BOOT,
    level: float = LEVEL,
) -> Interval:
    """The share of pairs *within a group* that predicted puts in the measured order, in [0, 1]; 0.5 is chance.

    Pairs with equal measurements do not count, pairs with equal predictions count one half. ``groups`` (n,) are
    labels, such as the batch in which a row was chosen: pairs across groups say nothing there, since each batch was
    selected by another model. The bootstrap draws whole groups, so the ends are NaN with fewer than two that have a
    pair. NaN without any pair. Source: Harrell et al., "Evaluating the yield of medical tests", JAMA 1982 (c index).
    """
    x, y = _columns(predicted, measured)
    labels = np.asarray(groups)
    if labels.shape != x.shape:
        raise ValueError(f"groups must be ({len(x)},), got {labels.shape}")
    agreed, pairs = [], []
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        upper = np.triu_indices(len(rows), 1)
        order = np.sign(y[rows][upper[0]] - y[rows][upper[1]])
        guess = np.sign(x[rows][upper[0]] - x[rows][upper[1]])
        counted = order != 0
        pairs.append(float(counted.sum()))
        agreed.append(float(((1 + order * guess) / 2)[counted].sum()))
    numerator, denominator = np.array(agreed), np.array(pairs)
    kept = denominator > 0
    numerator, denominator = numerator[kept], denominator[kept]

    def draws(weights: Weights) -> Values:
        return ratio(weights @ numerator, weights @ denominator)

    value = float(numerator.sum() / denominator.sum()) if len(numerator) else math.nan
    ends = bootstrap(value, draws, len(numerator), rng, n_boot, level)
    return Interval(value, ends.low, ends.high, len(x))


def trust(
    predicted: ArrayLike,
    baselines: Mapping[str, ArrayLike],
    measured: ArrayLike,
    rng: np.random.Generator,
    *,
    n_boot: int = N_BOOT,
    level: float = LEVEL,
    least: int = LEAST_PROBES,
) -> Trust:
    """Whether the predictor ranks better than the best baseline, on rows that nobody chose (probes).

    It is trusted if the lower end of the ``level`` interval of tau-b minus the best baseline's tau-b is above 0, with
    at least ``least`` rows. Each draw compares with the baseline that is best *in that draw*, so having several
    baselines makes trust harder, not easier. A constant ranks nothing: its tau counts as 0 here. Baselines must point
    the way the metric does: a fitted baseline's mean does.
    """
    x, y = _columns(predicted, measured)
    rivals = {name: _columns(values, y)[0] for name, values in sorted(baselines.items())}
    statistics = [tau_draws(values, y) for values in (x, *rivals.values())]
    boot = draw(lambda weights: np.stack([tau(weights) for tau in statistics]), len(y), rng, n_boot)
    taus = [interval(_on_all(tau, len(y)), draws, len(y), level) for tau, draws in zip(statistics, boot, strict=True)]
    to_beat = {name: _or_zero(tau.value) for name, tau in zip(rivals, taus[1:], strict=True)}
    best = max(to_beat, key=lambda name: to_beat[name], default="")
    filled = np.nan_to_num(boot, nan=0.0)
    gap = filled[0] - (filled[1:].max(axis=0) if len(filled) > 1 else 0.0)
    difference = interval(_or_zero(taus[0].value) - to_beat.get(best, 0.0), gap, len(y), level)
    if len(y) < 2:
        difference = Interval(math.nan, math.nan, math.nan, len(y))
    trusted = len(y) >= least and difference.low > 0
    return Trust(
        trusted=trusted,
        tau=taus[0],
        baselines=dict(zip(rivals, taus[1:], strict=True)),
        best=best,
        difference=difference,
        probes=len(y),
        words=_verdict(trusted, difference, best, _or_zero(taus[0].value), to_beat.get(best, 0.0), level, least),
    )


def coverage(
    mean: ArrayLike, std: ArrayLike, measured: ArrayLike, *, nominal: float = LEVEL, level: float = LEVEL
) -> Interval:
    """The share of measurements inside mean ± z·std, where a normal law has the share ``nominal`` inside.

    Its interval is Wilson's score interval for a proportion (JASA 1927): a bootstrap has width 0 where all rows are
    inside. NaN without rows. Raises ValueError for a negative std.
    """
    centre, y = _columns(mean, measured)
    spread = _spread(std, y)
    n, z = len(y), _normal_quantile(level)
    if n == 0:
        return Interval(math.nan, math.nan, math.nan, 0)
    share = float(np.mean(np.abs(y - centre) <= _normal_quantile(nominal) * spread))
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return Interval(share, min(share, max(0.0, middle - half)), max(share, min(1.0, middle + half)), n)


def residual_mean(
    mean: ArrayLike,
    std: ArrayLike,
    measured: ArrayLike,
    rng: np.random.Generator,
    *,
    n_boot: int = N_BOOT,
    level: float = LEVEL,
) -> Interval:
    """The mean of (measured − mean) / std: 0 if unbiased.

    On chosen rows it shows the optimiser's curse: choosing the best predictions chooses lucky errors (Smith &
    Winkler, Management Science 2006). NaN without rows or if a std is 0. Raises ValueError for a negative std.
    """
    centre, y = _columns(mean, measured)
    spread = _spread(std, y)
    if len(y) == 0 or not spread.all():
        return Interval(math.nan, math.nan, math.nan, len(y))
    z = (y - centre) / spread
    return bootstrap(float(z.mean()), lambda w: np.asarray(w @ z / len(z)), len(z), rng, n_boot, level)


# ---------------------------------------------------------------------- helpers


def _columns(*given: ArrayLike) -> tuple[Values, ...]:
    columns = tuple(np.asarray(values, dtype=np.float64) for values in given)
    for values in columns:
        if values.ndim != 1 or values.shape != columns[0].shape:
            raise ValueError(f"columns must be 1-d and equally long, got {[c.shape for c in columns]}")
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            raise ValueError(f"row {int(bad[0])} is {values[bad[0]]}, must be finite")
    return columns


def _oriented(predicted: ArrayLike, measured: ArrayLike, k: int, maximise: bool) -> tuple[Values, Values]:
    if k < 1:
        raise ValueError(f"k must be at least 1, is {k}")
    x, y = _columns(predicted, measured)
    return (x, y) if maximise else (-x, -y)


def _spread(std: ArrayLike, like: Values) -> Values:
    spread, _ = _columns(std, like)
    if (spread < 0).any():
        raise ValueError("a standard deviation is negative")
    return spread


def _on_all(statistic: Callable[[Weights], Values], n: int) -> float:
    """The statistic of the rows as they are: each drawn once."""
    return float(statistic(np.ones((1, n), dtype=np.float32))[0]) if n else math.nan


def _or_zero(value: float) -> float:
    return 0.0 if math.isnan(value) else value


def _normal_quantile(level: float) -> float:
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, is {level}")
    return NormalDist().inv_cdf((1 + level) / 2)


def _verdict(
    trusted: bool, difference: Interval, best: str, tau: float, to_beat: float, level: float, least: int
) -> str:
    rival = best or "chance"
    if difference.n < least:
        return f"not known yet: {difference.n} of the {least} probes it takes"
    standing = "better than" if trusted else "worse than" if difference.high < 0 else "no better than"
    return (
        f"{standing} {rival}: tau {tau:.2f} against {to_beat:.2f}, difference {difference.value:.2f} "
        f"({level:.0%} interval {difference.low:.2f} to {difference.high:.2f}) on {difference.n} probes"
    )
