"""What graphs look like: counts of operations and paths, and how many layers lie on them.

A layer is an operation with weights: a convolution, or what stands for it in other networks, such as attention.

Sources: Shu, Wang & Cai, "Understanding architectures learnt by cell-based neural architecture search", ICLR 2020
(depth is the longest path, width how many nodes read the input); Veit, Wilber & Belongie, "Residual networks behave
like ensembles of relatively shallow networks", NeurIPS 2016 (how many layers the paths have on average); Kadlecová et
al., "Surprisingly strong performance prediction with neural graph features", ICML 2024 (counts of operations, shortest
paths, most operations on a path, degrees).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import final

import numpy as np
from numpy.typing import NDArray

from search_spaces.graphs import labels_of
from search_spaces.space import Bools, Genes, Graphs, SearchSpace, Unsupported

Features = NDArray[np.float32]

MAX_NODES = 1000
"""Nodes of the largest graph whose paths are counted: with 1,024 they could be more than a double holds."""
_CHUNK = 1 << 21
"""Bytes of adjacency looked at at once."""
_LAYER = re.compile(r"conv|(^|_)k\d+(_|$)|^(attention|cross|fc|ffn|masked|mlp)(_|$)", re.IGNORECASE)
_NAMED = frozenset({"arma", "cheb", "gat", "gcn", "gin", "graph", "sage", "block", "double", "halve", "double_halve"})
"""Convolutions over graphs, and residual blocks."""

SHAPE = (
    "nodes",
    "edges",
    "read_input",
    "read_by_output",
    "log2_paths",
    "longest_path",
    "shortest_path",
    "layers_on_longest_path",
    "layers_on_shortest_path",
    "most_layers",
    "fewest_layers",
    "effective_depth",
    "effective_width",
)
"""What `structure` says of a graph besides counting its operations. A path leads from the first node to the last.

- ``nodes``, ``edges``; ``read_input``: nodes that the first node feeds; ``read_by_output``: nodes that feed the last.
- ``log2_paths``: logarithm of the number of paths, base 2; a chain has 0.
- ``longest_path``, ``shortest_path``: their edges.
- ``layers_on_longest_path``: the most on any of the longest paths; ``layers_on_shortest_path``: the fewest
  on any of the shortest.
- ``most_layers``, ``fewest_layers``: on any path.
- ``effective_depth``: layers on a path, the mean over all paths.
- ``effective_width``: layers of the graph to each one of ``most_layers``: how many stand side by side on average; 0
  where there is none.
"""


def is_layer(label: str) -> bool:
    """Whether an operation of this label has weights: whether it is a convolution, or what stands for it elsewhere.

    It is a layer if the label has ``conv`` in it, or a kernel size such as ``k3``; or if it begins with ``attention``,
    ``masked`` or ``cross`` (attention as well), ``mlp``, ``ffn`` or ``fc``; or if it is the name of a convolution over
    graphs, or of a residual block. ``nor_conv_3x3``, ``conv1x1-bn-relu``, ``mb6_k5``, ``attention_4`` and ``gcn`` are,
    a block counts as one; ``skip_connect``, ``max_pool_3x3``, and whatever has another name are not. Neither are stems
    and embeddings, of which every network has one.
    """
    return label in _NAMED or _LAYER.search(label) is not None


def structure(space: SearchSpace, genes: Genes, layer: Callable[[str], bool] = is_layer) -> Features:
    """(n, f): how many operations of each label a graph has, then what `SHAPE` lists.

    ``layer`` says which labels are layers. Raises `Unsupported` for a space of more than 1,000 nodes, or
    without graphs.
    """
    genes = np.asarray(genes, dtype=np.int8)
    labels = _labels(space)
    counter = _Counter(space.most_nodes, len(genes), np.array([*map(layer, labels), False]))
    result = np.empty((len(genes), len(labels) + len(SHAPE)), dtype=np.float32)
    for start in range(0, len(genes), counter.at_once):
        rows = slice(start, start + counter.at_once)
        graphs = space.graphs(genes[rows])
        result[rows, : len(labels)] = _counts(graphs)
        result[rows, len(labels) :] = counter.shape(graphs).T
    return result


def structure_names(space: SearchSpace) -> list[str]:
    """``count.LABEL`` for each label of the space's graphs, then `SHAPE`."""
    return [*(f"count.{label}" for label in _labels(space)), *SHAPE]


def _labels(space: SearchSpace) -> tuple[str, ...]:
    if space.most_nodes > MAX_NODES:
        raise Unsupported(f"graphs of {space.name} have {space.most_nodes} nodes, paths are counted in {MAX_NODES}")
    return labels_of(space)


def _counts(graphs: Graphs) -> NDArray[np.int64]:
    """(n, labels): nodes of each label."""
    # Padding is label -1: it falls into a first column of its own.
    n, width = len(graphs.operations), 1 + len(graphs.labels)
    flat = graphs.operations + (width * np.arange(n)[:, None] + 1)
    return np.bincount(flat.ravel(), minlength=n * width).reshape(n, width)[:, 1:]


@final
class _Counter:
    """Follows the paths of graphs of at most ``most_nodes``, node by node, all graphs in one pass.

    ``are_layers`` (labels + 1,): which labels are layers, the last place is that of padding.
    """

    def __init__(self, most_nodes: int, count: int, are_layers: Bools) -> None:
        self._are_layers = are_layers
        v, n = most_nodes, max(1, min(count, _CHUNK // most_nodes**2))
        self.at_once = n
        """Graphs looked at in one go, of ``count`` in all."""
        self._unit = v + 1
        """What an edge adds to a number of which the rest counts layers: length decides, they break ties."""
        self._top = self._unit * (v + 1)
        """Above every such number."""
        whole = np.int16 if self._top < np.iinfo(np.int16).max else np.int32
        # Nodes first, graphs last: a step is one pass over all graphs. Made once, since the system hands out large
        # pieces of memory slower than they are filled.
        self._edges = np.empty((v, v, n), dtype=bool)
        self._masks = np.empty((v, n), dtype=whole)
        self._best, self._some_best = np.empty((2, 4, v, n), dtype=whole)
        self._sums, self._some_sums = np.empty((2, 2, v, n))

    def shape(self, graphs: Graphs) -> NDArray[np.float64]:
        """(len(SHAPE), n) for at most ``at_once`` graphs."""
        n, v = graphs.operations.shape
        unit, top = self._unit, self._top
        edges, masks = self._edges[:v, :v, :n], self._masks[:v, :n]
        edges[...] = graphs.adjacency.transpose(1, 2, 0)
        layers = self._are_layers[graphs.operations.T].astype(masks.dtype)
        # The longest path to a node, the shortest, the one of most and the one of fewest layers. What is to be
        # least is taken from the top: so the best is always the greatest, and where no edge is it is 0.
        best, some_best = self._best[:, :v, :n], self._some_best[:, :v, :n]
        signs = np.array([[1], [-1], [1], [-1]], dtype=masks.dtype)
        lengths = np.array([[unit], [-unit], [0], [0]], dtype=masks.dtype)
        best[::2, 0], best[1::2, 0] = layers[0], top - layers[0]
        # The number of paths to a node, and the sum of their layers.
        sums, some_sums = self._sums[:, :v, :n], self._some_sums[:, :v, :n]
        sums[0, 0], sums[1, 0] = 1, layers[0]
        for node in range(1, v):
            own = layers[node]
            # All bits where there is an edge, none where there is not.
            np.negative(edges[:node, node].view(np.int8), out=masks[:node])
            np.bitwise_and(best[:, :node], masks[:node], out=some_best[:, :node])
            some_best[:, :node].max(axis=1, out=best[:, node])
            best[:, node] += signs * own + lengths
            np.multiply(sums[:, :node], edges[:node, node], out=some_sums[:, :node])
            some_sums[:, :node].sum(axis=1, out=sums[:, node])
            sums[1, node] += sums[0, node] * own
        nodes = (graphs.operations >= 0).sum(axis=1)
        last, every = nodes - 1, np.arange(n)
        longest, shortest, most, fewest = best[:, last, every].astype(np.int64)
        ways, total = sums[:, last, every]
        return np.stack(
            [
                nodes,
                edges.sum(axis=0, dtype=np.int16).sum(axis=0, dtype=np.int32),
                edges[0].sum(axis=0),
                graphs.adjacency[every, :, last].sum(axis=1),
                np.log2(ways),
                longest // unit,
                (top - shortest) // unit,
                longest % unit,
                (top - shortest) % unit,
                most,
                top - fewest,
                total / ways,
                layers.sum(axis=0) / np.maximum(most, 1),
            ]
        )
