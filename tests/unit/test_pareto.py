"""Fronts, ranks and hypervolumes: by hand, and against the definitions written out."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.core.objectives import Direction, Objective, minimised
from service.core.pareto import REFERENCE, crowding, front, hypervolume, hypervolume_curve, leaders, nondominated, ranks
from service.search.acquisition import boxes, expected_gain

UNIT = tuple(Objective(name, Direction.MINIMISE, (0.0, 1.0)) for name in "abcd")

# Few distinct values, so that ties and duplicates are common; some beyond the ideal, some beyond the reference.
numbers = st.sampled_from([-0.25, 0.0, 0.125, 0.25, 0.5, 0.75, 1.0, 1.0625, 1.1, 1.25, np.nan, np.inf])


def points(width: int, largest: int = 9):
    return st.lists(st.lists(numbers, min_size=width, max_size=width), max_size=largest).map(
        lambda rows: np.array(rows, dtype=np.float64).reshape(-1, width)
    )


any_points = st.integers(1, 4).flatmap(points)


def dominates(a, b) -> bool:
    return bool((a <= b).all() and (a < b).any())


def by_definition(values) -> list[bool]:
    usable = np.isfinite(values).all(axis=1)
    rows = values[usable]
    return [
        bool(ok) and not any(dominates(other, row) for other in rows) for row, ok in zip(values, usable, strict=True)
    ]


def volume_by_cells(values) -> float:
    """The cells of the grid through all coordinates that some row covers."""
    rows = values[np.isfinite(values).all(axis=1)]
    rows = rows[(rows < REFERENCE).all(axis=1)]
    axes = [np.unique(np.r_[rows[:, j], REFERENCE]) for j in range(values.shape[1])]
    total = 0.0
    for cell in itertools.product(*(range(len(axis) - 1) for axis in axes)):
        corner = np.array([axis[i] for axis, i in zip(axes, cell, strict=True)])
        if (rows <= corner).all(axis=1).any():
            total += float(np.prod([axis[i + 1] - axis[i] for axis, i in zip(axes, cell, strict=True)]))
    return total


def test_two_points_by_hand():
    values = np.array([[0.1, 0.6], [0.6, 0.1]])
    # Two boxes of 1.0 × 0.5 that share 0.5 × 0.5.
    assert hypervolume(UNIT[:2], values) == pytest.approx(0.5 + 0.5 - 0.25)


def test_bounds_scale_and_directions_turn():
    objectives = (
        Objective("accuracy", Direction.MAXIMISE, (0.9, 0.5)),
        Objective("macs", Direction.MINIMISE, (10, 110)),
    )
    values = minimised(objectives, [{"accuracy": 0.9, "macs": 10}, {"accuracy": 0.5, "macs": 110}])
    assert hypervolume(objectives, values[:1]) == pytest.approx(1.1 * 1.1)
    assert hypervolume(objectives, values[1:]) == pytest.approx(0.1 * 0.1)
    assert hypervolume(objectives, minimised(objectives, [{"accuracy": 0.7, "macs": 60}])) == pytest.approx(0.6 * 0.6)


def test_what_is_worse_than_the_reference_adds_nothing_and_what_beats_the_ideal_adds_all():
    assert hypervolume(UNIT[:2], np.array([[0.0, 1.1], [1.2, 0.0], [np.nan, 0.0], [0.5, np.inf]])) == 0.0
    assert hypervolume(UNIT[:2], np.array([[-0.4, 0.1]])) == pytest.approx(1.5 * 1.0)
    assert hypervolume(UNIT[:2], np.empty((0, 2))) == 0.0


def test_only_feasible_rows_count():
    values = np.array([[0.1, 0.1], [0.6, 0.6]])
    feasible = np.array([False, True])
    assert hypervolume(UNIT[:2], values, feasible) == pytest.approx(0.25)
    assert hypervolume_curve(UNIT[:2], values, feasible).tolist() == pytest.approx([0.0, 0.25])
    assert nondominated(values, feasible).tolist() == [False, True]
    assert front(values, feasible).tolist() == [1]


def test_the_front_is_sorted_and_duplicates_are_as_stated():
    values = np.array([[3.0, 0.0], [1.0, 2.0], [2.0, 2.0], [1.0, 2.0], [np.nan, 0.0], [0.0, 5.0]])
    assert nondominated(values).tolist() == [True, True, False, True, False, True]
    assert nondominated(values, duplicates=False).tolist() == [True, True, False, False, False, True]
    assert front(values).tolist() == [5, 1, 0]
    assert front(np.empty((0, 2))).tolist() == []


@given(any_points)
@settings(deadline=None)
def test_the_mask_is_the_definition(values):
    expected = by_definition(values)
    assert nondominated(values).tolist() == expected
    kept = nondominated(values, duplicates=False)
    assert kept[np.array(expected, dtype=bool)].sum() == len(np.unique(values[expected], axis=0))
    assert not (kept & ~np.array(expected, dtype=bool)).any()


@given(any_points)
@settings(deadline=None)
def test_the_volume_is_that_of_the_covered_cells(values):
    objectives = UNIT[: values.shape[1]]
    assert hypervolume(objectives, values) == pytest.approx(volume_by_cells(values), abs=1e-12)


@given(any_points)
@settings(deadline=None)
def test_the_curve_is_the_volume_of_every_prefix(values):
    objectives = UNIT[: values.shape[1]]
    curve = hypervolume_curve(objectives, values)
    assert curve.shape == (len(values),)
    for end, value in enumerate(curve, 1):
        assert value == pytest.approx(hypervolume(objectives, values[:end]), abs=1e-12)


@pytest.mark.parametrize("width", [2, 3])
def test_the_curve_of_ten_thousand_evaluations_ends_at_the_volume(width):
    values = np.random.default_rng(0).random((10_000, width)) * 1.2
    curve = hypervolume_curve(UNIT[:width], values)
    assert (np.diff(curve) >= 0).all()
    assert curve[-1] == pytest.approx(hypervolume(UNIT[:width], values))


@given(any_points)
@settings(deadline=None)
def test_ranks_peel_one_front_after_the_other(values):
    rank = ranks(values)
    left = np.isfinite(values).all(axis=1)
    level = 0
    while left.any():
        peeled = left & nondominated(values, left)
        assert (rank[peeled] == level).all()
        left &= ~peeled
        level += 1
    assert (rank[~np.isfinite(values).all(axis=1)] == level).all()


def test_leaders_are_the_front_then_what_the_volume_would_miss_most():
    values = np.array([[0.0, 1.0], [0.05, 0.9], [0.5, 0.5], [1.0, 0.0], [0.6, 0.6], [0.5, 0.5], [np.nan, 0.1]])
    every = np.ones(len(values), dtype=bool)
    assert leaders(UNIT[:2], values, every, 4).tolist() == [0, 1, 2, 3]
    # Alone they cover, up to 1.1: 0.05 · 0.1, 0.45 · 0.1, 0.5 · 0.4, 0.1 · 0.5.
    assert leaders(UNIT[:2], values, every, 3).tolist() == [1, 2, 3]
    assert leaders(UNIT[:2], values, every, 1).tolist() == [2]
    assert leaders(UNIT[:2], values, np.arange(len(values)) != 2, 1).tolist() == [5]
    assert leaders(UNIT[:2], values, ~every, 3).tolist() == []
    assert leaders(UNIT[:1], values[:, :1], every, 3).tolist() == [0, 1, 2]


def test_constrained_ranks_put_the_feasible_first_and_then_go_by_violation():
    values = np.array([[5.0, 5.0], [0.0, 0.0], [6.0, 6.0], [0.0, 1.0], [np.nan, 0.0], [1.0, 0.0]])
    violation = np.array([0.0, 0.2, 0.0, 0.1, 0.0, np.nan])
    assert ranks(values, violation).tolist() == [0, 3, 1, 2, 5, 4]


def test_crowding_by_hand():
    values = np.array([[0.0, 4.0], [1.0, 3.0], [4.0, 0.0], [2.0, 2.0], [9.0, 9.0]])
    rank = np.array([0, 0, 0, 0, 1])
    # Ends of a rank are lonely; inside, the sum of the neighbours' distances over the range of the rank.
    expected = [np.inf, 2 / 4 + 2 / 4, np.inf, 3 / 4 + 3 / 4, np.inf]
    assert crowding(values, rank).tolist() == pytest.approx(expected)
    assert crowding(np.empty((0, 2)), np.empty(0, dtype=np.int64)).tolist() == []


def test_crowding_of_a_constant_column_is_that_of_the_others():
    values = np.array([[0.0, 1.0], [1.0, 1.0], [2.0, 1.0]])
    assert crowding(values, np.zeros(3, dtype=np.int64))[1] == pytest.approx(1.0)


# ---------------------------------------------------------------------- expected improvement


@given(st.integers(1, 3).flatmap(lambda width: st.tuples(points(width, 6), points(width, 4))))
@settings(deadline=None)
def test_without_uncertainty_the_expected_gain_is_the_gain(both):
    known, candidates = (rows[np.isfinite(rows).all(axis=1)] for rows in both)
    objectives = UNIT[: known.shape[1]]
    gain = expected_gain(candidates, np.zeros_like(candidates), *boxes(known))
    before = hypervolume(objectives, known)
    for row, value in zip(candidates, gain, strict=True):
        after = hypervolume(objectives, np.concatenate([known, row[None]]))
        assert value == pytest.approx(after - before, abs=1e-12)


@pytest.mark.parametrize("width", [1, 2, 3])
def test_the_expected_gain_is_the_mean_of_gains(width):
    rng = np.random.default_rng(width)
    known = 0.3 + 0.8 * rng.random((5, width))
    mean, std = 0.2 + 0.8 * rng.random((3, width)), 0.2 * rng.random((3, width))
    std[0, 0] = 0.0
    before = hypervolume(UNIT[:width], known)
    expected = expected_gain(mean, std, *boxes(known))
    for row in range(3):
        drawn = mean[row] + std[row] * rng.standard_normal((4000, width))
        gains = [hypervolume(UNIT[:width], np.concatenate([known, one[None]])) - before for one in drawn]
        assert expected[row] == pytest.approx(np.mean(gains), abs=5 * np.std(gains) / np.sqrt(4000) + 1e-9)


def test_boxes_of_an_empty_front_are_everything_below_the_reference():
    lower, upper = boxes(np.empty((0, 2)))
    assert lower.tolist() == [[-np.inf, -np.inf]]
    assert upper.tolist() == [[REFERENCE, REFERENCE]]


def test_a_front_with_too_many_members_is_thinned():
    angle = np.linspace(0.01, np.pi / 2 - 0.01, 200)
    sphere = 1 - np.stack([np.cos(angle), np.sin(angle), np.full(200, 0.5)], axis=1)
    lower, upper = boxes(np.concatenate([sphere, sphere[:, [1, 2, 0]], sphere[:, [2, 0, 1]]]))
    assert len(lower) < 10_000
    assert (upper > lower).all()
