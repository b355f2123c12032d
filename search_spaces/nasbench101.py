"""NAS-Bench-101's cells (Ying et al., ICML 2019): all graphs of at most seven vertices and nine edges.

A cell has an input, an output and up to five vertices in between, each with one of three operations; edges lead from a
vertex to a later one. A vertex that lies on no path from the input to the output is dead: it is not built, and its
edges do not count towards the limit. That is also how a cell of fewer vertices is stated.

Equivalences united under ``identity="function"``, 423,624 classes: two cells are the same if, without what is dead,
they are the same graph up to the names of the inner vertices. That is complete for graphs. Not united: different graphs
that happen to compute the same.

The published code does not keep to this. It splits the output's channels among the vertices that lead into it, and
where that does not come out even, the first of them get one channel more. So the same graph in another order may be
another network: in 53,908 classes, all with three or five vertices that lead into the output, orders differ by up to
1.4 % of the parameters and 2.4 % of the MACs. Here a row's network is that of its canonical row: one for all rows of a
class. The canonical row is the one that the published generator meets first; that is the one that was trained. Under
``identity="row"`` the order of the row itself counts, as in the published code: for tables that others made from rows
of their own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn, final

import numpy as np
from numpy.typing import NDArray

from search_spaces import dags, matrices, nasbench101_costs
from search_spaces import options as check
from search_spaces.dags import LABEL_BITS, LABELS, Codes
from search_spaces.graphs import compact
from search_spaces.space import (
    Bools,
    Choice,
    Genes,
    Graphs,
    Identity,
    IntArray,
    InvalidSpace,
    SearchSpace,
    Unsupported,
    images,
)

if TYPE_CHECKING:
    from torch import nn

OPERATIONS = ("conv3x3-bn-relu", "conv1x1-bn-relu", "maxpool3x3")
_SIZES = ("in_channels", "classes", "resolution", "channels", "stacks", "cells")
"""The options that networks are made from."""

_BEYOND = 1 << 60
"""Above all costs."""


@final
class NasBench101(SearchSpace):
    """Choices ``e01 e02 e12 e03 …``: 1 if an edge leads from one vertex to the other; ``op1 …`` of the inner vertices.

    Vertex 0 is the input, the last one the output; edges are in the order of the published generator. The notation is
    the JSON text of what the published API takes, ``{"adjacency": [[0, 1], [0, 0]], "operations": ["input",
    "output"]}``, of any number of vertices up to the limit; isolated vertices before the output need not be written.

    A further vertex takes two more edges: neighbours at distance one have at most as many vertices, mutants may have
    more.

    The equivalences of ``identity="function"`` are those of the module: graph isomorphism, exactly.

    Options, all JSON; the defaults are the published cells and their networks for CIFAR-10:

    - ``max_vertices`` (3 to 7), input and output included; ``max_edges`` (1 to 21), of those on paths from input to
      output. All classes are listed at first use; without a limit that is 19 million, a second and 80 MB (and 400
      in passing).
    - ``in_channels``, ``classes``: of the data set. ``resolution``: side of the images in pixels.
    - ``channels``: of the first stack; each further stack doubles them and halves the resolution.
    - ``stacks``; ``cells`` in each.

    Raises `InvalidSpace` that names the option.
    """

    def __init__(
        self,
        *,
        identity: Identity = "function",
        max_vertices: int = 7,
        max_edges: int = 9,
        classes: int = 10,
        in_channels: int = 3,
        resolution: int = 32,
        channels: int = 128,
        stacks: int = 3,
        cells: int = 3,
        **unknown: Any,
    ) -> None:
        vertices = check.integer("max_vertices", max_vertices, least=3, most=dags.MOST_VERTICES)
        options = {
            "max_vertices": vertices,
            "max_edges": check.integer("max_edges", max_edges, most=len(dags.edges(dags.MOST_VERTICES))),
            "classes": check.integer("classes", classes, most=100_000),
            "in_channels": check.integer("in_channels", in_channels),
            "resolution": check.integer("resolution", resolution),
            # Each vertex that leads into the output needs a channel.
            "channels": check.integer("channels", channels, least=vertices - 2, most=1024),
            "stacks": check.integer("stacks", stacks, most=6),
            "cells": check.integer("cells", cells, most=32),
        }
        for field in unknown:
            raise InvalidSpace(f"no such option, options are {sorted(options)}", field)
        if resolution % 2 ** (stacks - 1):
            message = (
                f"must be a multiple of {2 ** (stacks - 1)}, it is halved before each further stack; got {resolution}"
            )
            raise InvalidSpace(message, "resolution")
        self._vertices, self._limits = vertices, (vertices, max_edges)
        self._edges = dags.edges(vertices)
        self._made_from = tuple(options[name] for name in _SIZES)
        choices = [Choice(f"e{start}{end}", (0, 1)) for start, end in self._edges]
        choices += [Choice(f"op{vertex}", OPERATIONS) for vertex in range(1, vertices - 1)]
        super().__init__("nasbench101", choices, options, identity=identity, uniform=True, why=self._refusal)

    # ------------------------------------------------------------------ rows

    def active(self, genes: Genes) -> Bools:
        """(n, d): all edges, since any may come to matter when another one changes; operations that are alive."""
        genes = self._batch(genes)
        result = np.ones(genes.shape, dtype=bool)
        result[:, len(self._edges) :] = self._inner(self._pruned(genes)[1])
        return result

    def _pruned(self, genes: Genes) -> tuple[Codes, Codes]:
        return dags.pruned(dags.pack(genes, self._vertices), self._vertices)

    def _inner(self, alive: Codes) -> Bools:
        """(n, k): which inner vertices are alive."""
        return np.asarray(alive[:, None] >> np.arange(1, self._vertices - 1) & 1 > 0)

    def _built(self, genes: Genes) -> Codes:
        """(n,): what the networks of these rows are made from."""
        codes, _ = self._pruned(genes)
        return codes if self.identity == "row" else dags.first(codes, self._vertices)

    def _merge(self, genes: Genes) -> Genes:
        return dags.unpack(self._built(genes), self._vertices)

    def _feasible(self, genes: Genes) -> Bools:
        codes, alive = self._pruned(genes)
        return np.asarray((alive > 0) & (dags.count_edges(codes) <= self.options["max_edges"]))

    def _refusal(self, row: Genes) -> tuple[str, str]:
        codes, alive = self._pruned(row[None])
        if not alive[0]:
            return "adjacency", "no path leads from the input to the output"
        count, most = dags.count_edges(codes)[0], self.options["max_edges"]
        return "adjacency", f"{count} edges lie on paths from the input to the output, at most {most} may"

    # ------------------------------------------------------------------ what a restriction leaves

    @property
    def _operations_allowed(self) -> Bools:
        """(k, 3): which operations the restriction leaves to each inner vertex."""
        return self._allowed[len(self._edges) :, :LABELS]

    def _keeps(self, codes: Codes) -> Bools:
        """(n,): whether the restriction allows these edges, and that the others are absent."""
        absent, present = self._allowed[: len(self._edges), :2].T
        forbidden, needed = (
            sum(1 << int(place) for place in np.flatnonzero(~allowed)) << LABEL_BITS for allowed in (present, absent)
        )
        return np.asarray(((codes & forbidden) == 0) & ((codes & needed) == needed))

    def _classes_left(self) -> Codes:
        """(k,), rising: those of all classes that keep to the restriction."""
        codes = dags.classes(*self._limits)
        if not self._restricted:
            return codes
        codes = codes[self._keeps(codes)]
        if not self._operations_allowed.all():
            genes = dags.unpack(codes, self._vertices)
            codes = codes[(self._allowed[np.arange(len(self.choices)), genes] | ~self.active(genes)).all(axis=1)]
        return codes

    def _rows_left(self) -> tuple[Codes, Codes, IntArray]:
        """(k,) each: the edges of all rows that keep to the restriction, who is alive, how many rows have them."""
        bare, alive = dags.graphs(*self._limits)
        kept = self._keeps(bare)
        bare, alive = bare[kept], alive[kept]
        return bare, alive, np.where(self._inner(alive), self._operations_allowed.sum(axis=1), LABELS).prod(axis=1)

    @property
    def cardinality(self) -> int:
        """423,624 by default; how many rows can be built under identity="row"; fewer when restricted."""
        return len(self._classes_left()) if self.identity == "function" else int(self._rows_left()[2].sum())

    def _draw(self, count: int, rng: np.random.Generator) -> Genes:
        if self.identity == "function":
            left = self._classes_left()
            return dags.unpack(left[rng.integers(len(left), size=count)] if len(left) else left, self._vertices)
        bare, alive, ways = self._rows_left()
        ends = np.cumsum(ways)
        number = rng.integers(ends[-1], size=count) if len(ends) else np.empty(0, dtype=np.int64)
        chosen = np.searchsorted(ends, number, side="right")
        genes, shown = dags.unpack(bare[chosen], self._vertices), self._inner(alive[chosen])
        # As many numbers in a row as there are rows with these edges: each stands for another one.
        for vertex, allowed in enumerate(self._operations_allowed):
            options = np.flatnonzero(allowed)
            number, digit = np.divmod(number, np.where(shown[:, vertex], len(options), LABELS))
            genes[:, len(self._edges) + vertex] = np.where(shown[:, vertex], options[digit % len(options)], digit)
        return genes

    def extremes(self) -> Genes:
        """(2, d); the first of the cheapest and the first of the dearest. Raises `InvalidSpace` if no row is left."""
        if not self.cardinality:
            raise InvalidSpace("the rules leave no architecture: no canonical row keeps to them")
        if self.identity == "row":
            return self._extreme_rows(self._rows_left()[0])
        return dags.unpack(self._extreme_classes(self._classes_left()), self._vertices)

    def _extreme_rows(self, bare: Codes) -> Genes:
        """(2, d): of rows with these edges the cheapest and the dearest: the costs of vertices add up."""
        codes, first = np.unique(dags.pruned(bare, self._vertices)[0], return_index=True)
        rows = dags.unpack(bare[first], self._vertices)
        found = []
        for sign in (1, -1):
            macs, rest = self._priced(codes, sign)
            best = int((macs.min(axis=2).sum(axis=1) + rest).argmin())
            rows[best, len(self._edges) :] = macs[best].argmin(axis=1)
            found.append(rows[best].copy())
        return np.stack(found)

    def _extreme_classes(self, codes: Codes) -> Codes:
        """(2,): of these classes, in rising order, the first of the cheapest and the first of the dearest.

        Not every labelling stands for a class, so those of a graph are looked at, where it may have the best one.
        """
        begins = np.flatnonzero(np.diff(codes >> LABEL_BITS, prepend=-1))
        ends = np.append(begins[1:], len(codes))
        found = []
        for sign in (1, -1):
            macs, rest = self._priced(codes[begins] >> LABEL_BITS << LABEL_BITS, sign)
            bounds = macs.min(axis=2).sum(axis=1) + rest
            best = (_BEYOND, 0)
            for graph in np.argsort(bounds, kind="stable").tolist():
                if bounds[graph] > best[0]:
                    break
                of_graph = codes[begins[graph] : ends[graph]]
                totals = sign * nasbench101_costs.costs(of_graph, self._vertices, self._made_from)[:, 1]
                best = min(best, (int(totals.min()), int(of_graph[totals.argmin()])))
            found.append(best[1])
        return np.array(found, dtype=np.int32)

    def _priced(self, bare: Codes, sign: int) -> tuple[IntArray, IntArray]:
        """``sign`` times the MACs, in pruned graphs without labels, of each operation at each inner vertex (m, k, 3),
        `_BEYOND` where the restriction forbids it, and of all else (m,)."""
        places = nasbench101_costs.places(bare, self._vertices)[:, :, None] + np.arange(LABELS)
        macs = sign * nasbench101_costs.table(*self._made_from)[0][places, 1]
        rest = sign * nasbench101_costs.costs(bare, self._vertices, self._made_from)[:, 1] - macs[:, :, 0].sum(axis=1)
        shown = self._inner(dags.pruned(bare, self._vertices)[1])[:, :, None]
        return np.where(shown & ~self._operations_allowed, _BEYOND, macs), rest

    # ------------------------------------------------------------------ notation

    def _write(self, genes: Genes) -> list[str]:
        return [self._text(row) for row in genes.tolist()]

    def _text(self, row: list[int]) -> str:
        labels, last = row[len(self._edges) :], self._vertices - 1
        edges = [edge for edge, there in zip(self._edges, row, strict=False) if there]
        # Vertices without edges behind all others need no mention, if they have what reading gives them.
        named = [vertex for edge in edges for vertex in edge if vertex < last]
        named += [vertex for vertex, label in enumerate(labels, 1) if label]
        size = max(named, default=0)
        return matrices.written(
            [(start, min(end, size + 1)) for start, end in edges], [OPERATIONS[label] for label in labels[:size]]
        )

    def _parse(self, text: str) -> list[int]:
        edges, labels = matrices.read(text, self._vertices, OPERATIONS)
        row = [0] * len(self.choices)
        for start, end in edges:
            row[self._edges.index((start, end if end <= len(labels) else self._vertices - 1))] = 1
        row[len(self._edges) : len(self._edges) + len(labels)] = labels
        return row

    # ------------------------------------------------------------------ what it costs, and how it is built

    def cost(self, genes: Genes) -> dict[str, IntArray]:
        """``params`` and ``macs`` (of convolutions and the classifier), (n,) each."""
        params, macs = nasbench101_costs.costs(self._built(self._batch(genes)), self._vertices, self._made_from).T
        return {"params": params, "macs": macs}

    def input_shape(self, row: Genes) -> tuple[int, ...]:
        """(channels, height, width) of one image."""
        self.check(np.asarray(row)[None])
        return (self.options["in_channels"], self.options["resolution"], self.options["resolution"])

    def inputs(self, row: Genes, batch: int, rng: np.random.Generator) -> tuple[NDArray[Any], ...]:
        """(batch, channels, height, width) images."""
        return images(self.input_shape(row), batch, rng)

    def build(self, row: Genes) -> nn.Module:
        """The network of one row, with the same weights each time; `initialise` draws others."""
        from search_spaces.networks.initialise import initialise
        from search_spaces.networks.nasbench101 import Network

        graphs = self.graphs(dags.unpack(self._built(self.check(np.asarray(row)[None])), self._vertices))
        operations = [graphs.labels[label] for label in graphs.operations[0][1:-1]]
        sizes = {name: self.options[name] for name in ("in_channels", "classes", "channels", "stacks", "cells")}
        network = Network(graphs.adjacency[0].tolist(), operations, device="meta", **sizes).to_empty(device="cpu")
        return initialise(network, np.random.default_rng(0))

    def supernet(self) -> NoReturn:
        """Raises `Unsupported`."""
        raise Unsupported("nasbench101 has no super-network: train its cells alone, or import the published table")

    # ------------------------------------------------------------------ as graphs

    @property
    def most_nodes(self) -> int:
        """All vertices, input and output among them."""
        return self._vertices

    def graphs(self, genes: Genes) -> Graphs:
        """The vertices that are alive and the edges between them; labels ``input``, the operations, ``output``."""
        genes = self._batch(genes)
        codes, alive = self._pruned(genes)
        present = alive[:, None] >> np.arange(self._vertices) & 1 > 0
        adjacency = np.zeros((len(genes), self._vertices, self._vertices), dtype=bool)
        starts, ends = zip(*self._edges, strict=True)
        adjacency[:, starts, ends] = dags.unpack(codes, self._vertices)[:, : len(self._edges)]
        operations = np.zeros(present.shape, dtype=np.int16)
        operations[:, 1:-1] = 1 + genes[:, len(self._edges) :]
        operations[:, -1] = 1 + LABELS
        return compact(present, adjacency, operations, ("input", *OPERATIONS, "output"))
