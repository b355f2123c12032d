"""The MobileNetV3 space: its options, its published costs, its graphs, and options for a data set."""

from __future__ import annotations

import itertools
import json
from typing import Any

import numpy as np
import pytest

from search_spaces.mobilenetv3 import MobileNetV3, scaled
from search_spaces.networks.layout import divisible
from search_spaces.space import InvalidArchitecture, InvalidSpace, distinct
from tests.shared import SHARED, needs_shared

STAGES, DEPTH = 5, 4


def published(ks: list[int], e: list[int], d: list[int], resolution: int) -> dict[str, Any]:
    """A sub-network in Once-for-All's notation as a config: blocks beyond the depth are left out."""
    config: dict[str, Any] = {"resolution": resolution}
    for stage, depth in enumerate(d):
        config[f"stage{stage + 1}.depth"] = depth
        for block in range(depth):
            config[f"stage{stage + 1}.block{block + 1}.kernel"] = ks[DEPTH * stage + block]
            config[f"stage{stage + 1}.block{block + 1}.expand"] = e[DEPTH * stage + block]
    return config


def test_the_defaults_are_the_published_space() -> None:
    space = MobileNetV3()
    assert len(space.choices) == 1 + STAGES * (1 + 2 * DEPTH)
    assert [choice.name for choice in space.choices[:4]] == [
        "resolution",
        "stage1.depth",
        "stage1.block1.kernel",
        "stage1.block1.expand",
    ]
    assert space.choices[0].options == tuple(range(128, 225, 4))
    smallest, largest = space.to_configs(space.extremes())
    assert smallest == published([3] * 20, [3] * 20, [2] * 5, 128)
    assert largest == published([7] * 20, [6] * 20, [4] * 5, 224)


@needs_shared
def test_costs_are_the_published_ones() -> None:
    """Parameters and MACs of 1,819 sub-networks as published, in millions and float32."""
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.read_table(SHARED / "data/ofa_mbv3/imagenet_acc.parquet").to_pydict()
    configs = [
        published(json.loads(ks), json.loads(e), json.loads(d), resolution)
        for ks, e, d, resolution in zip(table["ks"], table["e"], table["d"], table["resolution"], strict=True)
    ]
    assert len(configs) == 1819
    space = MobileNetV3()
    costs = space.cost(space.from_configs(configs))
    np.testing.assert_allclose(costs["params"] / 1e6, table["params_m"], rtol=1e-6)
    np.testing.assert_allclose(costs["macs"] / 1e6, table["macs_m"], rtol=1e-6)


@needs_shared
def test_the_architectures_of_the_latency_table_are_rows() -> None:
    """5,000 sub-networks in Once-for-All's notation, all different; written as they were read."""
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.read_table(SHARED / "data/ofa_mbv3/latency_devices.parquet").to_pydict()
    texts = [
        f'{{"ks": {ks}, "e": {e}, "d": {d}, "image_size": {resolution}}}'
        for ks, e, d, resolution in zip(table["ks"], table["e"], table["d"], table["resolution"], strict=True)
    ]
    space = MobileNetV3()
    genes = space.from_notation(texts)
    assert space.valid(genes).all()
    assert len(set(space.keys(genes))) == len(texts) == 5000
    assert space.notation(genes) == texts


def test_notation_is_once_for_alls() -> None:
    space = MobileNetV3()
    good: dict[str, Any] = {"ks": [5, 7, 0, 0] * STAGES, "e": [6, 4, 0, 0] * STAGES, "d": [2] * 5, "image_size": 160}
    config = space.to_configs(space.from_notation([json.dumps(good)]))[0]
    assert config == published(good["ks"], good["e"], good["d"], 160)
    for wrong, message in (
        (good | {"d": [2] * 6}, "d must be a list of 5"),
        (good | {"d": [2, 2, 2, 2, 3]}, r"ks\[18\] is 0"),
        (good | {"e": [6, 5, 0, 0] * STAGES}, r"e\[1\] is 5"),
        (good | {"image_size": 100}, "image_size is 100"),
        (list(good), "must be an object of"),
    ):
        with pytest.raises(InvalidArchitecture, match=f"^row 0: notation: {message}"):
            space.from_notation([json.dumps(wrong)])


BAD: list[tuple[dict[str, Any], str]] = [
    ({"no_such": 1}, "no_such"),
    ({"classes": 0}, "classes"),
    ({"classes": "10"}, "classes"),
    ({"classes": True}, "classes"),
    ({"classes": 10.0}, "classes"),
    ({"in_channels": -1}, "in_channels"),
    ({"resolutions": []}, "resolutions"),
    ({"resolutions": 32}, "resolutions"),
    ({"resolutions": "32"}, "resolutions"),
    ({"resolutions": [32, 32]}, "resolutions"),
    ({"resolutions": [0]}, "resolutions"),
    ({"resolutions": list(range(1, 129))}, "resolutions"),
    (
        {
            "resolutions": list(range(1, 128)),
            "kernels": list(range(1, 32, 2)),
            "expansions": [*range(1, 17)],
            "depths": [16],
        },
        "resolutions",
    ),
    ({"depths": [17]}, "depths"),
    ({"stage_widths": [8] * 17}, "stage_widths"),
    ({"kernels": [3, 4]}, "kernels"),
    ({"kernels": [3, None]}, "kernels"),
    ({"expansions": [1.5]}, "expansions"),
    ({"depths": [2, 0]}, "depths"),
    ({"stage_widths": []}, "stage_widths"),
    ({"stage_widths": [24, 40]}, "stage_strides"),
    ({"stage_se": [0, 1, 0, 1, 1]}, "stage_se"),
    ({"stage_activations": ["relu", "relu", "gelu", "relu", "relu"]}, "stage_activations"),
    ({"stage_strides": [2, 2, 2, 1]}, "stage_strides"),
    ({"stem_width": 10**9}, "stem_width"),
    ({"width_mult": 0}, "width_mult"),
    ({"width_mult": float("nan")}, "width_mult"),
    ({"width_mult": "1"}, "width_mult"),
    ({"identity": "rows"}, "identity"),
    (
        {"resolutions": [4096], "stem_stride": 1, "stage_strides": [1] * 5, "stage_widths": [4096] * 5, "width_mult": 8}
        | {"expansions": [16], "kernels": [31], "depths": [16]},
        "resolutions",
    ),
]


@pytest.mark.parametrize(("options", "field"), BAD, ids=[f"{field}-{n}" for n, (_, field) in enumerate(BAD)])
def test_bad_options_are_refused_by_field(options: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidSpace) as refused:
        MobileNetV3(**options)
    assert refused.value.field == field
    assert str(refused.value).startswith(f"{field}: ")


def test_options_are_complete_and_json() -> None:
    space = MobileNetV3(classes=10, width_mult=1)
    stored = json.loads(json.dumps(space.options))
    assert stored == space.options
    assert MobileNetV3(**stored).digest == space.digest
    assert MobileNetV3(classes=10).digest == space.digest, "1 and 1.0 are one width"
    assert MobileNetV3(classes=11).digest != space.digest
    assert MobileNetV3(classes=10, identity="row").digest != space.digest


def test_channels_round_as_the_mobilenet_family_does() -> None:
    widths = {value: divisible(value) for value in (1, 8, 11, 12, 18, 19, 20, 60, 200.0, 4.0)}
    # 11 is rounded down to 8, which is below 90 % of it, and therefore up.
    assert widths == {1: 8, 8: 8, 11: 16, 12: 16, 18: 24, 19: 24, 20: 24, 60: 64, 200.0: 200, 4.0: 8}


def test_mutants_grow_under_a_restriction() -> None:
    """A block that becomes active needs allowed options, whatever stood in its padded place."""
    space = MobileNetV3()
    rules = {choice.name: choice.options[1:] for choice in space.choices if choice.name.endswith(("kernel", "expand"))}
    confined, rng = space.restrict(rules), np.random.default_rng(0)
    shallow = confined.extremes()[[0] * 2000]
    mutants = confined.mutate(shallow, rng)
    grown = (confined.active(mutants).sum(axis=1) > confined.active(shallow).sum(axis=1)).mean()
    # 5 of the 26 active choices are depths, each is redrawn at a rate of 1/46, or is the one that is forced.
    assert grown > 0.15
    column = [choice.name for choice in space.choices].index("stage1.block3.kernel")
    active = confined.active(mutants)[:, column]
    assert set(mutants[active, column].tolist()) == {1, 2}


def test_depth_is_as_likely_as_the_networks_it_has() -> None:
    space = MobileNetV3()
    depths = np.array(space.choices[1].options)[space.sample(20_000, np.random.default_rng(0))[:, 1]]
    # 9 settings per block: 9², 9³ and 9⁴ networks of depth 2, 3 and 4.
    assert np.mean(depths == 4) == pytest.approx(9**4 / (9**2 + 9**3 + 9**4), abs=0.01)
    assert np.mean(depths == 3) == pytest.approx(9**3 / (9**2 + 9**3 + 9**4), abs=0.01)


def test_distinct_keeps_the_first_of_each() -> None:
    rows = np.random.default_rng(0).integers(0, 2, (5000, 9)).astype(np.int8)
    kept = distinct(rows)
    assert [tuple(row) for row in kept.tolist()] == list(dict.fromkeys(tuple(row) for row in rows.tolist()))


def test_the_graph_of_a_small_network() -> None:
    space = MobileNetV3(
        depths=[1, 2],
        stage_widths=[16, 24],
        stage_strides=[1, 2],
        stage_se=[False, False],
        stage_activations=["relu", "relu"],
        resolutions=[32, 64],
    )
    genes = space.from_configs(
        [
            {
                "resolution": 64,
                "stage1.depth": 2,
                "stage1.block1.kernel": 3,
                "stage1.block1.expand": 6,
                "stage1.block2.kernel": 5,
                "stage1.block2.expand": 3,
                "stage2.depth": 1,
                "stage2.block1.kernel": 7,
                "stage2.block1.expand": 4,
            },
            {"resolution": 32, "stage1.depth": 1, "stage1.block1.kernel": 3, "stage1.block1.expand": 3}
            | {"stage2.depth": 1, "stage2.block1.kernel": 3, "stage2.block1.expand": 3},
        ]
    )
    graphs = space.graphs(genes)
    labels = [[graphs.labels[o] if o >= 0 else "" for o in row] for row in graphs.operations.tolist()]
    assert labels[0] == ["input_64", "stem", "first", "mb6_k3", "mb3_k5", "mb4_k7", "output"]
    assert labels[1] == ["input_32", "stem", "first", "mb3_k3", "mb3_k3", "output", ""]
    edges = {(int(a), int(b)) for a, b in np.argwhere(graphs.adjacency[0])}
    # The first block and both blocks of stage 1 keep 16 channels and add their input; the strided block does not.
    assert edges == {(0, 1), *itertools.combinations([1, 2, 3, 4, 5], 2), (5, 6)}
    edges = {(int(a), int(b)) for a, b in np.argwhere(graphs.adjacency[1])}
    assert edges == {(0, 1), *itertools.combinations([1, 2, 3, 4], 2), (4, 5)}


@pytest.mark.parametrize(
    "shape", [(1, 8, 8), (1, 12, 12), (1, 28, 28), (3, 32, 32), (3, 48, 64), (3, 96, 96), (3, 128, 128), (3, 224, 200)]
)
def test_options_for_a_data_set(shape: tuple[int, int, int]) -> None:
    space = MobileNetV3(**scaled(shape, 10))
    resolutions = space.choices[0].options
    assert len(resolutions) > 2
    assert max(shape[1:]) / 2 < min(resolutions) < max(resolutions) <= max(shape[1:])
    macs = space.cost(space.extremes())["macs"]
    assert macs[1] > 8 * macs[0]
    # No two kernels may do the same at any resolution: on a map of side s, taps further than s - 1 read only padding.
    strides = [space.options["stem_stride"], *space.options["stage_strides"]]
    side = min(resolutions)
    for stride in strides:
        side = -(-side // stride)
    assert max(space.options["kernels"]) <= 2 * side - 1


@pytest.mark.parametrize(("shape", "field"), [((0, 8, 8), "channels"), ((1, 8, -8), "width"), ((1, 8.0, 8), "height")])
def test_bad_shapes_are_refused(shape: Any, field: str) -> None:
    with pytest.raises(InvalidSpace) as refused:
        scaled(shape, 10)
    assert refused.value.field == field
