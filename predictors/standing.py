"""What scores that nobody fitted are worth: how they rank what was measured, and whether counting ranks as well.

Many scores stand in one table, (n,) each, NaN where an architecture has none. Every statistic of a score is of the
rows that have it, and so are the baselines that it is compared with. Intervals are of a percentile bootstrap over rows
(Efron & Tibshirani, An Introduction to the Bootstrap, 1993, ch. 13), each for itself; all statistics of a score come
from the same draws, so a difference is that of a pair.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from predictors.bootstrap import AT_ONCE, Interval, Ties, Values, Weights, concordance_draws, draw, interval, ratio

LEVEL = 0.95
N_BOOT = 1000
LEAST = 20
"""Rows without which no interval, no verdict and no best decile is worth a look."""
BEST = 0.1
"""The share of rows that are the best ones."""

_EXACT_ROWS = 500
"""Up to here a draw's tau is exact; above, it errs by order 1/n, far less than the draws themselves."""
_SAME = 1 - 1e-9
"""Two columns whose tau is beyond order the rows alike."""

Bools: TypeAlias = NDArray[np.bool_]


class Verdict(StrEnum):
    """How a score ranks beside a baseline: the whole interval of the difference of their taus is above 0, below 0, or
    neither; ``TOO_FEW`` with fewer than 20 rows, or where nothing can be ranked."""

    BETTER = "better"
    NO_BETTER = "no_better"
    WORSE = "worse"
    TOO_FEW = "too_few"


@dataclass(frozen=True, slots=True)
class Beside:
    """A score beside a baseline on the same rows: the baseline's tau-b, and the score's minus it."""

    baseline: str
    tau: Interval
    difference: Interval
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Standing:
    """How one score ranks what was measured, on its rows.

    Attributes:
        kendall: tau-b (Kendall, Biometrika 1945).
        spearman: rho of mid-ranks (Spearman, 1904).
        best_kendall: tau-b within the best rows; None with fewer than 20 of them.
        best_spearman: rho within them.
        partial: Kendall's partial tau with the baselines held fixed (`partial_tau`).
        beside: each baseline.
    """

    kendall: Interval
    spearman: Interval
    best_kendall: Interval | None
    best_spearman: Interval | None
    partial: Interval
    beside: tuple[Beside, ...]


def standings(
    scores: Mapping[str, ArrayLike],
    measured: ArrayLike,
    baselines: Mapping[str, ArrayLike],
    rng: np.random.Generator,
    *,
    n_boot: int = N_BOOT,
    level: float = LEVEL,
) -> dict[str, Standing]:
    """The standing of each score, by its name.

    All columns are (n,) and point the same way: the larger, the better. Scores are NaN where they are not defined,
    the others finite. The best rows are the best tenth of all that are given, with those that are as good as its last.
    A score that is constant ranks nothing: beside a baseline its tau counts as 0. Raises ValueError for columns of
    different lengths, and for infinite numbers.
    """
    y = _column(measured, len(np.asarray(measured)))
    base = {name: _column(values, len(y)) for name, values in baselines.items()}
    table = {name: _column(values, len(y), holes=True) for name, values in scores.items()}
    best = best_rows(y)
    seed = int(rng.integers(2**62))
    alike: dict[bytes, list[str]] = {}
    for name, values in table.items():
        alike.setdefault(np.isfinite(values).tobytes(), []).append(name)
    found: dict[str, Standing] = {}
    for mask, names in alike.items():
        rows = np.frombuffer(mask, dtype=bool)
        if rows.sum() < 2:
            found.update((name, _nothing(int(rows.sum()), tuple(base))) for name in names)
            continue
        group = _Group([each[rows] for each in (y, *base.values())], [table[name][rows] for name in names], best[rows])
        # Of equal rows the draws are equal, whatever else is in the table.
        made = group.standings(tuple(base), np.random.default_rng(seed), n_boot, level)
        found.update(zip(names, made, strict=True))
    return {name: found[name] for name in table}


def best_rows(measured: Values) -> Bools:
    """(n,): the best tenth, and what is as good as its last; none of no rows."""
    if not len(measured):
        return np.zeros(0, dtype=bool)
    count = int(np.ceil(BEST * len(measured)))
    return np.asarray(measured >= np.sort(measured)[-count])


def partial_tau(taus: Values) -> Values:
    """(b, k, k) matrices of tau-b → (b,): that of the first two with all others held fixed.

    −P₀₁ / √(P₀₀ P₁₁) of the inverse P, which for one other is Kendall's formula ("Partial rank correlation",
    Biometrika 1942). NaN where a tau is, or where the others explain one of the two alone.
    """
    defined: Bools = np.asarray(np.isfinite(taus).all(axis=(1, 2)))
    identity = np.eye(taus.shape[1])
    solid = np.where(defined[:, None, None], taus, identity)
    usable: Bools = defined & (np.linalg.det(solid) > 1 - _SAME)
    inverse = np.linalg.inv(np.where(usable[:, None, None], solid, identity))
    scale = inverse[:, 0, 0] * inverse[:, 1, 1]
    return np.where(usable, ratio(-inverse[:, 0, 1], np.sqrt(np.maximum(scale, 0))), np.nan)


def correlations(columns: Sequence[ArrayLike], least: int = LEAST) -> tuple[Values, NDArray[np.int64]]:
    """Spearman's rho of k columns (n,) among each other, (k, k), and on how many rows each, (k, k).

    Of two columns the rows that have both; NaN with fewer than ``least`` of them, or if one is constant there.
    """
    from scipy.stats import rankdata

    table = np.array([np.asarray(values, dtype=np.float64) for values in columns])
    here = np.isfinite(table)
    rows = here.astype(np.float64) @ here.T
    whole = {index: rankdata(values[mask]) for index, (values, mask) in enumerate(zip(table, here, strict=True))}
    rho = np.full((len(table), len(table)), np.nan)
    for i in range(len(table)):
        for j in range(i + 1):
            n = int(rows[i, j])
            if n < max(least, 2):
                continue
            both = here[i] & here[j]
            a, b = (whole[k] if n == rows[k, k] else rankdata(table[k][both]) for k in (i, j))
            a, b = a - a.mean(), b - b.mean()
            rho[i, j] = rho[j, i] = ratio((a * b).sum(), np.sqrt((a * a).sum() * (b * b).sum()))
    return np.clip(rho, -1, 1), rows.astype(np.int64)


class _Rows:
    """Columns (n,) of some rows: the first was measured, then come ``fixed`` - 1 baselines, then scores."""

    def __init__(self, fixed: Sequence[Values], scores: Sequence[Values]) -> None:
        self._ties = [Ties(values) for values in (*fixed, *scores)]
        self._numerators = {
            (i, j): concordance_draws(self._ties[i], self._ties[j], _EXACT_ROWS)
            for j in range(len(fixed))
            for i in range(j + 1, len(self._ties))
        }

    def taus(self, weights: Weights) -> dict[tuple[int, int], Values]:
        """Tau-b, (b,), of columns i > j, where j is fixed."""
        untied = [each.untied_pairs(weights) for each in self._ties]
        return {
            (i, j): ratio(numerator(weights), np.sqrt(untied[i] * untied[j]))
            for (i, j), numerator in self._numerators.items()
        }

    def rho(self, weights: Weights) -> list[Values]:
        """Spearman's rho, (b,), of each column with the first."""
        first, own = self._ranks(0, weights)
        rhos = []
        for i in range(len(self._ties)):
            ranks, spread = self._ranks(i, weights)
            rhos.append(ratio(np.einsum("bn,bn->b", weights * ranks, first), np.sqrt(own * spread)))
        return rhos

    def _ranks(self, i: int, weights: Weights) -> tuple[Values, Values]:
        """(b, n): mid-ranks less their mean over the drawn rows; (b,): the sum of their squares."""
        ranks = self._ties[i].midranks(weights)
        ranks -= (weights.sum(axis=1, keepdims=True) + 1) / 2
        return ranks, np.einsum("bn,bn->b", weights * ranks, ranks)


class _Group:
    """Scores of the same rows: what their statistics share is computed once a draw."""

    def __init__(self, fixed: Sequence[Values], scores: Sequence[Values], best: Bools) -> None:
        self._n, self._scores = len(best), range(len(fixed), len(fixed) + len(scores))
        self._base = range(1, len(fixed))
        self._whole = _Rows(fixed, scores)
        self._best, self._inside = best, None
        if best.sum() >= LEAST:
            self._inside = _Rows([fixed[0][best]], [each[best] for each in scores])
        self._controls = self._held(np.ones((1, self._n), dtype=np.float32))

    def standings(
        self, names: Sequence[str], rng: np.random.Generator, n_boot: int, level: float
    ) -> Iterator[Standing]:
        """Of each score, in order."""
        values = self._statistic(np.ones((1, self._n), dtype=np.float32))
        draws = draw(self._in_parts, self._n, rng, n_boot)
        inside = int(self._best.sum()) if self._inside is not None else 0
        for one, some in zip(values[:, :, 0].tolist(), draws, strict=True):
            ends = [interval(value, each, self._n, level) for value, each in zip(one, some, strict=True)]
            tau, rho, best_tau, best_rho, partial, *rest = ends
            own, differences = rest[: len(names)], rest[len(names) :]
            yield Standing(
                kendall=tau,
                spearman=rho,
                best_kendall=replace(best_tau, n=inside) if inside else None,
                best_spearman=replace(best_rho, n=inside) if inside else None,
                partial=partial,
                beside=tuple(
                    Beside(name, baseline, difference, _verdict(tau, baseline, difference))
                    for name, baseline, difference in zip(names, own, differences, strict=True)
                ),
            )

    def _in_parts(self, weights: Weights) -> Values:
        step = max(1, AT_ONCE // self._n)
        parts = [self._statistic(weights[i : i + step]) for i in range(0, len(weights), step)]
        return np.concatenate(parts, axis=-1)

    def _statistic(self, weights: Weights) -> Values:
        """(scores, k, b): tau, rho, both within the best, partial tau, each baseline's tau, and the differences."""
        taus, rho = self._whole.taus(weights), self._whole.rho(weights)
        within = [(np.full(len(weights), np.nan),) * 2 for _ in self._scores]
        if self._inside is not None:
            some = weights[:, self._best]
            best_taus, best_rho = self._inside.taus(some), self._inside.rho(some)
            within = [(best_taus[i, 0], best_rho[i]) for i in range(1, 1 + len(self._scores))]
        return np.array(
            [
                [
                    taus[i, 0],
                    rho[i],
                    *best,
                    partial_tau(self._matrix(i, taus)),
                    *(taus[j, 0] for j in self._base),
                    *(np.nan_to_num(taus[i, 0]) - np.nan_to_num(taus[j, 0]) for j in self._base),
                ]
                for i, best in zip(self._scores, within, strict=True)
            ]
        )

    def _held(self, ones: Weights) -> list[int]:
        """The baselines that are held fixed: none that is constant, and of those that order all rows alike one."""
        taus = self._whole.taus(ones)
        kept: list[int] = []
        for i in self._base:
            if np.isfinite(taus[i, 0]) and all(abs(taus[i, j]) < _SAME for j in kept):
                kept.append(i)
        return kept

    def _matrix(self, score: int, taus: Mapping[tuple[int, int], Values]) -> Values:
        """(b, 2 + c, 2 + c): tau-b among the score, what was measured, and the controls."""
        columns = [score, 0, *self._controls]
        matrix = np.ones((len(taus[score, 0]), len(columns), len(columns)))
        for a, i in enumerate(columns):
            for b, j in enumerate(columns[:a]):
                matrix[:, a, b] = matrix[:, b, a] = taus[max(i, j), min(i, j)]
        return matrix


def _nothing(n: int, names: Sequence[str]) -> Standing:
    none = Interval(np.nan, np.nan, np.nan, n)
    return Standing(none, none, None, None, none, tuple(Beside(each, none, none, Verdict.TOO_FEW) for each in names))


def _verdict(tau: Interval, own: Interval, difference: Interval) -> Verdict:
    if tau.n < LEAST or (np.isnan(tau.value) and np.isnan(own.value)):
        return Verdict.TOO_FEW
    if difference.low > 0:
        return Verdict.BETTER
    return Verdict.WORSE if difference.high < 0 else Verdict.NO_BETTER


def _column(values: ArrayLike, n: int, *, holes: bool = False) -> Values:
    column = np.asarray(values, dtype=np.float64)
    if column.shape != (n,):
        raise ValueError(f"columns must be ({n},), got {column.shape}")
    bad = np.isinf(column) if holes else ~np.isfinite(column)
    if bad.any():
        raise ValueError(f"row {int(np.flatnonzero(bad)[0])} is {column[bad][0]}, must be finite")
    return column
