"""Normal scores: a monotone, invertible map of one column onto something like a normal law."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import Self

import numpy as np

from predictors.bootstrap import Values

_KNOTS = 256


@dataclass(frozen=True, slots=True)
class NormalScores:
    """Piecewise linear between ``values`` (k,) and ``scores`` (k,), both strictly ascending, straight beyond.

    A mean squared error of normal scores weighs all ranks alike, where one of the plain values is spent on the few
    worst networks. Source: van der Waerden scores, (rank − ½) / n through the normal quantile function.
    """

    values: Values
    scores: Values

    def __post_init__(self) -> None:
        if self.values.ndim != 1 or not len(self.values) or self.values.shape != self.scores.shape:
            raise ValueError(f"knots must be (k,) both, k > 0, are {self.values.shape} and {self.scores.shape}")
        if not (np.isfinite(self.values).all() and np.isfinite(self.scores).all()):
            raise ValueError("knots must be finite")
        if (np.diff(self.values) <= 0).any() or (np.diff(self.scores) <= 0).any():
            raise ValueError("knots must ascend strictly")

    @classmethod
    def of(cls, column: Values) -> Self:
        """The map of a finite column (n,), n > 0; equal values share their mean rank."""
        values, counts = np.unique(column, return_counts=True)
        middle = (np.cumsum(counts) - counts / 2) / len(column)
        if len(values) > _KNOTS:
            kept = np.unique(np.linspace(0, len(values) - 1, _KNOTS).round().astype(np.int64))
            values, middle = values[kept], middle[kept]
        normal = NormalDist()
        return cls(values, np.array([normal.inv_cdf(float(share)) for share in middle]))

    def forward(self, column: Values) -> Values:
        """Values to scores; NaN stays NaN."""
        return _straight(column, self.values, self.scores)

    def inverse(self, column: Values) -> Values:
        """Scores to values, of any shape."""
        return _straight(column, self.scores, self.values)


def _straight(column: Values, x: Values, y: Values) -> Values:
    inside = np.interp(column, x, y)
    if len(x) == 1:
        return np.asarray(inside)
    # Beyond the ends the slope of the outer quarter of the knots: that of the last pair alone is an accident.
    reach = max(1, len(x) // 4)
    below = (y[reach] - y[0]) / (x[reach] - x[0])
    above = (y[-1] - y[-1 - reach]) / (x[-1] - x[-1 - reach])
    return np.asarray(inside + np.minimum(column - x[0], 0.0) * below + np.maximum(column - x[-1], 0.0) * above)
