"""Paths as features: which sequences of operations lead from a cell's input to its output.

Source: White, Neiswanger & Savani, "BANANAS: Bayesian optimization with neural architectures for neural architecture
search", AAAI 2021.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product

import numpy as np
from numpy.typing import NDArray

from search_spaces.graphs import labels_of
from search_spaces.space import Bools, Genes, Graphs, SearchSpace, Unsupported

Features = NDArray[np.float32]

MAX_PATHS = 10_000
"""Sequences that are listed, a feature each."""
LONGEST: Mapping[str, int] = {"nasbench201": 3, "transnas_micro": 3}
"""Operations on the longest path, by space, where they are fewer than the nodes between input and output."""
_CHUNK = 1 << 21
"""Features of a node worked out at once: they stay in the cache."""


def path(space: SearchSpace, genes: Genes, longest: int | None = None) -> Features:
    """(n, f): 1 for each sequence of operations that some path from input to output has, 0 for all others.

    Sequences are those of up to ``longest`` operations, shorter ones first, then in the order of the labels; paths of
    more operations are left out. By default they are all that the space can have: 364 for `nasbench101`, which counts
    the path of no operation, 156 for `nasbench201`. Raises `Unsupported` where they are more than 10,000, or where
    graphs have no input and output.
    """
    genes = np.asarray(genes, dtype=np.int8)
    operations, longest = _alphabet(space, longest)
    sizes = [len(operations) ** length for length in range(longest + 1)]
    result = np.zeros((len(genes), sum(sizes)), dtype=np.float32)
    step = max(1, _CHUNK // (sum(sizes) * space.most_nodes))
    for start in range(0, len(genes), step):
        graphs = space.graphs(genes[start : start + step])
        found = _found(graphs, np.array([graphs.labels.index(label) for label in operations]), longest)
        np.concatenate(found, axis=1, out=result[start : start + step], casting="unsafe")
    return result


def path_names(space: SearchSpace, longest: int | None = None) -> list[str]:
    """``input > OPERATION > … > output`` for each feature of `path`."""
    operations, longest = _alphabet(space, longest)
    sequences = (each for length in range(longest + 1) for each in product(operations, repeat=length))
    return [" > ".join(["input", *sequence, "output"]) for sequence in sequences]


def _alphabet(space: SearchSpace, longest: int | None) -> tuple[list[str], int]:
    """The labels between input and output, and how many of them a path may have."""
    labels = labels_of(space)
    inner = [label for label in labels if label != "output" and not label.startswith("input")]
    if len(labels) - len(inner) < 2:
        raise Unsupported(f"graphs of {space.name} have no input and output that paths could join")
    if longest is None:
        longest = LONGEST.get(space.name, space.most_nodes - 2)
    if longest < 0:
        raise ValueError(f"longest must be 0 or more, got {longest}")
    # Counted one by one: the whole sum may be a number of many thousand digits.
    count = 0
    for length in range(longest + 1):
        count += len(inner) ** length
        if count > MAX_PATHS:
            raise Unsupported(
                f"{space.name} has more than {MAX_PATHS:,} sequences of up to {longest} of its {len(inner)} "
                "operations: its paths cannot be listed, use the encodings structure or adjacency"
            )
    return inner, longest


def _found(graphs: Graphs, operations: NDArray[np.intp], longest: int) -> list[Bools]:
    """For each length (n, operations ** length): which sequences lead from the first node to the last."""
    n, v = graphs.operations.shape
    is_operation = graphs.operations[:, :, None] == operations
    last = (graphs.operations >= 0).sum(axis=1) - 1
    result = [np.zeros((n, len(operations) ** length), dtype=bool) for length in range(longest + 1)]
    # Of each node the sequences that end in it, itself included, by their length.
    ending: list[list[Bools]] = [[np.ones((n, 1), dtype=bool)]]
    for node in range(1, v):
        leading: list[Bools] = []
        for length in range(min(node, longest + 1)):
            before = np.zeros_like(result[length])
            for feeder in range(node):
                if length < len(ending[feeder]):
                    before |= ending[feeder][length] & graphs.adjacency[:, feeder, node, None]
            leading.append(before)
            result[length] |= before & (last == node)[:, None]
        longer = leading[:longest]
        own = is_operation[:, node, None, :]
        ending.append([np.zeros((n, 1), dtype=bool), *((each[:, :, None] & own).reshape(n, -1) for each in longer)])
    return result
