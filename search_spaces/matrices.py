"""Cells as text: the JSON of an adjacency matrix and of the vertices' operations, as NAS-Bench-101's API takes them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from search_spaces.space import InvalidArchitecture

KEYS = ("adjacency", "operations")


def written(edges: Sequence[tuple[int, int]], operations: Sequence[str]) -> str:
    """The text of a cell whose vertices are the input, one for each operation, and the output."""
    size = len(operations) + 2
    matrix = [[0] * size for _ in range(size)]
    for start, end in edges:
        matrix[start][end] = 1
    return json.dumps({"adjacency": matrix, "operations": ["input", *operations, "output"]})


def read(text: str, most: int, known: Sequence[str]) -> tuple[list[tuple[int, int]], list[int]]:
    """The edges of such a text, and which of the ``known`` operations each inner vertex has; ``most`` vertices.

    Raises `InvalidArchitecture`, as if it were row 0, that names what is wrong: ``notation``, ``adjacency``,
    ``operations`` or, of inner vertex v, ``opv``.
    """
    form = 'must read {"adjacency": [[0, 1], [0, 0]], "operations": ["input", "output"]}'
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise _refused("notation", f"{form}, is {text[:200]!r}") from None
    if not isinstance(found, dict) or sorted(found) != sorted(KEYS):
        raise _refused("notation", f"{form}, is {text[:200]!r}")
    matrix, names = (found[key] for key in KEYS)
    edges = _edges(matrix, most)
    size = len(matrix)
    if not isinstance(names, list) or len(names) != size:
        got = f"{len(names)} of them" if isinstance(names, list) else repr(names)
        raise _refused("operations", f"must be a list, one for each of the {size} vertices of adjacency; got {got}")
    for place, name in ((0, "input"), (size - 1, "output")):
        if names[place] != name:
            raise _refused("operations", f"[{place}] is {names[place]!r}, must be {name!r}")
    for vertex, name in enumerate(names[1:-1], 1):
        if name not in known:
            raise _refused(f"op{vertex}", f"no such operation {name!r}, operations are {list(known)}")
    return edges, [known.index(name) for name in names[1:-1]]


def _edges(matrix: Any, most: int) -> list[tuple[int, int]]:
    if not isinstance(matrix, list) or not all(isinstance(row, list) for row in matrix):
        raise _refused("adjacency", "must be a square matrix, a list of rows")
    size = len(matrix)
    if not 2 <= size <= most:
        raise _refused("adjacency", f"must have 2 to {most} vertices, has {size}")
    for start, row in enumerate(matrix):
        if len(row) != size:
            raise _refused("adjacency", f"must be square: row {start} has {len(row)} entries, there are {size} rows")
        for end, entry in enumerate(row):
            if isinstance(entry, bool) or entry not in (0, 1):
                raise _refused("adjacency", f"[{start}][{end}] is {entry!r}, must be 0 or 1")
    edges = [(start, end) for start, row in enumerate(matrix) for end, entry in enumerate(row) if entry]
    for start, end in edges:
        if start >= end:
            circle = _circle(edges)
            why = f"vertices {circle} form a cycle" if circle else "number vertices along the edges"
            raise _refused("adjacency", f"an edge leads from vertex {start} back to {end}: {why}")
    return edges


def _circle(edges: Sequence[tuple[int, int]]) -> list[int]:
    """The vertices on cycles and between cycles; none if there is no cycle."""
    left = list(edges)
    while True:
        starts, ends = {start for start, _ in left}, {end for _, end in left}
        kept = [(start, end) for start, end in left if start in ends and end in starts]
        if len(kept) == len(left):
            return sorted(starts)
        left = kept


def _refused(field: str, message: str) -> InvalidArchitecture:
    return InvalidArchitecture(message, row=0, field=field)
