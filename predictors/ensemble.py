"""Eight ridge lines with boosted trees on top, and a spread that was measured on rows a member had not seen.

Works on matrices: rows are architectures, and ``labels[i]`` belongs to row ``row_of[i]``. `predictors.boosting` says
why it is built this way, and its sources.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from predictors.bootstrap import Values
from predictors.ridge import choose_penalty, fit_ridge
from predictors.scores import NormalScores

if TYPE_CHECKING:
    from xgboost import Booster

Matrix = NDArray[np.float32]

_TURNS, _PARTS = 2, 4
MEMBERS = _TURNS * _PARTS

_BOOSTING_ROUNDS = 150
_TREES: dict[str, Any] = {
    "objective": "reg:squarederror",
    "base_score": 0.0,
    "eta": 0.1,
    "max_depth": 5,
    "min_child_weight": 2.0,
    "subsample": 0.7,
    "colsample_bynode": 0.3,
    "tree_method": "hist",
    "max_bin": 64,
    "nthread": 1,
}
"""Chosen by ranking on NAS-Bench-201, NAS-Bench-Macro and Once-for-All; one thread, so that sums have one order.

Predictions keep it: on busy cores, threads that wait for each other make small batches thirty times slower."""

_FAVOUR = 3.0
"""Gains .06 of tau at 16 labels and nothing at 400, with costs and with proxy scores alike."""
_FURTHEST = 8.0
"""Normal scores are kept within ± this."""
_KNOTS = 5
_MOST_EPISTEMIC = 0.75
"""At least a quarter of the residuals' variance counts as noise: it cannot be told apart more finely."""
_JACKKNIFE = (_PARTS - 1) * 1.0
"""Members fitted to 3 of 4 rows: their variance times r / d = 3 is that of one fit to all (Shao & Wu 1989)."""
_Z90 = 1.6448536269514722


@dataclass(frozen=True, slots=True)
class Spread:
    """``noise`` (k,), a standard deviation, at the predicted normal scores ``at`` (k,); straight in between.

    ``scale`` makes the members' jackknife spread the epistemic standard deviation.
    """

    at: Values
    noise: Values
    scale: float

    def __post_init__(self) -> None:
        if self.at.ndim != 1 or not len(self.at) or self.at.shape != self.noise.shape:
            raise ValueError(f"noise must be (k,) at (k,), k > 0, is {self.noise.shape} at {self.at.shape}")
        if not np.isfinite([*self.at, *self.noise, self.scale]).all() or min(*self.noise, self.scale) < 0:
            raise ValueError("noise and scale must be finite and not negative")


@dataclass(frozen=True, slots=True)
class Ensemble:
    """``slopes`` (f, m) and ``intercepts`` (m,) of the lines, ``trees`` on top of them (m of them, or none).

    ``scales`` are the normal scores of the last columns, one each: a line sees those columns through them, with 0
    (the median) for NaN; trees see the raw column and take NaN as missing.
    """

    target: NormalScores
    scales: tuple[NormalScores, ...]
    intercepts: Values
    slopes: Values
    tree_share: float
    trees: tuple[Booster, ...]
    spread: Spread

    def __post_init__(self) -> None:
        members = len(self.intercepts)
        if self.slopes.ndim != 2 or self.slopes.shape[1] != members or not members:
            raise ValueError(f"slopes must be (f, {members}), are {self.slopes.shape}")
        if len(self.trees) not in (0, members) or len(self.scales) > len(self.slopes):
            raise ValueError(f"{members} members have {len(self.trees)} boosters and {len(self.scales)} scales")
        if not np.isfinite([*self.intercepts, *self.slopes.ravel(), self.tree_share]).all():
            raise ValueError("coefficients must be finite")

    def predict(self, rows: Matrix) -> tuple[Values, Values, Values]:
        """Mean, epistemic standard deviation and standard deviation of ``rows`` (n, f), (n,) each."""
        scores = _line_columns(rows, self.scales) @ self.slopes + self.intercepts
        for member, booster in enumerate(self.trees):
            scores[:, member] += self.tree_share * _tree_scores(booster, rows)
        scores = np.clip(scores, -_FURTHEST, _FURTHEST)
        score = scores.mean(axis=1)
        apart = self.target.inverse(scores).var(axis=1, ddof=min(1, scores.shape[1] - 1))
        epistemic = self.spread.scale * np.sqrt(_JACKKNIFE * apart)
        noise = np.interp(score, self.spread.at, self.spread.noise)
        return self.target.inverse(score), epistemic, np.maximum(np.hypot(noise, epistemic), epistemic)


def fit_constant(value: float, columns: int) -> Ensemble:
    """Predicts ``value`` everywhere, with a standard deviation just large enough to divide by."""
    small = np.full(1, 1e-6 * max(abs(value), 1e-6))
    target = NormalScores(np.full(1, value), np.zeros(1))
    return Ensemble(target, (), np.zeros(1), np.zeros((columns, 1)), 0.0, (), Spread(np.zeros(1), small, 0.0))


def fit_ensemble(
    rows: Matrix, scaled: int, labels: Values, row_of: NDArray[np.intp], rng: np.random.Generator
) -> Ensemble:
    """Fits to distinct ``rows`` (n, f), each with at least one label, not all labels equal; n ≥ 8.

    The last ``scaled`` columns are measures: they become normal scores for the lines, and tell more than one of many
    choices does, so their slopes are shrunk less. The result depends on the order of rows and
    labels: sort them first.
    """
    count = np.bincount(row_of, minlength=len(rows)).astype(np.float64)
    mean = np.bincount(row_of, weights=labels, minlength=len(rows)) / count
    target = NormalScores.of(mean)
    scores = target.forward(mean)
    # A mean of c labels errs by misfit + noise / c: with both alike, its weight grows from 1 to 2, not to c.
    weights = 2 * count / (1 + count)
    scales = tuple(NormalScores.of(_present(column)) for column in rows[:, rows.shape[1] - scaled :].T)
    seen = _line_columns(rows, scales)
    favour = np.where(np.arange(rows.shape[1]) < rows.shape[1] - scaled, 1.0, _FAVOUR)
    penalty = choose_penalty(seen, scores, weights, favour)
    # Two turns of four parts: every row is left out by two members.
    part = np.stack([rng.permutation(len(rows)) % _PARTS for _ in range(_TURNS)])
    seeds = rng.integers(0, 2**31, MEMBERS)
    intercepts, slopes = np.empty(MEMBERS), np.empty((rows.shape[1], MEMBERS))
    trees, line, rest = [], np.empty(part.shape), np.empty(part.shape)
    for member in range(MEMBERS):
        turn, left = divmod(member, _PARTS)
        out, kept = part[turn] == left, part[turn] != left
        ridge, without = fit_ridge(seen[kept], scores[kept], weights[kept], penalty, favour)
        intercepts[member], slopes[:, member] = ridge.intercept, ridge.slope
        booster = _grow(rows[kept], scores[kept] - without, weights[kept], int(seeds[member]))
        trees.append(booster)
        line[turn, out] = seen[out] @ ridge.slope + intercepts[member]
        rest[turn, out] = _tree_scores(booster, rows[out])
    share = _tree_share(scores - line.mean(axis=0), rest.mean(axis=0), weights)
    spread = _calibrate(target, line + share * rest, labels, row_of)
    return Ensemble(target, scales, intercepts, slopes, share, tuple(trees), spread)


def _grow(rows: Matrix, residuals: Values, weights: Values, seed: int) -> Booster:
    import xgboost

    data = xgboost.DMatrix(rows, label=residuals, weight=weights, nthread=1)
    booster: Booster = xgboost.train({**_TREES, "seed": seed}, data, _BOOSTING_ROUNDS)
    return booster


def _tree_scores(booster: Booster, rows: Matrix) -> Values:
    return np.asarray(booster.inplace_predict(rows), dtype=np.float64)


def _tree_share(residual: Values, rest: Values, weights: Values) -> float:
    """The least-squares share of ``rest`` in ``residual``, in [0, 1], drawn towards ½ by ten rows' worth."""
    power = float(weights @ (rest * rest))
    if power == 0.0:
        return 0.0
    pull = 10.0 * power / len(rest)
    return min(1.0, max(0.0, (float(weights @ (residual * rest)) + 0.5 * pull) / (power + pull)))


def _present(column: Matrix) -> Values:
    present = column[~np.isnan(column)].astype(np.float64)
    return present if len(present) else np.zeros(1)


def _line_columns(rows: Matrix, scales: tuple[NormalScores, ...]) -> Values:
    result = rows.astype(np.float64)
    for place, scale in enumerate(scales, rows.shape[1] - len(scales)):
        result[:, place] = np.clip(np.nan_to_num(scale.forward(result[:, place]), nan=0.0), -_FURTHEST, _FURTHEST)
    return result


def _calibrate(target: NormalScores, left_out: Values, labels: Values, row_of: NDArray[np.intp]) -> Spread:
    """The spread law from ``left_out`` (2, n): what the members that did not see a row predict for it.

    Only those tell how members differ on new rows: on a training row, three of four have seen its label.
    """
    left_out = np.clip(left_out, -_FURTHEST, _FURTHEST)
    at = left_out.mean(axis=0)
    square = (labels - target.inverse(at)[row_of]) ** 2
    residual = np.bincount(row_of, weights=square) / np.bincount(row_of)
    knots, near = _near(at, np.stack([residual, target.inverse(left_out).var(axis=0, ddof=1) * _JACKKNIFE]))
    scale = min(1.0, _MOST_EPISTEMIC * float(near[0].mean()) / max(float(near[1].mean()), 1e-300))
    noise = np.sqrt(np.maximum(near[0] - scale * near[1], (1 - _MOST_EPISTEMIC) * near[0]))
    std = np.interp(at, knots, np.sqrt(noise**2 + scale * near[1]))[row_of]
    factor = float(np.quantile(np.sqrt(square) / np.maximum(std, 1e-300), 0.9)) / _Z90
    factor = min(max(factor, 0.1), 3.0)
    least = 1e-6 * float(np.ptp(target.values))
    return Spread(knots, np.maximum(noise * factor, least), math.sqrt(scale) * factor)


def _near(at: Values, values: Values) -> tuple[Values, Values]:
    """Knots (k,) over ``at`` (n,), and the means (m, k) of ``values`` (m, n) near each.

    A normal kernel over ranks, plus ten rows' worth of the overall mean.
    """
    order = np.argsort(at, kind="stable")
    rank = (np.arange(len(at)) + 0.5) / len(at)
    share = (np.arange(_KNOTS) + 0.5) / _KNOTS
    knots, first = np.unique(np.interp(share, rank, at[order]), return_index=True)
    kernel = np.exp(-0.5 * ((rank[:, None] - share[first]) / 0.15) ** 2)
    near = (values[:, order] @ kernel + 10.0 * values.mean(axis=1, keepdims=True)) / (kernel.sum(axis=0) + 10.0)
    return knots, near
