"""DARTS' cells (Liu et al., ICLR 2019), a normal and a reduction cell: NAS-Bench-301's space (Zela et al., ICLR 2022).

A cell reads the outputs of the two cells before it, c_{k-2} and c_{k-1}, as nodes 0 and 1. Each of the nodes 2 to 5
reads two different earlier nodes through an operation each and adds what comes; the cell's output is the channels of
all four. Two cells of the chain, after a third and two thirds of it, are reduction cells: they double the channels, and
operations on their inputs have stride 2.

Equivalences united under ``identity="function"``: other names for the nodes of a cell. They permute the channels of its
output, which the 1×1 convolutions and the classifier that read them make up for. Every row of a class costs the same;
the first in the order of genes stands for it. Of the 1,037,664,180 rows of a cell 382,128,166 classes are left, of the
space 146,021,935,250,523,556.

Not united, for they are rare (a cell in a thousand has such a twin): which of two equal nodes without weights is read,
and sums that are put together in another order by skips.
"""

from __future__ import annotations

from functools import cache
from math import prod
from typing import TYPE_CHECKING, Any, NoReturn, final

import numpy as np
from numpy.typing import NDArray

from search_spaces import genotype
from search_spaces import options as check
from search_spaces.genotype import CELLS
from search_spaces.pairs import MOST_NODES, Pairs
from search_spaces.space import (
    Bools,
    Choice,
    Genes,
    Graphs,
    Identity,
    IntArray,
    InvalidArchitecture,
    InvalidSpace,
    SearchSpace,
    Unsupported,
    images,
)

if TYPE_CHECKING:
    from torch import nn

OPERATIONS = (
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
)
"""In NAS-Bench-301's order, by which NASLib numbers them."""
PLACES = ("first", "second")
PARAMS, MACS = 0, 1
STEMS = {"cifar": 4, "imagenet": 32}
"""Stems, and what the resolution must be a multiple of: every map that is halved has an even side."""

_SEPARABLE = {"sep_conv_3x3": (3, 2), "sep_conv_5x5": (5, 2), "dil_conv_3x3": (3, 1), "dil_conv_5x5": (5, 1)}
"""Kernel, and how many depthwise-separable convolutions stand one behind the other."""
_CHUNK = 8192
"""Rows whose costs are looked up at once."""


@final
class Darts(SearchSpace):
    """Choices of the normal cell, then of the reduction cell: ``CELL.nodeN.inputs``, then ``.first`` and ``.second``.

    ``inputs`` is the pair of nodes that a node reads (node 2 has no choice); ``first`` is the operation on the lower of
    them, ``second`` on the other one. All rows are valid.

    Options, all JSON; the defaults are the networks of NAS-Bench-301, without auxiliary head:

    - ``in_channels``, ``classes``: of the data set. ``resolution``: side of the images in pixels, a multiple of 4.
    - ``channels``: of each node in the first cell. ``layers``: cells in the chain. DARTS trained 36 and 20.
    - ``nodes``: of a cell beside its inputs, 1 to 4. ``operations``: some of the published seven.
    - ``stem``: "cifar", one convolution to three times the channels, or "imagenet", three that shrink the image
      eightfold; there the resolution is a multiple of 32 and the channels are even. DARTS trained 48 channels, 14
      layers, resolution 224.

    Raises `InvalidSpace` that names the option.
    """

    def __init__(
        self,
        *,
        identity: Identity = "function",
        classes: int = 10,
        in_channels: int = 3,
        resolution: int = 32,
        channels: int = 32,
        layers: int = 8,
        nodes: int = MOST_NODES,
        operations: Any = OPERATIONS,
        stem: str = "cifar",
        **unknown: Any,
    ) -> None:
        options: dict[str, Any] = {
            "classes": check.integer("classes", classes, most=100_000),
            "in_channels": check.integer("in_channels", in_channels),
            "resolution": check.integer("resolution", resolution),
            "channels": check.integer("channels", channels, most=1024),
            "layers": check.integer("layers", layers, least=3, most=64),
            "nodes": check.integer("nodes", nodes, most=MOST_NODES),
            "operations": check.many("operations", operations, check.one_of(*OPERATIONS), distinct=True),
            "stem": check.one_of(*STEMS)("stem", stem),
        }
        for field in unknown:
            raise InvalidSpace(f"no such option, options are {sorted(options)}", field)
        if resolution % STEMS[stem]:
            raise InvalidSpace(f"must be a multiple of {STEMS[stem]}, got {resolution}", "resolution")
        if stem == "imagenet" and channels % 2:
            raise InvalidSpace(f"must be even, got {channels}", "channels")
        self._operations = tuple(options["operations"])
        self._cells = _pairs(nodes, len(self._operations))
        choices = []
        for cell in CELLS:
            for node, pairs in enumerate(self._cells.inputs[1:], start=3):
                choices.append(Choice(f"{cell}.node{node}.inputs", tuple(f"{low}_{high}" for low, high in pairs)))
            for node in range(2, nodes + 2):
                choices += [Choice(f"{cell}.node{node}.{place}", self._operations) for place in PLACES]
        super().__init__("darts", choices, options, identity=identity, uniform=True)
        self._fixed, self._prices = _costs(options)
        self._tables = [self._node_costs(cell) for cell in range(2)]

    # ------------------------------------------------------------------ rows

    def active(self, genes: Genes) -> Bools:
        """(n, d), all True: every node is part of the output."""
        return np.ones(self._batch(genes).shape, dtype=bool)

    def _halves(self, rows: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """The genes of the normal cells and those of the reduction cells."""
        return rows[:, : self._cells.width], rows[:, self._cells.width :]

    def _merge(self, genes: Genes) -> Genes:
        return np.concatenate([self._cells.canonical(half) for half in self._halves(genes)], axis=1)

    def _feasible(self, genes: Genes) -> Bools:
        return np.ones(len(genes), dtype=bool)

    def _allowed_in(self, cell: int) -> Bools:
        """(width, widest): what the restriction leaves of the genes of one cell."""
        return self._allowed[cell * self._cells.width : (cell + 1) * self._cells.width]

    def _draw(self, count: int, rng: np.random.Generator) -> Genes:
        if self.identity == "row":
            return self._draw_rows(count, rng)
        halves = [self._cells.draw(count, self._allowed_in(cell), rng) for cell in range(len(CELLS))]
        both = min(map(len, halves))
        return np.concatenate([half[:both] for half in halves], axis=1)

    @property
    def cardinality(self) -> int:
        """146,021,935,250,523,556 under identity="function", (180 · 7⁸)² under "row"; fewer when restricted."""
        if self.identity == "row":
            return prod(self._allowed.sum(axis=1).tolist())
        return prod(self._cells.count(self._allowed_in(cell)) for cell in range(len(CELLS)))

    def extremes(self) -> Genes:
        """(2, d): exact. Raises `InvalidSpace` if no row is left."""
        ends = []
        for sign in (1, -1):
            halves = [self._cheapest(cell, sign) for cell in range(len(CELLS))]
            found = [half for half in halves if half is not None]
            if len(found) < len(halves):
                raise InvalidSpace("the rules leave no architecture: no canonical row keeps to them")
            ends.append(np.concatenate(found))
        return np.stack(ends)

    def _cheapest(self, cell: int, sign: int) -> Genes | None:
        """(width,): the genes of one cell with the least of ``sign`` times the MACs; None if none is left."""
        allowed, count = self._allowed_in(cell), len(self._operations)
        if self.identity == "function":
            costs = sign * self._prices[cell, :, :, MACS].astype(np.float64)
            return self._cells.cheapest(allowed, costs[self._cells.reads_input.astype(np.intp)])
        # Nodes are independent of one another where rows are not united.
        pairs: list[int] = []
        operations: list[int] = []
        for node, (table, inputs) in enumerate(zip(self._tables[cell], self._cells.inputs, strict=True)):
            first, second = allowed[self._cells.nodes - 1 + 2 * node :][:2, :count]
            read = allowed[node - 1, : len(inputs)] if node else np.ones(1, dtype=bool)
            left = read[:, None, None] & first[:, None] & second
            costs = np.where(left, sign * table[MACS].reshape(left.shape), np.inf)
            pair, *two = np.unravel_index(int(costs.argmin()), costs.shape)
            pairs.append(int(pair))
            operations += map(int, two)
        return np.array([*pairs[1:], *operations], dtype=np.int8)

    # ------------------------------------------------------------------ notation

    def _edges(self, cells: Genes) -> list[list[genotype.Edge]]:
        """The operations of each cell and the nodes that they read, two for each node in turn."""
        read = [[node for pair in structure for node in pair] for structure in self._cells.structures]
        rows = zip(self._cells.structure(cells).tolist(), cells[:, self._cells.nodes - 1 :].tolist(), strict=True)
        return [
            [(self._operations[op], node) for op, node in zip(row, read[structure], strict=True)]
            for structure, row in rows
        ]

    def _write(self, genes: Genes) -> list[str]:
        cells = zip(*map(self._edges, self._halves(genes)), strict=True)
        return [genotype.write(self._cells.nodes, normal, reduce) for normal, reduce in cells]

    def _parse(self, text: str) -> list[int]:
        """The edges of a node and the concatenation may stand in any order."""
        cells = genotype.read(text, self._cells.nodes, OPERATIONS)
        return [gene for cell, edges in zip(CELLS, cells, strict=True) for gene in self._cell(cell, edges)]

    def _cell(self, cell: str, edges: list[genotype.Edge]) -> list[int]:
        pairs, operations = [], []
        for node, allowed in enumerate(self._cells.inputs, start=2):
            two = sorted(edges[2 * node - 4 : 2 * node - 2], key=lambda edge: edge[1])
            read = (two[0][1], two[1][1])
            if read not in allowed:
                message = f"reads nodes {read[0]} and {read[1]}, must be two different ones of 0 to {node - 1}"
                raise InvalidArchitecture(message, row=0, field=f"{cell}.node{node}.inputs")
            pairs.append(allowed.index(read))
            for place, (name, _) in zip(PLACES, two, strict=True):
                if name not in self._operations:
                    message = f"no such operation {name!r}, operations are {list(self._operations)}"
                    raise InvalidArchitecture(message, row=0, field=f"{cell}.node{node}.{place}")
                operations.append(self._operations.index(name))
        return [*pairs[1:], *operations]

    # ------------------------------------------------------------------ what it costs, and how it is built

    def cost(self, genes: Genes) -> dict[str, IntArray]:
        """``params`` and ``macs`` (of convolutions and the classifier), (n,) each."""
        genes = self._batch(genes)
        params = np.full(len(genes), self._fixed[PARAMS])
        macs = np.full(len(genes), self._fixed[MACS])
        for start in range(0, len(genes), _CHUNK):
            chunk = slice(start, start + _CHUNK)
            columns = genes[chunk].T.astype(np.intp)
            for cell in range(len(CELLS)):
                own = columns[cell * self._cells.width :]
                for node, table in enumerate(self._tables[cell]):
                    place = self._cells.nodes - 1 + 2 * node
                    setting = own[place] * len(self._operations) + own[place + 1]
                    if node:
                        setting += own[node - 1] * len(self._operations) ** 2
                    params[chunk] += table[PARAMS].take(setting)
                    macs[chunk] += table[MACS].take(setting)
        return {"params": params, "macs": macs}

    def _node_costs(self, cell: int) -> list[IntArray]:
        """For each node (2, pairs · operations · operations): params and macs, by what its genes say."""
        result = []
        for pairs in self._cells.inputs:
            inputs = (np.array(pairs) < 2).astype(np.intp)
            low, high = self._prices[cell][inputs.T]
            result.append((low[:, :, None] + high[:, None, :]).reshape(-1, 2).T.copy())
        return result

    def input_shape(self, row: Genes) -> tuple[int, ...]:
        """(channels, height, width) of one image."""
        self.check(np.asarray(row)[None])
        return (self.options["in_channels"], self.options["resolution"], self.options["resolution"])

    def inputs(self, row: Genes, batch: int, rng: np.random.Generator) -> tuple[NDArray[Any], ...]:
        """(batch, channels, height, width) images."""
        return images(self.input_shape(row), batch, rng)

    def build(self, row: Genes) -> nn.Module:
        """The network of one row, with the same weights each time; `initialise` draws others."""
        from search_spaces.networks.darts import Network
        from search_spaces.networks.initialise import initialise

        cells = [self._edges(half)[0] for half in self._halves(self.check(np.asarray(row)[None]))]
        sizes = {name: self.options[name] for name in ("in_channels", "classes", "channels", "layers", "stem")}
        network = Network(*cells, device="meta", **sizes).to_empty(device="cpu")
        return initialise(network, np.random.default_rng(0))

    def supernet(self) -> NoReturn:
        """Raises `Unsupported`."""
        raise Unsupported("darts has no super-network: train its cells alone, or import measurements")

    # ------------------------------------------------------------------ as graphs

    @property
    def most_nodes(self) -> int:
        """Image, two cells with two inputs and their operations, and output: 22 for cells of four nodes."""
        return 2 + 2 * (2 + 2 * self._cells.nodes)

    def graphs(self, genes: Genes) -> Graphs:
        """One normal cell and one reduction cell behind it, both reading the image as the first cells of a chain do.

        Nodes ``input``, the two inputs of the normal cell, its operations, the two inputs of the reduction cell, its
        operations, ``output``. What reads a node of a cell reads the two operations that the node adds.
        """
        genes = self._batch(genes)
        labels = (
            "input",
            *(f"{cell}.c_{{k-{back}}}" for cell in CELLS for back in (2, 1)),
            *self._operations,
            "output",
        )
        n, nodes, edges = len(genes), self.most_nodes, 2 * self._cells.nodes
        normal, reduce, last = 1, 3 + edges, nodes - 1
        shared = np.zeros((nodes, nodes), dtype=bool)
        # c_{k-1} of the reduction cell is the normal cell's output, c_{k-2} what came before that.
        shared[0, [normal, normal + 1, reduce]] = True
        shared[normal + 2 : reduce, reduce + 1] = True
        shared[reduce + 2 : last, last] = True
        adjacency = np.empty((n, nodes, nodes), dtype=bool)
        adjacency[:] = shared
        operations = np.empty((n, nodes), dtype=np.int16)
        operations[:, [0, normal, normal + 1, reduce, reduce + 1, last]] = [0, 1, 2, 3, 4, len(labels) - 1]
        for begin, half in zip((normal, reduce), self._halves(genes), strict=True):
            own = slice(begin + 2, begin + 2 + edges)
            adjacency[:, begin : begin + 2 + edges, own] = self._cells.feeds[self._cells.structure(half)]
            operations[:, own] = half[:, self._cells.nodes - 1 :] + np.int16(5)
        return Graphs(adjacency, operations, labels)


@cache
def _pairs(nodes: int, operations: int) -> Pairs:
    return Pairs(nodes, operations)


def _costs(options: dict[str, Any]) -> tuple[IntArray, IntArray]:
    """What a network costs (params, macs), (2,), apart from the operations of its cells; and what these cost.

    The latter (2, 2, operations, 2): of the normal and the reduction cells, on an edge from a node and on one from an
    input, each operation's params and macs, all layers together.
    """
    width, layers, side = options["channels"], options["layers"], options["resolution"]
    if options["stem"] == "cifar":
        before = previous = (3 * width, side)
        convolutions = [(options["in_channels"], 3 * width, side)]
    else:
        before, previous = (width, side // 4), (width, side // 8)
        convolutions = [(options["in_channels"], width // 2, side // 2), (width // 2, *before), (width, *previous)]
    fixed = sum(_convolution(9 * inputs, outputs, side) for inputs, outputs, side in convolutions)
    prices = np.zeros((2, 2, len(options["operations"]), 2), dtype=np.int64)
    for layer in range(layers):
        reduction = layer in (layers // 3, 2 * layers // 3)
        if reduction:
            width *= 2
        # Both inputs are brought to the same channels and to the side of the second one.
        for channels, _ in (before, previous):
            fixed = fixed + _convolution(channels, width, previous[1])
        before, previous = previous, (options["nodes"] * width, previous[1] // (2 if reduction else 1))
        for place, name in enumerate(options["operations"]):
            if name in _SEPARABLE:
                kernel, times = _SEPARABLE[name]
                price = times * (
                    _convolution(width, width, previous[1]) + _convolution(kernel**2, width, previous[1], 0)
                )
                prices[int(reduction), :, place] += price
            elif name == "skip_connect" and reduction:
                prices[1, 1, place] += _convolution(width, width, previous[1])
    classifier = previous[0] * options["classes"]
    return fixed + np.array([classifier + options["classes"], classifier]), prices


def _convolution(inputs: int, outputs: int, side: int, norm: int = 2) -> IntArray:
    """(params, macs) of a convolution of ``inputs`` weights for each output, and of its batch norm."""
    weights = inputs * outputs
    return np.array([weights + norm * outputs, weights * side**2], dtype=np.int64)
