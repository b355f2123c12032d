"""NAS-Bench-101's cells as others published them: EC-NAS by the published generator, NASLib at random."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from search_spaces.nasbench101 import OPERATIONS, NasBench101
from search_spaces.networks.nasbench101 import widths
from search_spaces.space import Genes
from tests.shared import SHARED, needs_shared

SPACE, ROWS = NasBench101(), NasBench101(identity="row")
POOL = OPERATIONS[2]


def ecnas(name: str) -> tuple[Genes, dict[str, Any]]:
    parquet = pytest.importorskip("pyarrow.parquet")
    columns = ["adjacency", "ops", "params", "hash"]
    found = parquet.read_table(SHARED / f"data/ecnas/{name}_4epochs.parquet", columns=columns).to_pydict()
    texts = [
        json.dumps({"adjacency": json.loads(matrix), "operations": ["input", *named, "output"]})
        for matrix, ops in zip(found["adjacency"], found["ops"], strict=True)
        for named in [[OPERATIONS[label] for label in json.loads(ops)[1:-1]]]
    ]
    return SPACE.from_notation(texts), found


@needs_shared
@pytest.mark.parametrize(("name", "classes"), [("4v", 91), ("5v", 1_266)])
def test_cells_of_the_published_generator(name: str, classes: int) -> None:
    """EC-NAS lists cells by the published generator and trains them in the published skeleton: rows are canonical as
    they stand, one key for each of its hashes, and all parameters are equal."""
    genes, found = ecnas(name)
    np.testing.assert_array_equal(SPACE.canonical(genes), genes)
    keys = SPACE.keys(genes)
    assert len(set(keys)) == len(set(found["hash"])) == len(set(zip(keys, found["hash"], strict=True))) == classes
    for space in (SPACE, ROWS):
        np.testing.assert_array_equal(space.cost(genes)["params"], found["params"])


def naslib() -> tuple[Genes, dict[str, Any]]:
    """NASLib's cells: operations are 0 input, 1 output, 2 maxpool3x3, 3 conv1x1, 4 conv3x3."""
    parquet = pytest.importorskip("pyarrow.parquet")
    found = parquet.read_table(SHARED / "data/nb101/samples.parquet").to_pydict()
    texts = []
    for matrix, ops in zip(found["adjacency"], found["ops"], strict=True):
        named = ["input", *(OPERATIONS[4 - label] for label in json.loads(ops)[1:-1]), "output"]
        texts.append(json.dumps({"adjacency": json.loads(matrix), "operations": named}))
    return ROWS.from_notation(texts), found


def operations_counted(row: Genes) -> int:
    """What NASLib counts beside multiply-accumulates: 3 for each output of a convolution, for its norm and its ReLU,
    and for each output of a pooling as many as it compares."""
    graphs = ROWS.graphs(row[None])
    names, matrix = [graphs.labels[label] for label in graphs.operations[0]], graphs.adjacency[0].tolist()
    total = 3 * 128 * 32**2 + 4 * (128 * 16**2 + 256 * 8**2)
    for stack in range(3):
        wide = widths(matrix, 128 << stack)
        per_place = sum(3 * wide[vertex] for vertex in range(1, len(names)) if matrix[0][vertex])
        per_place += sum((9 if names[v] == POOL else 3) * wide[v] for v in range(1, len(names) - 1))
        total += 3 * per_place * (32 >> stack) ** 2
    return total


@needs_shared
def test_costs_are_the_published_ones() -> None:
    """All rows, in the table's single precision. NASLib built the rows it drew, in their own order."""
    genes, found = naslib()
    costs = ROWS.cost(genes)
    np.testing.assert_array_equal((costs["params"] / 1e6).astype(np.float32), np.float32(found["params_m"]))
    counted = costs["macs"] + [operations_counted(row) for row in genes]
    np.testing.assert_array_equal((counted / 1e6).astype(np.float32), np.float32(found["flops_m"]))
    # The network that was trained is that of the canonical row: 10 of 250 have other channels left over.
    params = SPACE.cost(genes)["params"]
    other = params != costs["params"]
    assert other.sum() == 10
    assert np.abs(params / costs["params"] - 1).max() < 0.014
    assert {leading(row) for row in genes[other]} <= {3, 5}


def leading(row: Genes) -> int:
    """How many inner vertices lead into the output."""
    return int(ROWS.graphs(row[None]).adjacency[0, 1:, -1].sum())
