"""Features of architectures, against values worked out by hand."""

from __future__ import annotations

import numpy as np

from search_spaces.encoding import one_hot, one_hot_names, ordinal, ordinal_names
from search_spaces.mobilenetv3 import MobileNetV3

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
