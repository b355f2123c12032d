"""Cells of four nodes with an operation on each of the six edges between them, and which of them compute the same.

A node is the sum of what its edges bring. The first node is the cell's input, the last one its output.

Two cells are the same if they compute the same for all weights, once the weights of the convolutions that matter are
matched one to one. That is what is left when

- operations that read nothing but zeros, or that lead nowhere, are dropped,
- skips are contracted (a sum of sums is one sum),
- the inner nodes are given other names.

It is sound for networks in which nothing is added for what reads zeros. Multiplicities are kept, since x + x is not x,
and a convolution that is used twice is not two convolutions.

Where some cells of a network change the shape, the edges from their first node do: a skip there has weights of its own
and is not contracted. Two cells that are the same even so are the same in the cells that keep the shape, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import product
from typing import Any, NoReturn, final

import numpy as np
from numpy.typing import NDArray

from search_spaces.graphs import compact
from search_spaces.space import (
    Bools,
    Choice,
    Genes,
    Graphs,
    Identity,
    InvalidSpace,
    SearchSpace,
    Unsupported,
    images,
)

EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
"""(from, to) of each choice: edges into one node stand together."""
NONE, SKIP = 0, 1
"""The first two operations of every set."""


@final
class Cells:
    """All cells of one set of operations.

    ``operations``: their names, the first one no connection, the second one the identity. ``taps``: the kernel area of
    each convolution, 0 for what has no weights. ``reduces``: whether some cells change the shape.
    """

    def __init__(self, operations: Sequence[str], taps: Sequence[int], *, reduces: bool = False) -> None:
        self.operations = tuple(operations)
        self._taps = tuple(taps)
        self._reduces = reduces
        self.rows: Genes = np.array(list(product(range(len(operations)), repeat=len(EDGES))), dtype=np.int8)
        """(operations ** 6, 6): all rows, in the order of their genes."""
        self._places = len(operations) ** np.arange(len(EDGES) - 1, -1, -1, dtype=np.int32)

    @cached_property
    def representatives(self) -> NDArray[np.int32]:
        """(operations ** 6,): for each of the `rows` the one that stands for its class.

        Of a class the row of the lightest convolutions, of those the one of fewest other operations beside skips, of
        those the first in the order of genes. Nothing in it is dead.
        """
        taps = np.tile(self._taps, (len(EDGES), 1))
        if self._reduces:
            taps[[edge for edge, (start, _) in enumerate(EDGES) if not start], SKIP] = 1
        weight = taps[np.arange(len(EDGES)), self.rows].sum(axis=1)
        weightless = [index for index, taps in enumerate(self._taps) if index > SKIP and not taps]
        others = np.isin(self.rows, weightless).sum(axis=1)
        listed = self.rows.tolist()
        first: dict[tuple[str, ...], int] = {}
        result = np.empty(len(listed), dtype=np.int32)
        for index in np.lexsort((np.arange(len(listed)), others, weight)).tolist():
            result[index] = first.setdefault(self._function(listed[index]), index)
        return result

    def number(self, genes: Genes) -> NDArray[np.int32]:
        """(n,): the index of each row among the `rows`."""
        return genes @ self._places

    def canonical(self, genes: Genes) -> Genes:
        """(n, 6): the row that stands for each row's class."""
        return np.asarray(self.rows[self.representatives[self.number(genes)]])

    def left(self, allowed: Bools, *, united: bool) -> Genes:
        """(k, 6): the rows within a restriction, only canonical ones if ``united``, in the order of their genes."""
        rows = self.rows[self.representatives == np.arange(len(self.rows))] if united else self.rows
        kept: Genes = rows[allowed[np.arange(len(EDGES)), rows].all(axis=1)]
        return kept

    def graphs(self, genes: Genes) -> Graphs:
        """Nodes ``input``, the operations that matter, ``output``; what feeds an operation's node of the cell feeds it.

        Operations that are cut off from the input or the output are left out; a cell that is all cut off has a single
        ``none``.
        """
        labels = ("input", *self.operations, "output")
        n, last = len(genes), len(EDGES) + 1
        matter = live(genes)
        shown = matter.copy()
        shown[~matter.any(axis=1), EDGES.index((0, 3))] = True
        present = np.ones((n, last + 1), dtype=bool)
        present[:, 1:last] = shown
        operations = np.zeros((n, last + 1), dtype=np.int16)
        operations[:, 1:last] = np.where(matter, genes, NONE) + 1
        operations[:, last] = len(labels) - 1
        # Position 1 + e is edge e; a position feeds another if it ends at the node where the other begins.
        starts = np.array([-1, *(start for start, _ in EDGES), 3])
        ends = np.array([0, *(end for _, end in EDGES), -2])
        return compact(present, ends[:, None] == starts[None, :], operations, labels)

    def _function(self, row: Sequence[int]) -> tuple[str, ...]:
        """The terms of the sum that a cell computes, sorted: equal for two cells if and only if they are one class.

        Only the second node is read by more than one edge, so only the convolution on the edge towards it can come up
        twice; it is called by another name if it does. All others come up once, whatever their name.
        """
        shared = self._output(row, "shared")
        return shared if "+".join(shared).count("shared") > 1 else self._output(row, "conv")

    def _output(self, row: Sequence[int], first: str) -> tuple[str, ...]:
        e01, e02, e12, e03, e13, e23 = row
        one = self._read(e01, first)
        two = tuple(sorted([*self._read(e02), *self._terms(e12, one)]))
        return tuple(sorted([*self._read(e03), *self._terms(e13, one), *self._terms(e23, two)]))

    def _read(self, operation: int, conv: str = "conv") -> tuple[str, ...]:
        """What an operation makes of the cell's input."""
        if operation == SKIP and self._reduces:
            return (f"{conv}{operation}(x)",)
        return self._terms(operation, ("x",), conv)

    def _terms(self, operation: int, summands: tuple[str, ...], conv: str = "conv") -> tuple[str, ...]:
        """What an operation makes of a sum: nothing of an empty one."""
        if operation == NONE or not summands:
            return ()
        if operation == SKIP:
            return summands
        name = f"{conv}{operation}" if self._taps[operation] else f"fixed{operation}"
        return (f"{name}({'+'.join(summands)})",)


def live(genes: Genes) -> Bools:
    """(n, 6): operations whose output depends on the cell's input and reaches its output."""
    there = genes != NONE
    fed = [np.ones(len(genes), dtype=bool), *(np.zeros(len(genes), dtype=bool) for _ in range(3))]
    for edge, (start, end) in enumerate(EDGES):
        fed[end] = fed[end] | (there[:, edge] & fed[start])
    used = [*(np.zeros(len(genes), dtype=bool) for _ in range(3)), np.ones(len(genes), dtype=bool)]
    for edge, (start, end) in reversed(list(enumerate(EDGES))):
        used[start] = used[start] | (there[:, edge] & used[end])
    columns = [there[:, edge] & fed[start] & used[end] for edge, (start, end) in enumerate(EDGES)]
    return np.stack(columns, axis=1)


class CellSpace(SearchSpace):
    """Choices ``e01 e02 e12 e03 e13 e23``, the operation on the edge from one node to another, of one set of `Cells`.

    Final classes say how rows are written, what they cost and what is built. ``options`` has ``in_channels`` and
    ``resolution``, the side of the images, among others.
    """

    def __init__(self, name: str, cells: Cells, options: Mapping[str, Any], *, identity: Identity) -> None:
        choices = [Choice(f"e{start}{end}", cells.operations) for start, end in EDGES]
        super().__init__(name, choices, options, identity=identity, uniform=True)
        self._cells = cells

    @final
    def active(self, genes: Genes) -> Bools:
        """(n, 6), all True: any edge may come to matter when another one changes."""
        return np.ones(self._batch(genes).shape, dtype=bool)

    @final
    def _merge(self, genes: Genes) -> Genes:
        return self._cells.canonical(genes)

    @final
    def _feasible(self, genes: Genes) -> Bools:
        return np.ones(len(genes), dtype=bool)

    @final
    def _left(self) -> Genes:
        """(k, 6): all canonical rows within the restriction, in the order of their genes."""
        return self._cells.left(self._allowed, united=self.identity == "function")

    @final
    def _draw(self, count: int, rng: np.random.Generator) -> Genes:
        rows = self._left()
        return rows[rng.integers(len(rows), size=count)] if len(rows) else rows

    @property
    @final
    def cardinality(self) -> int:
        """Canonical rows that the restriction leaves, listed."""
        return len(self._left())

    @final
    def extremes(self) -> Genes:
        """(2, 6); of the cheapest rows the first whose output depends on its input. Raises `InvalidSpace` if no row is
        left."""
        rows = self._left()
        if not len(rows):
            raise InvalidSpace("the rules leave no architecture: no canonical row keeps to them")
        macs = self.cost(rows)["macs"]
        smallest = np.lexsort((~live(rows).any(axis=1), macs))[0]
        return rows[[smallest, int(macs.argmax())]]

    @final
    def input_shape(self, row: Genes) -> tuple[int, ...]:
        """(channels, height, width) of one image."""
        self.check(np.asarray(row)[None])
        return (self.options["in_channels"], self.options["resolution"], self.options["resolution"])

    @final
    def inputs(self, row: Genes, batch: int, rng: np.random.Generator) -> tuple[NDArray[Any], ...]:
        """(batch, channels, height, width) images."""
        return images(self.input_shape(row), batch, rng)

    @final
    def supernet(self) -> NoReturn:
        """Raises `Unsupported`."""
        raise Unsupported(f"{self.name} has no super-network: train its cells alone, or import the published table")

    @property
    @final
    def most_nodes(self) -> int:
        """The six operations, input and output."""
        return len(EDGES) + 2

    @final
    def graphs(self, genes: Genes) -> Graphs:
        """What `Cells.graphs` says."""
        return self._cells.graphs(self._batch(genes))
