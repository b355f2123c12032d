"""NAS-Bench-Graph's graph neural networks (Qin et al., NeurIPS Datasets and Benchmarks 2022): 26,206 of them.

Four computing nodes, each with one of nine operations, each reading one earlier node or the raw features. Nodes that
no other reads are joined and classified. Four skips compute nothing: such rows cannot be built.

Equivalences united under ``identity="function"``; two networks are the same if they compute the same for all weights,
once their layers are matched one to one:

- A skip that is read by another node, or that alone reads its node, hands on what it reads; it may stand anywhere on
  its path.
- A skip that ends beside other readers of its node brings that node to the output, too, by a batch norm of its own.
  Beside the raw features nothing is brought there.
- Computing nodes may have other names.

That leaves 26,206 classes, those of the benchmark (2,021 with the five operations of its proteins), and its rows, as
written, are the canonical ones: skips that hand on stand first, one behind the other; the links are the first possible,
in the order of genes, so they form one of nine structures; among those the operations are the first possible.

The published networks treat a skip between computing nodes as a layer with batch norm and ReLU. Only canonical rows
were trained, where no such skip is left, and for those `NasBenchGraph.build` makes the published network. The published
numbers of parameters count some that are never used; ``unused`` counts and holds them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import permutations, product
from typing import TYPE_CHECKING, Any, NoReturn, final

import numpy as np
from numpy.typing import NDArray

from search_spaces import options as check
from search_spaces.graphs import compact
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
)

if TYPE_CHECKING:
    from torch import nn

OPERATIONS = ("gat", "gcn", "gin", "cheb", "sage", "arma", "graph", "fc", "skip")
NODES = 4
LINKS: tuple[tuple[int, ...], ...] = tuple((0, *rest) for rest in product(range(2), range(3), range(4)))
"""What the computing nodes read, 0 the raw features, in the order of genes."""

_FIRST_OP = NODES - 1
_WEIGHTS = {"gat": 1, "gcn": 1, "gin": 1, "cheb": 2, "sage": 2, "arma": 2, "graph": 2, "fc": 1, "skip": 0}
"""Matrices of inputs × hidden that an operation has."""
_DEGREE = 4
"""Neighbours of a node in the graphs that `inputs` draws, about; Cora's have 3.9."""
_LINK, _NAME = r"\s*(-?[0-9]+)\s*", r"""\s*['"]([^'"]*)['"]\s*"""
_PATTERN = re.compile(
    rf"(?P<open>Arch\s*\()?\s*\[{','.join([_LINK] * NODES)}\]\s*,\s*\[{','.join([_NAME] * NODES)}\]\s*(?(open)\)|)"
)


@final
class NasBenchGraph(SearchSpace):
    """Choices ``link2 link3 link4``, the node that a computing node reads, and ``op1`` to ``op4``, its operation.

    The first node always reads the raw features, 0. The equivalences of ``identity="function"`` are those of the
    module.

    Options, all JSON; the defaults are the published networks for Cora:

    - ``features``, ``classes``: of the data set. ``hidden``: features of a computing node, a multiple of ``heads``.
    - ``heads``: of the attention in ``gat``. ``post_layers``: linear layers between the joined nodes and the
      classifier, 0 or 1.
    - ``operations``: those of the space, in their order. The benchmark has gcn, sage, arma, fc and skip on proteins.
    - ``nodes``: of the graphs that `inputs` draws and that MACs are counted for. Networks run on graphs of any size.
    - ``dropout``: share of features dropped in training, of the raw ones and behind every batch norm.
    - ``unused``: also count and hold what the published networks hold and never use.

    Raises `InvalidSpace` that names the option.
    """

    def __init__(
        self,
        *,
        identity: Identity = "function",
        features: int = 1433,
        classes: int = 7,
        hidden: int = 256,
        heads: int = 4,
        post_layers: int = 1,
        operations: Sequence[str] = OPERATIONS,
        nodes: int = 32,
        dropout: float = 0,
        unused: bool = False,
        **unknown: Any,
    ) -> None:
        names = check.many("operations", operations, check.one_of(*OPERATIONS), distinct=True)
        options = {
            "features": check.integer("features", features, most=100_000),
            "classes": check.integer("classes", classes, most=100_000),
            "hidden": check.integer("hidden", hidden),
            "heads": check.small("heads", heads),
            "post_layers": check.integer("post_layers", post_layers, least=0, most=1),
            "operations": names,
            "nodes": check.integer("nodes", nodes, least=2),
            "dropout": _dropout(dropout),
            "unused": check.boolean("unused", unused),
        }
        for field in unknown:
            raise InvalidSpace(f"no such option, options are {sorted(options)}", field)
        if hidden % heads:
            raise InvalidSpace(f"must be a multiple of heads, {heads}; got {hidden}", "hidden")
        if names == ["skip"]:
            raise InvalidSpace("must name another one than skip, which computes nothing", "operations")
        choices = [Choice(f"link{node}", tuple(range(node))) for node in range(2, NODES + 1)]
        choices += [Choice(f"op{node}", tuple(names)) for node in range(1, NODES + 1)]
        super().__init__("nasbench_graph", choices, options, identity=identity, uniform=True, why=_computes_nothing)
        self._skip = names.index("skip") if "skip" in names else -1
        self._places = np.append(np.cumprod(self.sizes[:0:-1], dtype=np.int32)[::-1], np.int32(1))

    # ------------------------------------------------------------------ rows

    def active(self, genes: Genes) -> Bools:
        """(n, 7), all True: any node may come to matter when another one changes."""
        return np.ones(self._batch(genes).shape, dtype=bool)

    def _merge(self, genes: Genes) -> Genes:
        found = _representatives(len(self.options["operations"]), self._skip)[genes @ self._places]
        return np.stack(np.unravel_index(found, tuple(self.sizes)), axis=1).astype(np.int8)

    def _feasible(self, genes: Genes) -> Bools:
        return np.asarray((genes[:, _FIRST_OP:] != self._skip).any(axis=1))

    def _left(self) -> Genes:
        """(k, 7): all canonical rows within the restriction, in the order of their genes."""
        rows = _listed(len(self.options["operations"]), self._skip, self.identity == "row")
        kept: Genes = rows[self._allowed[np.arange(len(self.choices)), rows].all(axis=1)]
        return kept

    def _draw(self, count: int, rng: np.random.Generator) -> Genes:
        rows = self._left()
        return rows[rng.integers(len(rows), size=count)] if len(rows) else rows

    @property
    def cardinality(self) -> int:
        """26,206 under identity="function", 157,440 under "row"; fewer when restricted or with fewer operations."""
        return len(self._left())

    def extremes(self) -> Genes:
        """(2, 7). Raises `InvalidSpace` if no row is left."""
        rows = self._left()
        if not len(rows):
            raise InvalidSpace("the rules leave no architecture: no canonical row keeps to them")
        macs = self.cost(rows)["macs"]
        return rows[[int(macs.argmin()), int(macs.argmax())]]

    def _write(self, genes: Genes) -> list[str]:
        names = self.options["operations"]
        return [f"{[0, *row[:_FIRST_OP]]}, {[names[gene] for gene in row[_FIRST_OP:]]}" for row in genes.tolist()]

    def _parse(self, text: str) -> list[int]:
        found = _PATTERN.fullmatch(text.strip())
        if found is None:
            form = self._write(np.zeros((1, len(self.choices)), dtype=np.int8))[0]
            message = f"must read as {form}, is {text[:200]!r}"
            raise InvalidArchitecture(message, row=0, field="notation")
        groups = found.groups()[1:]
        links, names = [int(number) for number in groups[:NODES]], groups[NODES:]
        if links[0]:
            raise InvalidArchitecture(f"must read 0, the raw features, reads {links[0]}", row=0, field="link1")
        for choice, given in zip(self.choices, [*links[1:], *names], strict=True):
            if given not in choice.options:
                what = (
                    f"no such operation {given!r}, operations" if isinstance(given, str) else f"reads {given}, options"
                )
                raise InvalidArchitecture(f"{what} are {list(choice.options)}", row=0, field=choice.name)
        return [c.options.index(given) for c, given in zip(self.choices, [*links[1:], *names], strict=True)]

    # ------------------------------------------------------------------ what it costs, and how it is built

    def cost(self, genes: Genes) -> dict[str, IntArray]:
        """``params`` and ``macs``, (n,) each. MACs are those of all nodes of a graph of ``nodes`` nodes, all of them
        neighbours of one another: a dense adjacency matrix is multiplied."""
        rows = self._merge(self._batch(genes))
        links, operations, raw = self._read_by(rows)
        reads_raw = np.take_along_axis(raw, links, axis=1)
        hidden, nodes, names = self.options["hidden"], self.options["nodes"], self.options["operations"]
        ends = (~(links[:, :, None] == np.arange(1, NODES + 1)).any(axis=1)).sum(axis=1)
        skip = operations == self._skip

        matrices = np.array([_WEIGHTS[name] for name in names])[operations]
        weights = matrices * np.where(reads_raw, self.options["features"], hidden) * hidden
        gat = operations == (names.index("gat") if "gat" in names else -1)
        scores = 2 * hidden * gat
        head_params, head_macs = self._head(ends)

        params = weights + scores + hidden * ~skip + 2 * hidden * ~reads_raw
        if self.options["unused"]:
            params = params + 2 * hidden * reads_raw
            params += hidden**2 * (operations == (names.index("arma") if "arma" in names else -1))
        sends = ~skip & (operations != (names.index("fc") if "fc" in names else -1))
        macs = nodes * (weights + scores) + nodes**2 * hidden * sends
        return {"params": params.sum(axis=1) + head_params, "macs": macs.sum(axis=1) + nodes * head_macs}

    def _head(self, ends: IntArray) -> tuple[IntArray, IntArray]:
        """(params, macs of one node), (n,) each, of the linear layers behind so many joined nodes."""
        hidden, classes = self.options["hidden"], self.options["classes"]
        between = self.options["post_layers"] * hidden
        macs = ends * hidden * (between or classes) + between * classes
        return macs + between + classes, macs

    def _read_by(self, rows: Genes) -> tuple[IntArray, IntArray, Bools]:
        """Of canonical rows: links (n, 4), operations (n, 4), and (n, 5) which nodes are the raw features."""
        links = np.zeros((len(rows), NODES), dtype=np.int64)
        links[:, 1:] = rows[:, :_FIRST_OP]
        operations = rows[:, _FIRST_OP:].astype(np.int64)
        raw = np.ones((len(rows), NODES + 1), dtype=bool)
        for node in range(NODES):
            raw[:, node + 1] = raw[np.arange(len(rows)), links[:, node]] & (operations[:, node] == self._skip)
        return links, operations, raw

    def input_shape(self, row: Genes) -> NoReturn:
        """Raises `Unsupported`."""
        raise Unsupported("networks of nasbench_graph read no images but features and an adjacency matrix: see inputs")

    def inputs(self, row: Genes, batch: int, rng: np.random.Generator) -> tuple[NDArray[Any], ...]:
        """Normal features (batch, nodes, features) and 0/1 adjacency (batch, nodes, nodes), float32.

        The graphs are connected and undirected: a ring, and other edges at random.
        """
        self.check(np.asarray(row)[None])
        nodes = self.options["nodes"]
        features = rng.standard_normal((batch, nodes, self.options["features"]), dtype=np.float32)
        edges = np.triu(rng.random((batch, nodes, nodes)) < (_DEGREE - 2) / nodes, 1)
        edges[:, np.arange(nodes - 1), np.arange(1, nodes)] = True
        edges[:, 0, -1] = True
        return features, (edges | edges.transpose(0, 2, 1)).astype(np.float32)

    def build(self, row: Genes) -> nn.Module:
        """The network of one row, with the same weights each time; `initialise` draws others.

        It reads features (b, n, features) and adjacency (b, n, n), where [i, j] says that node i reads node j, and
        gives logits (b, n, classes) for any n.
        """
        from search_spaces.networks.initialise import initialise
        from search_spaces.networks.nasbench_graph import Network

        genes = self.check(np.asarray(row)[None])[0].tolist()
        operations = [self.options["operations"][gene] for gene in genes[_FIRST_OP:]]
        sizes = {
            name: self.options[name] for name in ("classes", "hidden", "heads", "post_layers", "dropout", "unused")
        }
        inputs = self.options["features"]
        network = Network([0, *genes[:_FIRST_OP]], operations, inputs=inputs, device="meta", **sizes)
        return initialise(network.to_empty(device="cpu"), np.random.default_rng(0))

    def supernet(self) -> NoReturn:
        """Raises `Unsupported`."""
        raise Unsupported(
            "nasbench_graph has no super-network: train its networks alone, or import the published table"
        )

    # ------------------------------------------------------------------ as graphs

    @property
    def most_nodes(self) -> int:
        """The four computing nodes, input and output."""
        return NODES + 2

    def graphs(self, genes: Genes) -> Graphs:
        """Nodes ``input``, the computing nodes of the canonical row without skips that hand on, ``output``."""
        rows = self._merge(self._batch(genes))
        links, operations, raw = self._read_by(rows)
        labels = ("input", *self.options["operations"], "output")
        n, last = len(rows), NODES + 1
        present = np.ones((n, last + 1), dtype=bool)
        present[:, 1:last] = ~raw[:, 1:]
        nodes = np.zeros((n, last + 1), dtype=np.int16)
        nodes[:, 1:last] = operations + 1
        nodes[:, last] = len(labels) - 1
        sources = np.where(np.take_along_axis(raw, links, axis=1), 0, links)
        feeds = np.zeros((n, last + 1, last + 1), dtype=bool)
        feeds[np.arange(n)[:, None], sources, np.arange(1, last)] = True
        feeds[:, 1:last, last] = ~feeds[:, 1:last, 1:last].any(axis=2)
        return compact(present, feeds, nodes, labels)


def _dropout(value: Any) -> float:
    """A share below 1, checked. 0.0 is 0: keys are stored under that."""
    return 0 if type(value) in (int, float) and value == 0 else check.number("dropout", value, most=0.99)


def _computes_nothing(row: Genes) -> tuple[str, str]:
    """(field, message) of a row (7,) that cannot be built."""
    return "operations", "four skips compute nothing"


# ---------------------------------------------------------------------- which networks are the same


@cache
def _listed(operations: int, skip: int, every_row: bool) -> Genes:
    """(k, 7): all canonical rows that can be built, or all rows that can, in the order of their genes."""
    found = _representatives(operations, skip)
    index = np.flatnonzero(np.full(len(found), every_row) | (found == np.arange(len(found))))
    sizes = (*range(2, NODES + 1), *[operations] * NODES)
    rows = np.stack(np.unravel_index(index, sizes), axis=1).astype(np.int8)
    kept: Genes = rows[(rows[:, _FIRST_OP:] != skip).any(axis=1)]
    return kept


@cache
def _representatives(operations: int, skip: int) -> NDArray[np.int32]:
    """For each row, counted in the order of genes, the row that stands for its class.

    ``skip`` is the index of that operation, or -1. Rows with the same links and the same skips are treated at once.
    """
    places = operations ** np.arange(NODES - 1, -1, -1)
    every = np.array(list(product(range(operations), repeat=NODES)), dtype=np.int64)
    result = np.arange(len(LINKS) * len(every), dtype=np.int32).reshape(len(LINKS), len(every))
    numbers = {links: number for number, links in enumerate(LINKS)}
    for links in LINKS:
        for skips in product((False, True), repeat=NODES):
            mine = np.flatnonzero(((every == skip) == skips).all(axis=1))
            if all(skips) or not len(mine):
                continue
            named = list(_renamed(links, skips))
            first = min(new for new, _ in named)
            orders = np.array([order for new, order in named if new == first])
            codes = (every[mine][:, orders] @ places).min(axis=1)
            result[numbers[links], mine] = numbers[first] * len(every) + codes
    return result.ravel()


def _renamed(links: Sequence[int], skips: Sequence[bool]) -> Iterator[tuple[tuple[int, ...], list[int]]]:
    """All rows of one class that have their skips that hand on first: (links, which node's operation comes where)."""
    parents, moved = _contracted(links, skips)
    for order in permutations(parents):
        place = {0: len(moved)} | {node: len(moved) + i for i, node in enumerate(order, 1)}
        if all(place[parents[node]] < place[node] for node in order):
            yield (*range(len(moved)), *(place[parents[node]] for node in order)), [n - 1 for n in (*moved, *order)]


def _contracted(links: Sequence[int], skips: Sequence[bool]) -> tuple[dict[int, int], list[int]]:
    """The nodes that matter with what they read, and the skips that hand on."""
    handed = [0]
    for node, link in enumerate(links, 1):
        handed.append(handed[link] if skips[node - 1] else node)
    parents = {node: handed[link] for node, link in enumerate(links, 1) if not skips[node - 1] or node not in links}
    read = list(parents.values())
    alone = {n for n, parent in parents.items() if skips[n - 1] and (parent == 0 or read.count(parent) == 1)}
    kept = {node: parent for node, parent in parents.items() if node not in alone}
    return kept, [node for node in range(1, NODES + 1) if node not in kept]
