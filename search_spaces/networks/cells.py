"""How tensors pass through a cell of four nodes with an operation on each of the six edges between them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

_INTO = (((0, 0),), ((1, 0), (2, 1)), ((3, 0), (4, 1), (5, 2)))
"""For the second node and those behind it: (edge, node it comes from) of the edges that lead into it."""


def reached(there: Sequence[bool]) -> list[bool]:
    """For each edge whether what it brings depends on the cell's input; ``there``: the edges that connect."""
    fed, result = [True], []
    for edges in _INTO:
        brought = [there[edge] and fed[start] for edge, start in edges]
        result += brought
        fed.append(any(brought))
    return result


def flow(x: Tensor, edges: nn.ModuleList, counts: Sequence[bool]) -> Tensor:
    """The last node: each is the sum of what the edges bring that count, zeros where none does. All edges run."""
    nodes = [x]
    for into in _INTO:
        brought: list[Tensor] = [edges[edge](nodes[start]) for edge, start in into]
        total: Tensor | None = None
        for (edge, _), y in zip(into, brought, strict=True):
            if counts[edge]:
                total = y if total is None else total + y
        nodes.append(torch.zeros_like(brought[0]) if total is None else total)
    return nodes[-1]
