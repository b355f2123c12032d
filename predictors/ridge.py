"""Ridge regression that also says what the line would predict for each row had it not seen that row."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import solve_triangular

from predictors.bootstrap import Values

_PENALTIES = np.logspace(-1, 4, 16)
"""Times the mean weight; columns have variance 1."""


@dataclass(frozen=True, slots=True)
class Ridge:
    """A line: x · slope + intercept; ``slope`` is (f,)."""

    slope: Values
    intercept: float


def fit_ridge(x: Values, y: Values, weights: Values, penalty: float, favour: Values) -> tuple[Ridge, Values]:
    """The ridge line of ``y`` (n,) on ``x`` (n, f), and the (n,) predictions of each row by the line without it.

    Columns are standardised, constant ones get slope 0; a column's slope is penalised ``favour`` (f,) squared times
    less. All must be finite, weights, penalty and favour positive. Source:
    Hoerl & Kennard, Technometrics 1970; the residual without a row is (y − ŷ) / (1 − leverage): Allen's PRESS,
    Technometrics 1974.
    """
    share = weights / weights.sum()
    mean = share @ x
    scale = np.sqrt(share @ (x - mean) ** 2)
    moves = scale > 1e-6 * (np.abs(mean) + 1e-6)
    inverse = np.where(moves, favour / np.where(moves, scale, 1.0), 0.0)
    centre = float(share @ y)
    # Weighted least squares is least squares on rows times the root of their weight.
    root = np.sqrt(weights)
    scaled = (x - mean) * (inverse * root[:, None])
    lower = np.linalg.cholesky(scaled.T @ scaled + penalty * np.eye(x.shape[1]))
    half = solve_triangular(lower, scaled.T, lower=True, check_finite=False)
    projected = half @ (root * (y - centre))
    fitted = (projected @ half) / root + centre
    leverage = (half * half).sum(axis=0) + share
    without = y - (y - fitted) / np.maximum(1.0 - leverage, 1e-6)
    slope = inverse * solve_triangular(lower, projected, trans="T", lower=True, check_finite=False)
    return Ridge(slope, centre - float(mean @ slope)), without


def choose_penalty(x: Values, y: Values, weights: Values, favour: Values) -> float:
    """The penalty of a grid with the least weighted squared error of the rows left out one at a time."""
    penalties = _PENALTIES * float(weights.mean())
    errors = [float(weights @ (y - fit_ridge(x, y, weights, float(p), favour)[1]) ** 2) for p in penalties]
    return float(penalties[int(np.argmin(errors))])
