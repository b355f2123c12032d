"""Objectives and constraints: directions, scaling, refusals."""

from __future__ import annotations

import numpy as np
import pytest

from service.core.errors import Invalid
from service.core.objectives import Constraint, Direction, Objective, minimised, scale_bounds, scaled, violations

ACCURACY = Objective("accuracy", Direction.MAXIMISE, (1.0, 0.1))
MACS = Objective("macs", Direction.MINIMISE, (100.0, 1100.0))


def test_everything_is_minimised_and_missing_metrics_are_nan():
    values = minimised((ACCURACY, MACS), [{"accuracy": 0.9, "macs": 300, "other": 1}, {"macs": 100}])
    np.testing.assert_equal(values, [[-0.9, 300.0], [np.nan, 100.0]])
    assert minimised((ACCURACY, MACS), []).shape == (0, 2)


def test_zero_is_a_value_and_not_a_missing_one():
    assert minimised((ACCURACY, MACS), [{"accuracy": 0.0, "macs": 0}]).tolist() == [[0.0, 0.0]]
    assert violations((Constraint("macs", lower=5),), [{"macs": 0}]).tolist() == [[5.0]]


def test_the_ideal_scales_to_0_and_the_nadir_to_1():
    rows = [{"accuracy": 1.0, "macs": 100}, {"accuracy": 0.1, "macs": 1100}, {"accuracy": 0.55, "macs": 1600}]
    np.testing.assert_allclose(
        scaled((ACCURACY, MACS), minimised((ACCURACY, MACS), rows)), [[0, 0], [1, 1], [0.5, 1.5]], atol=1e-12
    )
    ideal, nadir = scale_bounds((ACCURACY, MACS))
    assert (ideal.tolist(), nadir.tolist()) == ([-1.0, 100.0], [-0.1, 1100.0])


@pytest.mark.parametrize(
    ("direction", "bounds", "words"),
    [
        (Direction.MINIMISE, (1.0, 1.0), "two different finite numbers"),
        (Direction.MINIMISE, (0.0, float("inf")), "two different finite numbers"),
        (Direction.MAXIMISE, (float("nan"), 1.0), "two different finite numbers"),
        (Direction.MINIMISE, (2.0, 1.0), "to minimise the first must be the better one"),
        (Direction.MAXIMISE, (0.0, 1.0), "to maximise the first must be the better one"),
    ],
)
def test_bounds_that_make_no_sense_are_refused_by_name(direction, bounds, words):
    with pytest.raises(Invalid, match=words) as caught:
        Objective("error", direction, bounds)
    assert caught.value.field == "objectives.error.bounds"


def test_constraints_need_bounds_in_order():
    with pytest.raises(Invalid, match="needs a lower or an upper bound") as caught:
        Constraint("latency_ms")
    assert caught.value.field == "constraints.latency_ms"
    with pytest.raises(Invalid, match=r"lower bound 2.* is above upper bound 1") as caught:
        Constraint("latency_ms", lower=2, upper=1)
    assert caught.value.field == "constraints.latency_ms"


def test_violations_are_distances_from_the_bounds():
    limits = (
        Constraint("macs", lower=10, upper=20),
        Constraint("latency_ms", upper=5),
        Constraint("accuracy", lower=0.5),
    )
    rows = [
        {"macs": 10, "latency_ms": 5, "accuracy": 0.5},
        {"macs": 7, "latency_ms": 6.5, "accuracy": 0.25},
        {"macs": 23},
    ]
    np.testing.assert_equal(violations(limits, rows), [[0, 0, 0], [3, 1.5, 0.25], [3, np.nan, np.nan]])
    assert violations((), rows).shape == (3, 0)
    assert violations(limits, []).shape == (0, 3)
