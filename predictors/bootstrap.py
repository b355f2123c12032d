"""Bootstrap draws of rank statistics, all at once: a draw is a row of counts, and counts enter matrix products."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Values: TypeAlias = NDArray[np.float64]
Weights: TypeAlias = NDArray[np.float32]
"""(b, n): how often each of n rows was drawn in each of b bootstrap draws."""

_EXACT_ROWS = 2000
"""Up to here a draw's tau is exact; above, its numerator is linear in the counts, which errs by order 1/n."""
_BLOCK = 1 << 22
"""Numbers in one block of draws."""
AT_ONCE = 1 << 18
"""Numbers that are at work at once, so that they stay in the processor's cache."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A statistic of ``n`` rows and the ends of its interval; NaN where undefined."""

    value: float
    low: float
    high: float
    n: int


def draw(statistic: Callable[[Weights], Values], n: int, rng: np.random.Generator, n_boot: int) -> Values:
    """``statistic`` of ``n_boot`` draws of n from n rows with replacement, joined along its last axis."""
    if n_boot < 1:
        raise ValueError(f"n_boot must be at least 1, is {n_boot}")
    return np.concatenate([statistic(weights) for weights in _weights(n, n_boot, rng)], axis=-1)


def interval(value: float, draws: Values, n: int, level: float) -> Interval:
    """The percentile interval of the draws that are defined. Raises ValueError for a level outside (0, 1)."""
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, is {level}")
    defined = draws[np.isfinite(draws)]
    if math.isnan(value) or not len(defined):
        return Interval(value, math.nan, math.nan, n)
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high), n)


def bootstrap(
    value: float, statistic: Callable[[Weights], Values], n: int, rng: np.random.Generator, n_boot: int, level: float
) -> Interval:
    """`draw` and `interval` in one; no draws are made where the value is undefined or there is one row."""
    draws = draw(statistic, n, rng, n_boot) if n > 1 and not math.isnan(value) else np.empty(0)
    return interval(value, draws, n, level)


def ratio(numerator: Values, denominator: Values) -> Values:
    """Elementwise; NaN where the denominator is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(denominator > 0, numerator / denominator, np.nan))


class Ties:
    """The groups of equal values of one column, and sums over them for many draws at once."""

    def __init__(self, values: Values) -> None:
        self.order = np.argsort(values, kind="stable")
        ordered = values[self.order]
        fresh = np.concatenate([[True], ordered[1:] != ordered[:-1]])
        self.starts = np.flatnonzero(fresh)
        self.group = np.cumsum(fresh) - 1
        """(n,): the group of each place in ``order``, ascending with the value."""

    def _sums(self, weights: Weights) -> Values:
        ordered = weights[:, self.order].astype(np.float64)
        return ordered if len(self.starts) == ordered.shape[1] else np.add.reduceat(ordered, self.starts, axis=1)

    def ranks(self) -> NDArray[np.int32]:
        """(n,): dense ranks, equal values alike."""
        result = np.empty(len(self.order), dtype=np.int32)
        result[self.order] = self.group
        return result

    def untied_pairs(self, weights: Weights) -> Values:
        """(b,): pairs of drawn rows with different values, each pair counted twice."""
        sums = self._sums(weights)
        return np.asarray(sums.sum(axis=1) ** 2 - (sums * sums).sum(axis=1))

    def midranks(self, weights: Weights) -> Values:
        """(b, n): the mean rank of each row's value among the drawn rows."""
        sums = self._sums(weights)
        middle = np.cumsum(sums, axis=1) - (sums - 1) / 2
        result = np.empty(weights.shape)
        result[:, self.order] = middle[:, self.group]
        return result


def concordance_draws(x: Ties, y: Ties, exact_rows: int | None = None) -> Callable[[Weights], Values]:
    """Concordant minus discordant pairs as a function of the draws, (b, n) → (b,), each pair counted twice.

    Exact with at most ``exact_rows`` rows (2000 by default).
    """
    # Half as wide where ranks fit: this is all memory traffic.
    kind = np.int16 if len(x.order) < 2**15 else np.int32
    ranks: tuple[NDArray[np.signedinteger[Any]], ...] = (x.ranks().astype(kind), y.ranks().astype(kind))
    rank_x, rank_y = ranks

    def signs(rows: slice) -> NDArray[np.signedinteger[Any]]:
        left = np.sign(rank_x[rows, None] - rank_x[None, :])
        left *= np.sign(rank_y[rows, None] - rank_y[None, :])
        return left

    if len(x.order) <= (_EXACT_ROWS if exact_rows is None else exact_rows):
        matrix = signs(slice(None)).astype(np.float32)

        def numerator(weights: Weights) -> Values:
            # Integers below 2**24: exact in float32.
            return np.asarray(((weights @ matrix) * weights).sum(axis=1), dtype=np.float64)

    else:
        step = max(1, AT_ONCE // len(x.order))
        starts = range(0, len(x.order), step)
        sums = np.concatenate([signs(slice(i, i + step)).sum(axis=1, dtype=np.int64) for i in starts])

        def numerator(weights: Weights) -> Values:
            return np.asarray(2 * (weights @ sums) - sums.sum(), dtype=np.float64)

    return numerator


def tau_draws(x: Values, y: Values) -> Callable[[Weights], Values]:
    """Tau-b as a function of the draws, (b, n) → (b,)."""
    if len(x) < 2:
        return lambda weights: np.full(len(weights), np.nan)
    tied_x, tied_y = Ties(x), Ties(y)
    numerator = concordance_draws(tied_x, tied_y)

    def tau(weights: Weights) -> Values:
        untied = tied_x.untied_pairs(weights) * tied_y.untied_pairs(weights)
        return ratio(numerator(weights), np.sqrt(untied))

    return tau


def share_of_top(values: Values, k: int) -> Values:
    """(n,): the probability that each row is among the k largest if ties are broken at random."""
    edge = np.partition(values, len(values) - k)[len(values) - k]
    above, tied = values > edge, values == edge
    return np.where(above, 1.0, np.where(tied, (k - above.sum()) / tied.sum(), 0.0))


def taken(values: Values, weights: Weights, k: int, rng: np.random.Generator) -> Weights:
    """(b, n): how many copies of each drawn row are among the k largest; ties are broken at random, once a block."""
    order = np.lexsort((rng.random(len(values)), -values))
    ordered = weights[:, order]
    before = np.cumsum(ordered, axis=1, dtype=np.float64) - ordered
    result = np.empty_like(weights)
    result[:, order] = np.clip(k - before, 0, ordered)
    return result


def expected_best(x: Values, y: Values, k: int) -> float:
    """The expected largest y among the k largest x, ties in x broken at random."""
    share = share_of_top(x, k)
    floor = y[share == 1.0].max(initial=-np.inf)
    tied = np.sort(y[(share > 0) & (share < 1)])[::-1]
    if not len(tied):
        return float(floor)
    drawn, left = k - int((share == 1.0).sum()), 1.0
    best = 0.0
    for place, value in enumerate(tied):
        # The best of the drawn ones is at this place unless it was above or is below.
        here = left * min(1.0, drawn / (len(tied) - place))
        best += here * max(float(value), float(floor))
        left -= here
    return best


def _weights(n: int, n_boot: int, rng: np.random.Generator) -> Iterator[Weights]:
    rows = max(1, _BLOCK // max(n, 1))
    for start in range(0, n_boot, rows):
        count = min(rows, n_boot - start)
        drawn = rng.integers(0, max(n, 1), size=(count, n)) + np.arange(count)[:, None] * n
        yield np.bincount(drawn.ravel(), minlength=count * n).reshape(count, n).astype(np.float32)
