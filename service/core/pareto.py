"""Pareto fronts and hypervolume, on arrays of minimised objectives.

Everywhere ``values`` is (n, m): n points, m objectives, smaller is better, in the minimised metric's own units
(`service.core.objectives.minimised`). A row with a NaN or an infinite value is not measured: it is on no front and
has no volume. moocore is imported where it is used, because a client reads `service.core` without it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

import numpy as np

from search_spaces.space import Bools, IntArray
from service.core.objectives import Objective, Values, scaled

__all__ = ["REFERENCE", "crowding", "front", "hypervolume", "hypervolume_curve", "leaders", "nondominated", "ranks"]

REFERENCE = 1.1
"""The reference point of the hypervolume, in every objective scaled to 0 at the ideal and 1 at the nadir."""


def nondominated(values: Values, feasible: Bools | None = None, *, duplicates: bool = True) -> Bools:
    """(n,): rows that no other row dominates (at least as good in all objectives and better in one).

    Equal rows do not dominate each other: all of them are kept, or the first alone with ``duplicates=False``.
    Rows that are not finite, or not ``feasible`` (n,), are never kept and dominate nothing.
    """
    result = np.zeros(len(values), dtype=bool)
    rows = np.flatnonzero(_usable(values, feasible))
    if len(rows):
        import moocore

        result[rows] = moocore.is_nondominated(values[rows], keep_weakly=duplicates)
    return result


def front(values: Values, feasible: Bools | None = None) -> IntArray:
    """Indices of the non-dominated rows (`nondominated`, the first of equal rows), by the first objective, rising."""
    rows = np.flatnonzero(nondominated(values, feasible, duplicates=False))
    order: IntArray = rows[np.lexsort(values[rows].T[::-1])]
    return order


def leaders(objectives: Sequence[Objective], values: Values, feasible: Bools, count: int) -> IntArray:
    """Indices of the at most ``count`` best rows, by the first objective, rising.

    They are on the `front`; when it has more, those without which the `hypervolume` would lose most (the earlier on
    the front where that is equal). Of a single objective, whose front is one row, the ``count`` best values.
    """
    if len(objectives) == 1:
        usable = np.flatnonzero(_usable(values, feasible))
        best: IntArray = usable[np.argsort(values[usable, 0], kind="stable")][:count]
        return best
    rows = front(values, feasible)
    if len(rows) <= count:
        return rows
    points = values[rows]
    left = np.array([hypervolume(objectives, np.delete(points, index, axis=0)) for index in range(len(rows))])
    kept: IntArray = rows[np.sort(np.argsort(left, kind="stable")[:count])]
    return kept


def ranks(values: Values, violation: Values | None = None) -> IntArray:
    """(n,): non-domination ranks, 0 for the front, 1 for the front of the rest, and so on; equal rows share a rank.

    ``violation`` (n,), 0 where all constraints hold, makes it constrained domination (Deb et al., "A fast and
    elitist multiobjective genetic algorithm: NSGA-II", 2002): every feasible row comes before every infeasible one,
    and infeasible rows come by their violation alone, NaN (unmeasured) after the measured. Rows that are not finite
    share the last rank.
    """
    result = np.zeros(len(values), dtype=np.int64)
    usable = np.isfinite(values).all(axis=1)
    feasible = usable if violation is None else usable & (violation <= 0)
    if feasible.any():
        import moocore

        result[feasible] = moocore.pareto_rank(values[feasible])
    following = int(result[feasible].max()) + 1 if feasible.any() else 0
    if violation is not None:
        broken = usable & ~feasible
        levels, order = np.unique(np.where(np.isnan(violation[broken]), np.inf, violation[broken]), return_inverse=True)
        result[broken] = following + order
        following += len(levels)
    result[~usable] = following
    return result


def crowding(values: Values, rank: IntArray) -> Values:
    """(n,): NSGA-II's crowding distance within each rank, without a unit; inf for the extremes of a rank.

    The sum over objectives of the distance between a row's two neighbours, as a share of the rank's range in that
    objective (Deb et al. 2002). Rows must be finite.
    """
    n = len(values)
    result = np.zeros(n)
    for column in values.T:
        order = np.lexsort((column, rank))
        ordered, group = column[order], rank[order]
        first = np.r_[True, group[1:] != group[:-1]] if n else np.zeros(0, dtype=bool)
        last = np.r_[first[1:], True] if n else first
        starts, ends = np.flatnonzero(first), np.flatnonzero(last)
        spread = np.repeat(ordered[ends] - ordered[starts], ends - starts + 1)
        below, above = np.r_[ordered[:1], ordered[:-1]], np.r_[ordered[1:], ordered[-1:]]
        gap = np.where(spread > 0, (above - below) / np.where(spread > 0, spread, 1.0), 0.0)
        result[order] += np.where(first | last, np.inf, gap)
    return result


def hypervolume(objectives: Sequence[Objective], values: Values, feasible: Bools | None = None) -> float:
    """The volume that the rows dominate, objectives scaled by their bounds to 0 at the ideal and 1 at the nadir.

    The reference point is `REFERENCE` in each objective: a row that is worse than it anywhere adds nothing. Rows
    beyond the ideal count in full, so the value can pass REFERENCE ** m where bounds were chosen too narrow. Rows
    that are not finite, or not ``feasible`` (n,), add nothing. No unit.
    """
    points = scaled(objectives, values)
    return _volume(points[_usable(points, feasible) & (points < REFERENCE).all(axis=1)])


def hypervolume_curve(objectives: Sequence[Objective], values: Values, feasible: Bools | None = None) -> Values:
    """(n,): `hypervolume` of the first 1, 2, … n rows; never falls.

    Only rows that enter the front cost more than a comparison: O(log n) each for two objectives (a sorted
    staircase), one hypervolume of the dominated corner for more.
    """
    points = scaled(objectives, values)
    counts = np.flatnonzero(_usable(points, feasible) & (points < REFERENCE).all(axis=1))
    gains = np.zeros(len(points))
    inside = points[counts]
    gains[counts] = _staircase_gains(inside) if points.shape[1] == 2 else _corner_gains(inside)
    return np.cumsum(gains)


def _usable(values: Values, feasible: Bools | None) -> Bools:
    finite = np.asarray(np.isfinite(values).all(axis=1), dtype=bool)
    return finite if feasible is None else finite & feasible


def _volume(points: Values) -> float:
    if not len(points):
        return 0.0
    import moocore

    return float(moocore.hypervolume(points, ref=[REFERENCE] * points.shape[1]))


def _staircase_gains(points: Values) -> Values:
    """(n,): area that each (x, y) adds to those before it. The staircase keeps x rising and y falling."""
    xs: list[float] = []
    ys: list[float] = []
    gains = np.zeros(len(points))
    for index, (x, y) in enumerate(points.tolist()):
        left = bisect_left(xs, x)
        ceiling = ys[left - 1] if left else REFERENCE
        if ceiling <= y or (left < len(xs) and xs[left] == x and ys[left] <= y):
            continue
        gain, here, right = 0.0, x, left
        # The steps that the new point covers: those to its right that are not lower.
        while right < len(xs) and ys[right] >= y:
            gain += (xs[right] - here) * (ceiling - y)
            here, ceiling = xs[right], ys[right]
            right += 1
        edge = xs[right] if right < len(xs) else REFERENCE
        gains[index] = gain + (edge - here) * (ceiling - y)
        xs[left:right], ys[left:right] = [x], [y]
    return gains


def _corner_gains(points: Values) -> Values:
    """(n,): volume that each point adds to those before it: its own box less what the front covers of it."""
    members = np.empty((0, points.shape[1]))
    gains = np.zeros(len(points))
    for index, point in enumerate(points):
        if (members <= point).all(axis=1).any():
            continue
        gains[index] = max(np.prod(REFERENCE - point) - _volume(np.maximum(members, point)), 0.0)
        members = np.concatenate([members[~(point <= members).all(axis=1)], point[None]])
    return gains
