"""Computation graphs as padded arrays, and what can be read off them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from search_spaces.space import Bools, Graphs


def compact(present: Bools, adjacency: Bools, operations: NDArray[np.integer], labels: tuple[str, ...]) -> Graphs:
    """Graphs of the nodes that are ``present`` (n, v), moved to the front in their order; edges of others are dropped.

    ``adjacency`` (n, v, v), or (v, v) where it is the same for all; ``operations`` (n, v).
    """
    order = np.argsort(~present, axis=1, kind="stable")[:, : int(present.sum(axis=1).max(initial=0))]
    kept = adjacency & present[:, :, None] & present[:, None, :]
    kept = np.take_along_axis(kept, order[:, :, None], axis=1)
    kept = np.take_along_axis(kept, order[:, None, :], axis=2)
    shown = np.take_along_axis(np.where(present, operations, -1).astype(np.int16), order, axis=1)
    return Graphs(kept, shown, labels)
