"""Means of few values, and how sure they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Mean:
    """The mean of ``n`` values, in their unit, and the ends of its interval; None where one value says nothing."""

    value: float
    low: float | None
    high: float | None
    n: int


def mean(values: Sequence[float], level: float = LEVEL) -> Mean:
    """The mean and its two-sided Student interval: mean ± t(level, n − 1) · s / √n (Student, Biometrika 1908).

    Made for values that are about normal and drawn independently. Raises ValueError without a value, or for one that
    is not finite.
    """
    numbers = np.asarray(values, dtype=np.float64)
    if not len(numbers) or not np.isfinite(numbers).all():
        raise ValueError(f"must be at least one finite number, are {list(values)}")
    centre, n = float(numbers.mean()), len(numbers)
    return around(centre, float(numbers.std(ddof=1)) if n > 1 else None, n, level)


def around(centre: float, deviation: float | None, n: int, level: float = LEVEL) -> Mean:
    """The same from the mean of ``n`` values and their standard deviation (n − 1); no interval without one."""
    if n == 1 or deviation is None:
        return Mean(centre, None, None, n)
    # Late: clients read `service.core` without scipy.
    from scipy.special import stdtrit

    half = float(stdtrit(n - 1, (1 + level) / 2)) * deviation / n**0.5
    return Mean(centre, centre - half, centre + half, n)
