"""Means of few values: against scipy's own Student interval, and what cannot be."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from service.core.intervals import mean


@pytest.mark.parametrize("count", [2, 3, 20])
def test_the_interval_is_students(count: int) -> None:
    values = np.random.default_rng(count).normal(5, 2, count)
    found = mean(values.tolist(), level=0.9)
    low, high = stats.t.interval(0.9, count - 1, loc=values.mean(), scale=stats.sem(values))
    assert (found.value, found.low, found.high) == pytest.approx((values.mean(), low, high))
    assert found.n == count


def test_equal_values_leave_no_room_and_one_value_says_nothing() -> None:
    same = mean([0.5, 0.5, 0.5])
    assert (same.value, same.low, same.high) == (0.5, 0.5, 0.5)
    one = mean([0.5])
    assert (one.value, one.low, one.high, one.n) == (0.5, None, None, 1)


@pytest.mark.parametrize("values", [[], [1.0, float("nan")], [float("inf")]])
def test_nothing_and_what_is_not_finite_is_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="finite"):
        mean(values)
