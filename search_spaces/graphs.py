"""Computation graphs as padded arrays, and what can be read off them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from search_spaces.space import Bools, Graphs, SearchSpace

_CHUNK = 1 << 20
"""Bytes of adjacency made at once: they stay in the cache."""


def labels_of(space: SearchSpace) -> tuple[str, ...]:
    """All labels that operations of the space's graphs have. Raises `Unsupported` where it has no graphs."""
    return space.graphs(np.empty((0, len(space.choices)), dtype=np.int8)).labels


def compact(present: Bools, adjacency: Bools, operations: NDArray[np.integer], labels: tuple[str, ...]) -> Graphs:
    """Graphs of the nodes that are ``present`` (n, v), moved to the front in their order; edges of others are dropped.

    ``adjacency`` (n, v, v), or (v, v) where it is the same for all; ``operations`` (n, v).
    """
    order, there = _front(present)
    n, most = order.shape
    width = present.shape[1]
    kept = np.empty((n, most, most), dtype=bool)
    # All places of all graphs in one line: looked up there, a place takes a nanosecond.
    line = np.ascontiguousarray(adjacency).reshape(-1)
    for rows in _chunks(n, width):
        start = order[rows] * width
        if adjacency.ndim == 3:
            start += np.arange(rows.start, rows.stop)[:, None] * width**2
        kept[rows] = line.take(start[:, :, None] + order[rows][:, None, :])
        kept[rows] &= there[rows][:, :, None]
        kept[rows] &= there[rows][:, None, :]
    return Graphs(kept, _shown(operations, order, there), labels)


def chain(present: Bools, passes: Bools, operations: NDArray[np.integer], labels: tuple[str, ...]) -> Graphs:
    """Graphs of nodes one behind the other, some of which let what they read flow past them: residual blocks.

    Nodes that are ``present`` (n, v) move to the front. ``passes`` (n, v), or (v,) where it is the same for all, says
    which nodes add their input to their output; a node feeds another if all between them do. ``operations`` (n, v).
    """
    order, there = _front(present)
    n, most = order.shape
    result = np.empty((n, most, most), dtype=bool)
    walls = there & ~_places(np.broadcast_to(passes, present.shape), order)
    behind = np.cumsum(walls, axis=1, dtype=np.int16)
    before = np.where(there, behind - walls, np.int16(-1))
    later = np.triu(np.ones((most, most), dtype=bool), 1)
    for rows in _chunks(n, most):
        np.equal(before[rows][:, None, :], behind[rows][:, :, None], out=result[rows])
        result[rows] &= later
    return Graphs(result, _shown(operations, order, there), labels)


def _front(present: Bools) -> tuple[NDArray[np.intp], Bools]:
    """The places of the nodes, those that are present first, and which of them are; both (n, most present)."""
    counts = present.sum(axis=1)
    most = int(counts.max(initial=0))
    order = np.argsort(~present, axis=1, kind="stable")[:, :most]
    return order, np.arange(most) < counts[:, None]


def _places(values: NDArray[Any], order: NDArray[np.intp]) -> NDArray[Any]:
    """(n, k): the values (n, v) at these places of their rows."""
    starts = np.arange(len(order))[:, None] * values.shape[1]
    return np.asarray(np.ascontiguousarray(values).reshape(-1).take(starts + order))


def _shown(operations: NDArray[np.integer], order: NDArray[np.intp], there: Bools) -> NDArray[np.int16]:
    return np.where(there, _places(operations, order), -1).astype(np.int16)


def _chunks(n: int, width: int) -> list[slice]:
    step = max(1, _CHUNK // max(width, 1) ** 2)
    return [slice(start, min(start + step, n)) for start in range(0, n, step)]
