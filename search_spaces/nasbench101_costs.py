"""What networks of NAS-Bench-101's cells cost, by vertex: parameters and MACs, looked up and summed."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from search_spaces import dags
from search_spaces.dags import LABELS, Codes
from search_spaces.space import IntArray

_TAPS = (9, 1, 0)
"""Weights of each operation for a pair of channels."""
_WIDTHS = dags.MOST_VERTICES - 2
"""As many inner vertices can lead into the output, and be of different width."""
_CHUNK = 1 << 14
"""Rows made at once: they stay in the cache."""


def costs(codes: Codes, vertices: int, made_from: tuple[int, ...]) -> IntArray:
    """(n, 2): params and MACs of the networks of pruned cells, leftover channels given out in their order."""
    per_vertex, fixed, direct = table(*made_from)
    result = np.empty((len(codes), 2), dtype=np.int64)
    for start in range(0, len(codes), _CHUNK):
        part = codes[start : start + _CHUNK]
        found = places(part, vertices) + dags.unpack(part, vertices)[:, len(dags.edges(vertices)) :]
        from_input = dags.into(part, vertices - 1) & 1
        result[start : start + _CHUNK] = per_vertex[found].sum(axis=1) + fixed + from_input[:, None] * direct
    return result


def places(codes: Codes, vertices: int) -> NDArray[np.intp]:
    """(n, k): where in `table` the cost of each inner vertex lies, for the first of the operations.

    A vertex is as wide as the first of the vertices leading into the output that it comes to without passing another:
    only which one that is, and how many there are, counts.
    """
    last = vertices - 1
    leading, alive = dags.into(codes, last) >> 1, dags.pruned(codes, vertices)[1]
    count = np.bitwise_count(leading).astype(np.intp)
    ranks: dict[int, NDArray[np.intp]] = {}
    result = np.empty((len(codes), vertices - 2), dtype=np.intp)
    for vertex in range(last - 1, 0, -1):
        rank = np.full(len(codes), _WIDTHS - 1, dtype=np.intp)
        for later in range(vertex + 1, last):
            feeds = dags.into(codes, later) >> vertex & 1 > 0
            rank = np.where(feeds, np.minimum(rank, ranks[later]), rank)
        leads = leading >> (vertex - 1) & 1 > 0
        rank = np.where(leads, np.bitwise_count(leading & ((1 << (vertex - 1)) - 1)), rank)
        ranks[vertex] = rank
        there, from_input = alive >> vertex & 1, dags.into(codes, vertex) & 1
        result[:, vertex - 1] = ((count * _WIDTHS + rank) * 3 + there + (there & from_input)) * LABELS
    return result


@lru_cache(maxsize=64)
def table(
    in_channels: int, classes: int, resolution: int, channels: int, stacks: int, cells: int
) -> tuple[IntArray, IntArray, IntArray]:
    """(params, MACs) of inner vertices (., 2), of what all networks have (2,), of an edge from input to output (2,).

    Vertices by how many lead into the output, by which of these their width comes from, by whether they are dead,
    alive, or alive and fed by the input, and by operation.
    """
    per_vertex = np.zeros((_WIDTHS + 1, _WIDTHS, 3, LABELS, 2), dtype=np.int64)
    fixed = _layer(in_channels, channels, 9, resolution)
    direct = np.zeros(2, dtype=np.int64)
    for stack in range(stacks):
        outputs, side = channels << stack, resolution >> stack
        # Of the cells of a stack, all but the first one read what their own kind gives.
        read = [outputs if place or not stack else outputs // 2 for place in range(cells)]
        direct += sum(_layer(inputs, outputs, 1, side) for inputs in read)
        for count in range(1, _WIDTHS + 1):
            for rank in range(_WIDTHS):
                width = outputs // count + (rank < outputs % count)
                projections = sum(_layer(inputs, width, 1, side) for inputs in read)
                for operation, taps in enumerate(_TAPS):
                    own = cells * _layer(width, width, taps, side)
                    per_vertex[count, rank, 1, operation] += own
                    per_vertex[count, rank, 2, operation] += own + projections
    width = channels << (stacks - 1)
    fixed += np.array([width * classes + classes, width * classes])
    return per_vertex.reshape(-1, 2), fixed, direct


def _layer(inputs: int, outputs: int, taps: int, side: int) -> IntArray:
    """(params, MACs) of a convolution with so many weights per pair of channels, and its norm; none without taps."""
    weights = inputs * outputs * taps
    return np.array([weights + 2 * outputs if taps else 0, weights * side**2], dtype=np.int64)
