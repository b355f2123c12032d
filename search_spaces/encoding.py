"""Architectures as numbers: (n, d) genes → (n, f) float32 features, in one vectorised pass.

Each encoding has a twin that names its features; `ENCODINGS` lists them all. Rows are encoded as they are: a predictor
of accuracy passes ``space.canonical(genes)``, a predictor of cost the rows as built.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from search_spaces.graphs import labels_of
from search_spaces.paths import path, path_names
from search_spaces.space import Bools, Choice, Genes, SearchSpace, Unsupported
from search_spaces.structure import structure, structure_names

Features = NDArray[np.float32]

MAX_FEATURES = 1 << 16
"""Features of one row that `adjacency` gives at most."""
_CHUNK = 4096
"""Rows encoded at once: their intermediate values stay in the cache."""
_CHUNK_BYTES = 1 << 22


def one_hot(space: SearchSpace, genes: Genes) -> Features:
    """(n, f), one feature per option of each choice: 1 where it is chosen; all zero for an inactive choice."""
    return _one_hot(space, genes, range(len(space.choices)))


def one_hot_names(space: SearchSpace) -> list[str]:
    """``choice=option`` for each feature of `one_hot`."""
    return _one_hot_names(space, range(len(space.choices)))


def once_for_all(space: SearchSpace, genes: Genes) -> Features:
    """(n, f), what Once-for-All's predictors of accuracy read (Cai et al., ICLR 2020).

    Of mobile networks the one-hot kernel of each block, then the one-hot expansion of each block, both all zero for a
    block that the depth cuts off, then the one-hot resolution: 128 features for 20 blocks of three kernels and three
    expansions at eight resolutions. Of residual networks resolution, depth of the stem, widths and the expansion of
    each block, as in the published package (which later has the resolution of mobile networks first as well). Raises
    `Unsupported` for a space that has other choices than these.
    """
    return _one_hot(space, genes, _once_for_all(space))


def once_for_all_names(space: SearchSpace) -> list[str]:
    """``choice=option`` for each feature of `once_for_all`."""
    return _one_hot_names(space, _once_for_all(space))


def ordinal(space: SearchSpace, genes: Genes, *, inactive: float = -1.0) -> Features:
    """(n, d), one feature per choice: its option's value, or its index where options are words, scaled to 0..1.

    An inactive choice is ``inactive``. A choice of one option is 0.
    """
    genes = np.asarray(genes, dtype=np.int8)
    table = np.zeros((len(space.choices), int(space.sizes.max())), dtype=np.float32)
    for column, choice in enumerate(space.choices):
        table[column, : len(choice.options)] = _scaled(choice)
    values = table[np.arange(len(space.choices)), genes]
    return np.where(space.active(genes), values, np.float32(inactive))


def ordinal_names(space: SearchSpace) -> list[str]:
    """The choices' names."""
    return [choice.name for choice in space.choices]


# ---------------------------------------------------------------------- graphs


@dataclass(frozen=True, slots=True)
class PaddedGraphs:
    """Graphs as wide as the space's largest: what networks on graphs read.

    ``adjacency`` (n, v, v) bool, ``[i, a, b]`` says that node a feeds node b, nodes in topological order;
    ``operations`` (n, v) int16 indices into ``labels``, -1 where padded; ``mask`` (n, v) bool, False where padded.
    """

    adjacency: Bools
    operations: NDArray[np.int16]
    mask: Bools
    labels: tuple[str, ...]


def padded_graphs(space: SearchSpace, genes: Genes) -> PaddedGraphs:
    """The graphs of ``genes`` (n, d), padded to ``space.most_nodes``. Raises `Unsupported` where there are none."""
    graphs = space.graphs(np.asarray(genes, dtype=np.int8))
    missing = space.most_nodes - graphs.operations.shape[1]
    adjacency = np.pad(graphs.adjacency, ((0, 0), (0, missing), (0, missing)))
    operations = np.pad(graphs.operations, ((0, 0), (0, missing)), constant_values=-1)
    return PaddedGraphs(adjacency, operations, operations >= 0, graphs.labels)


def adjacency(space: SearchSpace, genes: Genes) -> Features:
    """(n, f): which node feeds which, above the diagonal, row by row; then the one-hot operation of each node.

    Nodes are as many as the space's largest graph has, those that a row's graph has not are all zero. With the nodes of
    a graph in their order, the output is the last of those that are there. Raises `Unsupported` where features are
    more than 65,536, or where the space has no graphs.
    """
    genes = np.asarray(genes, dtype=np.int8)
    labels, pairs = _nodes(space)
    kinds = np.arange(len(labels), dtype=np.int16)
    result = np.empty((len(genes), len(pairs[0]) + space.most_nodes * len(labels)), dtype=np.float32)
    step = max(1, _CHUNK_BYTES // result.itemsize // max(1, result.shape[1]))
    for start in range(0, len(genes), step):
        rows = slice(start, start + step)
        graphs = padded_graphs(space, genes[rows])
        result[rows, : len(pairs[0])] = graphs.adjacency[:, *pairs]
        shown = graphs.operations[:, :, None] == kinds
        result[rows, len(pairs[0]) :] = shown.reshape(len(shown), -1)
    return result


def adjacency_names(space: SearchSpace) -> list[str]:
    """``node A > node B`` for each edge, then ``node A=LABEL`` for each operation."""
    labels, pairs = _nodes(space)
    edges = [f"node {start} > node {end}" for start, end in np.transpose(pairs).tolist()]
    return [*edges, *(f"node {node}={label}" for node in range(space.most_nodes) for label in labels)]


# ---------------------------------------------------------------------- all of them


@dataclass(frozen=True, slots=True)
class Encoding:
    """``encode`` gives (n, f) float32 features of (n, d) genes, ``names`` the f names. Both may raise `Unsupported`."""

    encode: Callable[[SearchSpace, Genes], Features]
    names: Callable[[SearchSpace], list[str]]


ENCODINGS: Mapping[str, Encoding] = {
    "one_hot": Encoding(one_hot, one_hot_names),
    "ordinal": Encoding(ordinal, ordinal_names),
    "adjacency": Encoding(adjacency, adjacency_names),
    "path": Encoding(path, path_names),
    "structure": Encoding(structure, structure_names),
    "once_for_all": Encoding(once_for_all, once_for_all_names),
}
"""Every encoding by its name."""


# ---------------------------------------------------------------------- how it is done


def _one_hot(space: SearchSpace, genes: Genes, chosen: Iterable[int]) -> Features:
    """`one_hot` of these columns of genes, in this order."""
    genes = np.asarray(genes, dtype=np.int8)
    wanted = np.array([*chosen], dtype=np.intp)
    columns = np.repeat(wanted, space.sizes[wanted])
    options = np.concatenate([np.arange(size, dtype=np.int8) for size in space.sizes[wanted]])
    result = np.empty((len(genes), len(columns)), dtype=np.float32)
    for start in range(0, len(genes), _CHUNK):
        rows = genes[start : start + _CHUNK]
        shown = np.where(space.active(rows), rows, np.int8(-1))
        result[start : start + _CHUNK] = shown.take(columns, axis=1) == options
    return result


def _one_hot_names(space: SearchSpace, chosen: Iterable[int]) -> list[str]:
    return [f"{space.choices[i].name}={option}" for i in chosen for option in space.choices[i].options]


def _once_for_all(space: SearchSpace) -> list[int]:
    """The columns of genes that `once_for_all` shows, in its order."""
    columns: dict[str, list[int]] = {}
    for column, choice in enumerate(space.choices):
        columns.setdefault(choice.name.rpartition(".")[2], []).append(column)
    if columns.keys() == {"resolution", "depth", "kernel", "expand"}:
        return [*columns["kernel"], *columns["expand"], *columns["resolution"]]
    if columns.keys() == {"resolution", "depth", "width", "expand"}:
        stem = [column for column in columns["depth"] if space.choices[column].name == "stem.depth"]
        return [*columns["resolution"], *stem, *columns["width"], *columns["expand"]]
    raise Unsupported(
        "Once-for-All encodes kernels, widths, expansions, depths and the resolution of mobile or residual networks; "
        f"{space.name} has choices of {', '.join(list(columns)[:8])}"
    )


def _nodes(space: SearchSpace) -> tuple[tuple[str, ...], tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """The labels of graphs, and the pairs of nodes above the diagonal."""
    labels = labels_of(space)
    v = space.most_nodes
    count = v * (v - 1) // 2 + v * len(labels)
    if count > MAX_FEATURES:
        raise Unsupported(
            f"{space.name} has {v} nodes and {len(labels)} operations, that is {count:,} features; at most "
            f"{MAX_FEATURES:,} are given: use the encoding structure"
        )
    starts, ends = np.triu_indices(v, 1)
    return labels, (starts, ends)


def _scaled(choice: Choice) -> Features:
    numeric = all(isinstance(option, int | float) for option in choice.options)
    values = np.array(choice.options if numeric else range(len(choice.options)), dtype=np.float64)
    spread = float(np.ptp(values))
    scaled: Features = ((values - values.min()) / (spread if spread > 0 else 1.0)).astype(np.float32)
    return scaled
