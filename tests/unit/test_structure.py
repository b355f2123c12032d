"""Structure and paths of graphs, against values worked out by hand."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from benchmarks import spaces as benchmark
from search_spaces.declared import Declared
from search_spaces.graphs import chain, compact
from search_spaces.mobilenetv3 import MobileNetV3
from search_spaces.nasbench201 import NasBench201
from search_spaces.paths import path, path_names
from search_spaces.plugins import load
from search_spaces.space import Genes, Unsupported
from search_spaces.structure import SHAPE, is_layer, structure, structure_names

CELLS = NasBench201(identity="row")


def cell(text: str) -> Genes:
    return CELLS.from_notation([text])


def shape(space: Any, genes: Genes, **options: Any) -> dict[str, float]:
    """The features of one row by their names."""
    return dict(zip(structure_names(space), structure(space, genes, **options)[0].tolist(), strict=True))


# Node 1 reads a convolution, node 2 a skip and a pool of node 1; the output reads all three.
MIXED = "|nor_conv_3x3~0|+|skip_connect~0|avg_pool_3x3~1|+|nor_conv_1x1~0|none~1|nor_conv_3x3~2|"


def test_a_cell_by_hand() -> None:
    found = shape(CELLS, cell(MIXED))
    assert {name: found[f"count.{name}"] for name in ("input", "none", "nor_conv_3x3", "nor_conv_1x1", "output")} == {
        "input": 1,
        "none": 0,
        "nor_conv_3x3": 2,
        "nor_conv_1x1": 1,
        "output": 1,
    }
    # Paths: conv1 · conv3·pool·conv3 · skip·conv3.
    assert {name: found[name] for name in SHAPE} == {
        "nodes": 7,
        "edges": 8,
        "read_input": 3,
        "read_by_output": 2,
        "log2_paths": pytest.approx(np.log2(3)),
        "longest_path": 4,
        "shortest_path": 2,
        "layers_on_longest_path": 2,
        "layers_on_shortest_path": 1,
        "most_layers": 2,
        "fewest_layers": 1,
        "effective_depth": pytest.approx(4 / 3),
        "effective_width": 1.5,
    }


def test_what_counts_as_a_layer_is_the_callers_to_say() -> None:
    found = shape(CELLS, cell(MIXED), layer=lambda label: label == "avg_pool_3x3")
    assert (found["most_layers"], found["fewest_layers"]) == (1, 0)
    assert found["effective_depth"] == pytest.approx(1 / 3)
    none = shape(CELLS, cell(MIXED), layer=lambda label: False)
    assert (none["most_layers"], none["effective_depth"], none["effective_width"]) == (0, 0, 0)


def test_ties_between_paths_are_broken_by_layers() -> None:
    """Two paths of one operation: the shortest one has none, the longest has one."""
    found = shape(CELLS, cell("|none~0|+|none~0|none~1|+|skip_connect~0|none~1|none~2|"))
    assert (found["longest_path"], found["layers_on_longest_path"], found["log2_paths"]) == (2, 0, 0)
    text = "|nor_conv_3x3~0|+|skip_connect~0|none~1|+|none~0|skip_connect~1|skip_connect~2|"
    found = shape(CELLS, cell(text))
    assert found["longest_path"] == found["shortest_path"] == 3
    assert (found["layers_on_longest_path"], found["layers_on_shortest_path"]) == (1, 0)


def test_what_is_dead_is_not_counted() -> None:
    found = shape(CELLS, cell("|nor_conv_3x3~0|+|none~0|none~1|+|skip_connect~0|none~1|none~2|"))
    assert (found["nodes"], found["count.nor_conv_3x3"]) == (3, 0)
    found = shape(CELLS, cell("|nor_conv_3x3~0|+|none~0|none~1|+|none~0|none~1|none~2|"))
    assert (found["nodes"], found["count.none"], found["longest_path"]) == (3, 1, 2)


def test_more_paths_than_any_integer_holds() -> None:
    """240 blocks that may all be skipped: 2^240 paths."""
    stages = 16
    space = MobileNetV3(
        resolutions=[64],
        kernels=[3],
        expansions=[2],
        depths=[16],
        stem_width=8,
        first_width=16,
        stage_widths=[8, 16] * (stages // 2),
        stage_strides=[1] * stages,
        stage_se=[False] * stages,
        stage_activations=["relu"] * stages,
    )
    found = shape(space, space.extremes()[:1])
    assert found["log2_paths"] == 240
    assert found["most_layers"] == found["layers_on_longest_path"] == 256
    assert found["fewest_layers"] == found["layers_on_shortest_path"] == 16
    # On average every second block is on a path, beside the sixteen that cannot be skipped.
    assert found["effective_depth"] == 16 + 120
    assert (found["longest_path"], found["shortest_path"]) == (259, 19)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ("nor_conv_1x1 nor_conv_3x3 sep_conv_3x3 dil_conv_5x5 conv3x3 conv1x1-bn-relu conv3x3-bn-relu", True),
        ("mb6_k5 mb1_k3 k3_e6 k7 gcn gat block double_halve bottleneck_k3_e0.25_w0.65", True),
        ("attention_3 masked_4 cross_8 mlp_3.5 ffn_2048 fc", True),
        (
            "input input_224 output stem first none skip skip_connect identity embed_192 source_512 normal.c_{k-2}",
            False,
        ),
        ("avg_pool_3x3 max_pool_3x3 maxpool3x3 kernel=3 block2.kernel=5 k keep factor across", False),
    ],
)
def test_which_labels_are_layers(labels: str, expected: bool) -> None:
    for label in labels.split():
        assert is_layer(label) is expected, label


@pytest.mark.parametrize("plugin", benchmark.SPACES)
def test_loops_over_architectures_find_the_same(plugin: str) -> None:
    """Keys, one-hot features, structure and costs: as plain Python works them out, one architecture at a time."""
    space = load("spaces", plugin)()
    genes = space.sample(50, np.random.default_rng(2))
    benchmark.compare(space, benchmark.SPACES[plugin], genes, random.Random(2))


# ---------------------------------------------------------------------- paths


def test_paths_by_hand() -> None:
    names = path_names(CELLS)
    # All sequences of up to three of five operations.
    assert len(names) == 1 + 5 + 25 + 125
    assert names[:2] == ["input > output", "input > none > output"]
    features = path(CELLS, cell(MIXED))
    assert {names[i] for i in np.flatnonzero(features[0])} == {
        "input > nor_conv_1x1 > output",
        "input > skip_connect > nor_conv_3x3 > output",
        "input > nor_conv_3x3 > avg_pool_3x3 > nor_conv_3x3 > output",
    }


def test_longer_paths_may_be_left_out() -> None:
    whole = path(CELLS, cell(MIXED))
    names = path_names(CELLS, longest=2)
    np.testing.assert_array_equal(path(CELLS, cell(MIXED), longest=2), whole[:, : 1 + 5 + 25])
    assert names == path_names(CELLS)[: 1 + 5 + 25]
    assert path_names(CELLS, longest=0) == ["input > output"]
    with pytest.raises(ValueError, match="longest"):
        path(CELLS, cell(MIXED), longest=-1)


def test_paths_that_cannot_be_listed_are_refused() -> None:
    space = MobileNetV3()
    with pytest.raises(Unsupported, match="mobilenetv3 has more than 10,000 sequences"):
        path(space, space.extremes())
    # What may start and end in any operation has no input and no output.
    with pytest.raises(Unsupported, match="no input and output"):
        path_names(Declared(choices=[{"name": "a", "options": [1, 2]}]))


def test_long_batches_are_their_rows() -> None:
    """All 15,625 cells, in several chunks."""
    rows = CELLS.sample(15_625, np.random.default_rng(0))
    whole, some = path(CELLS, rows), np.arange(0, 15_625, 521)
    for row in some.tolist():
        np.testing.assert_array_equal(path(CELLS, rows[row : row + 1])[0], whole[row])
    np.testing.assert_array_equal(structure(CELLS, rows)[some], structure(CELLS, rows[some]))


# ---------------------------------------------------------------------- graphs


def test_compact_moves_what_is_present_to_the_front() -> None:
    present = np.array([[True, False, True, True], [True, True, False, False]])
    shared = np.array([[0, 1, 1, 0], [0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 0, 0]], dtype=bool)
    operations = np.array([[0, 1, 2, 3], [0, 1, 2, 3]])
    expected = np.array([[[0, 1, 0], [0, 0, 1], [0, 0, 0]], [[0, 1, 0], [0, 0, 0], [0, 0, 0]]], dtype=bool)
    for adjacency in (shared, np.stack([shared, shared])):
        found = compact(present, adjacency, operations, ("a",))
        np.testing.assert_array_equal(found.adjacency, expected)
        np.testing.assert_array_equal(found.operations, [[0, 2, 3], [0, 1, -1]])
        assert found.operations.dtype == np.int16


def test_chains_are_skipped_where_a_block_lets_its_input_pass() -> None:
    present = np.array([[True, True, True, True], [True, False, True, True]])
    passes = np.array([False, True, True, False])
    operations = np.array([[0, 1, 2, 3], [0, 1, 2, 3]])
    found = chain(present, passes, operations, ("a",))
    np.testing.assert_array_equal(found.operations, [[0, 1, 2, 3], [0, 2, 3, -1]])
    np.testing.assert_array_equal(found.adjacency[0], np.triu(np.ones((4, 4)), 1))
    np.testing.assert_array_equal(found.adjacency[1], np.triu([[1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 1, 0], [0] * 4], 1))
    alone = chain(present[:1], np.array([[False, False, True, False]]), operations[:1], ("a",))
    np.testing.assert_array_equal(alone.adjacency[0], [[0, 1, 0, 0], [0, 0, 1, 1], [0, 0, 0, 1], [0, 0, 0, 0]])


@pytest.mark.parametrize("shared", [True, False])
def test_compact_against_one_graph_at_a_time(shared: bool) -> None:
    """Many rows, so that several chunks are needed."""
    rng = np.random.default_rng(1)
    n, v = 3000, 30
    present = rng.random((n, v)) < 0.7
    adjacency = np.triu(rng.random((v, v) if shared else (n, v, v)) < 0.4, 1)
    operations = rng.integers(0, 5, (n, v))
    found = compact(present, adjacency, operations, ("a",) * 5)
    for row in range(0, n, 97):
        kept = np.flatnonzero(present[row])
        whole = adjacency if shared else adjacency[row]
        k = len(kept)
        np.testing.assert_array_equal(found.adjacency[row, :k, :k], whole[np.ix_(kept, kept)])
        np.testing.assert_array_equal(found.operations[row, :k], operations[row, kept])
        assert not found.adjacency[row, k:].any()
        assert not found.adjacency[row, :, k:].any()
        assert (found.operations[row, k:] == -1).all()
