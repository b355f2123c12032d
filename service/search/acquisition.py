"""The expected hypervolume improvement of candidates whose objectives are predicted, exactly and for many at once.

The region that a front leaves undominated is cut into disjoint boxes. With independent normal predictions the
expected gain of a candidate is a sum over boxes of products over objectives of one-dimensional expectations
(Emmerich et al., "Hypervolume-based expected improvement", 2011; Yang et al., "Multi-objective Bayesian global
optimization using expected hypervolume improvement gradient", 2019). A standard deviation of 0 gives the plain
hypervolume improvement, so objectives that are counted and objectives that are predicted go through one formula.

Everything is scaled as the hypervolume is (`service.core.objectives.scaled`): 0 ideal, 1 nadir, smaller is better.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from service.core.objectives import Values
from service.core.pareto import REFERENCE, crowding, nondominated

_MOST_BOXES = 4000
"""Fronts that would be cut into more boxes are thinned: their number grows with members ** (objectives - 1)."""

_CELLS = 2_000_000
"""Candidates × boxes worked on at a time, to bound memory."""


def boxes(front: Values) -> tuple[Values, Values]:
    """(lower, upper), (b, m) each: disjoint boxes that fill what ``front`` (k, m) leaves below the reference point.

    Lower corners reach -inf. Dominated members and members beyond the reference change nothing; rows must be finite.
    """
    kept = front[(front < REFERENCE).all(axis=1)]
    kept = kept[nondominated(kept, duplicates=False)]
    objectives = front.shape[1]
    most = int(_MOST_BOXES ** (1 / max(objectives - 1, 1)))
    if objectives > 1 and len(kept) > most:
        spread = crowding(kept, np.zeros(len(kept), dtype=np.int64))
        kept = kept[np.argsort(-spread, kind="stable")[:most]]
    found = _cut(kept)
    return np.array([lower for lower, _ in found]), np.array([upper for _, upper in found])


def _cut(front: Values) -> list[tuple[tuple[float, ...], tuple[float, ...]]]:
    if front.shape[1] == 1:
        best = float(front.min()) if len(front) else REFERENCE
        return [((-np.inf,), (best,))]
    front = front[np.argsort(front[:, -1], kind="stable")]
    levels = [-np.inf, *front[:, -1].tolist(), REFERENCE]
    found: list[tuple[tuple[float, ...], tuple[float, ...]]] = []
    # Between two levels of the last objective only the members below the slab cover anything of it.
    for index in range(len(front) + 1):
        bottom, top = levels[index], levels[index + 1]
        if top > bottom:
            below = front[:index, :-1]
            slab = _cut(below[nondominated(below, duplicates=False)])
            found += [((*lower, bottom), (*upper, top)) for lower, upper in slab]
    return found


def expected_gain(mean: Values, std: Values, lower: Values, upper: Values) -> Values:
    """(n,): expected hypervolume that each candidate adds, by predicted ``mean`` and ``std`` (n, m) and `boxes`."""
    result = np.zeros(len(mean))
    step = max(1, _CELLS // len(lower))
    for start in range(0, len(mean), step):
        rows = slice(start, start + step)
        product = np.ones((len(mean[rows]), len(lower)))
        for column in range(mean.shape[1]):
            # Corners of boxes repeat: each distinct one is worked out once.
            corners, places = np.unique(np.r_[lower[:, column], upper[:, column]], return_inverse=True)
            room = _room_below(mean[rows, column], std[rows, column], corners)[:, places]
            product *= room[:, len(lower) :] - room[:, : len(lower)]
        result[rows] = product.sum(axis=1)
    return result


def _room_below(mean: Values, std: Values, corners: Values) -> NDArray[np.float64]:
    """(n, c): E[max(0, corner - X)] for X normal; 0 at -inf."""
    gap = corners[None, :] - mean[:, None]
    gap[:, np.isneginf(corners)] = 0.0
    room = np.maximum(gap, 0.0)
    noisy = std > 0
    if noisy.any():
        width = std[noisy, None]
        z = gap[noisy] / width
        room[noisy] = gap[noisy] * ndtr(z) + width * np.exp(-0.5 * z * z) / np.sqrt(2 * np.pi)
    room[:, np.isneginf(corners)] = 0.0
    return room
