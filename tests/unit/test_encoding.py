"""Features of architectures, against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from search_spaces.declared import Declared
from search_spaces.encoding import (
    ENCODINGS,
    adjacency,
    adjacency_names,
    once_for_all,
    once_for_all_names,
    one_hot,
    one_hot_names,
    ordinal,
    ordinal_names,
    padded_graphs,
)
from search_spaces.mobilenetv3 import MobileNetV3
from search_spaces.nasbench201 import NasBench201
from search_spaces.resnet50 import ResNet50
from search_spaces.space import Unsupported

SPACE = MobileNetV3(
    resolutions=[32, 64, 48],
    kernels=[3],
    expansions=[6, 2],
    depths=[1, 2],
    stage_widths=[16],
    stage_strides=[2],
    stage_se=[True],
    stage_activations=["relu"],
)
GENES = SPACE.from_configs(
    [
        {"resolution": 48, "stage1.depth": 1, "stage1.block1.kernel": 3, "stage1.block1.expand": 6},
        {
            "resolution": 64,
            "stage1.depth": 2,
            "stage1.block1.kernel": 3,
            "stage1.block1.expand": 2,
            "stage1.block2.kernel": 3,
            "stage1.block2.expand": 6,
        },
    ]
)


def test_one_hot() -> None:
    features = one_hot(SPACE, GENES)
    assert features.dtype == np.float32
    expected = [
        [0, 0, 1, 1, 0, 1, 1, 0, 0, 0, 0],
        [0, 1, 0, 0, 1, 1, 0, 1, 1, 1, 0],
    ]
    np.testing.assert_array_equal(features, expected)
    names = one_hot_names(SPACE)
    assert len(names) == len(set(names)) == features.shape[1]
    assert names[:4] == ["resolution=32", "resolution=64", "resolution=48", "stage1.depth=1"]


def test_ordinal() -> None:
    features = ordinal(SPACE, GENES)
    assert features.dtype == np.float32
    np.testing.assert_array_equal(features, [[0.5, 0, 0, 1, -1, -1], [1, 1, 0, 0, 0, 1]])
    np.testing.assert_array_equal(ordinal(SPACE, GENES, inactive=0.0)[0], [0.5, 0, 0, 1, 0, 0])
    assert ordinal_names(SPACE) == [choice.name for choice in SPACE.choices]


def test_rows_are_encoded_as_they_are() -> None:
    """What stands in a padded place shows in no encoding, canonical or not."""
    other = GENES.copy()
    other[0, 5] = 1
    np.testing.assert_array_equal(one_hot(SPACE, other), one_hot(SPACE, GENES))
    np.testing.assert_array_equal(ordinal(SPACE, other), ordinal(SPACE, GENES))


def test_long_batches_and_empty_ones() -> None:
    """Encoding works in chunks: every row is where it belongs."""
    rows = GENES[np.arange(10_001) % 2]
    np.testing.assert_array_equal(one_hot(SPACE, rows), one_hot(SPACE, GENES)[np.arange(10_001) % 2])
    assert one_hot(SPACE, GENES[:0]).shape == (0, 11)
    assert ordinal(SPACE, GENES[:0]).shape == (0, 6)


# ---------------------------------------------------------------------- Once-for-All's


def test_once_for_all_is_what_its_predictor_reads() -> None:
    """128 features: 20 blocks of three kernels, 20 of three expansions, eight resolutions; zeros where cut off."""
    space = MobileNetV3(resolutions=list(range(112, 225, 16)))
    genes = space.sample(50, np.random.default_rng(0))
    features = once_for_all(space, genes)
    assert features.shape == (50, 128)
    assert features.dtype == np.float32
    kernels, expansions, resolutions = (3, 5, 7), (3, 4, 6), tuple(range(112, 225, 16))
    for row, config in zip(features, space.to_configs(genes), strict=True):
        expected = np.zeros(128)
        for stage in range(5):
            for block in range(int(config[f"stage{stage + 1}.depth"])):
                place, name = 3 * (4 * stage + block), f"stage{stage + 1}.block{block + 1}"
                expected[place + kernels.index(config[f"{name}.kernel"])] = 1
                expected[60 + place + expansions.index(config[f"{name}.expand"])] = 1
        expected[120 + resolutions.index(config["resolution"])] = 1
        np.testing.assert_array_equal(row, expected)
    names = once_for_all_names(space)
    assert (names[0], names[60], names[127]) == (
        "stage1.block1.kernel=3",
        "stage1.block1.expand=3",
        "resolution=224",
    )


def test_once_for_all_of_residual_networks() -> None:
    """Resolution, whether the stem has its block, six widths, the expansions of 18 blocks."""
    space = ResNet50(resolutions=[128, 224])
    genes = space.sample(20, np.random.default_rng(0))
    features, names = once_for_all(space, genes), once_for_all_names(space)
    assert features.shape == (20, 2 + 2 + 6 * 3 + 18 * 3)
    assert [names[i] for i in (0, 2, 4, 7, 10, 22)] == [
        "resolution=128",
        "stem.depth=0",
        "stem.first.width=0.65",
        "stem.last.width=0.65",
        "stage1.width=0.65",
        "stage1.block1.expand=0.2",
    ]
    blocks = sum(
        genes[:, i]
        for i, choice in enumerate(space.choices)
        if choice.name.startswith("stage") and ".depth" in choice.name
    )
    np.testing.assert_array_equal(features[:, 22:].sum(axis=1), 2 + 2 + 4 + 2 + blocks)
    np.testing.assert_array_equal(features[:, 2:4].argmax(axis=1), genes[:, 1])


def test_once_for_all_is_for_its_own_networks() -> None:
    for space in (NasBench201(), Declared(choices=[{"name": "block.kernel", "options": [3, 5]}])):
        with pytest.raises(Unsupported, match="kernels, widths, expansions"):
            once_for_all(space, space.extremes())


# ---------------------------------------------------------------------- graphs


def test_adjacency_by_hand() -> None:
    """input, stem, first and one or two blocks; each block may be skipped."""
    features = adjacency(SPACE, GENES)
    names = adjacency_names(SPACE)
    labels = ["input_32", "input_64", "input_48", "stem", "first", "mb6_k3", "mb2_k3", "output"]
    assert len(names) == 15 + 6 * len(labels)
    assert names[:6] == [f"node {a} > node {b}" for a, b in ((0, 1), (0, 2), (0, 3), (0, 4), (0, 5), (1, 2))]
    assert names[15 : 15 + len(labels)] == [f"node 0={label}" for label in labels]
    shown = [names[i] for i in np.flatnonzero(features[0])]
    assert shown == [
        "node 0 > node 1",
        "node 1 > node 2",
        "node 1 > node 3",
        "node 2 > node 3",
        "node 3 > node 4",
        "node 0=input_48",
        "node 1=stem",
        "node 2=first",
        "node 3=mb6_k3",
        "node 4=output",
    ]


def test_padded_graphs_are_as_wide_as_the_space() -> None:
    graphs = padded_graphs(SPACE, GENES[:1])
    assert graphs.adjacency.shape == (1, 6, 6)
    np.testing.assert_array_equal(graphs.operations, [[2, 3, 4, 5, 7, -1]])
    np.testing.assert_array_equal(graphs.mask, [[True] * 5 + [False]])


def test_what_is_too_wide_is_refused() -> None:
    space = Declared(choices=[{"name": f"c{i}", "options": [1, 2, 3]} for i in range(200)])
    with pytest.raises(Unsupported, match="139,900 features"):
        adjacency(space, space.extremes())
    wider = Declared(choices=[{"name": f"c{i}", "options": [1, 2, 3]} for i in range(1001)])
    for name in ("adjacency", "path", "structure"):
        with pytest.raises(Unsupported):
            ENCODINGS[name].names(wider)
    assert one_hot(wider, wider.extremes()).shape == (2, 3003)
