"""The ResNet50 space: published sizes, widths that come to the same, its super-network against the published one."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from search_spaces.resnet50 import ResNet50
from search_spaces.space import Genes, InvalidArchitecture, InvalidSpace
from search_spaces.supernets.resnet50 import ResNet50Supernet
from tests.spaces.resnet50 import TINY_RESNET

# Several threads that wait for one another on a busy machine take many times as long as one.
torch.set_num_threads(1)

SPACE = ResNet50()
PLACES = 18


def text(d: Any, e: Any, w: Any, image_size: int = 224) -> str:
    return json.dumps({"d": d, "e": e, "w": w, "image_size": image_size})


def columns(space: ResNet50, ending: str) -> list[int]:
    return [column for column, choice in enumerate(space.choices) if choice.name.endswith(ending)]


def test_the_defaults_are_the_published_space() -> None:
    assert len(SPACE.choices) == 4 + 2 * 4 + PLACES
    assert [choice.name for choice in SPACE.choices[:8]] == [
        "resolution",
        "stem.depth",
        "stem.first.width",
        "stem.last.width",
        "stage1.depth",
        "stage1.width",
        "stage1.block1.expand",
        "stage1.block2.expand",
    ]
    smallest, largest = SPACE.to_configs(SPACE.extremes())
    assert [smallest[f"stage{stage}.depth"] for stage in (1, 2, 3, 4)] == [2, 2, 4, 2]
    assert [largest[f"stage{stage}.depth"] for stage in (1, 2, 3, 4)] == [4, 4, 6, 4]
    assert SPACE.notation(SPACE.extremes()) == [
        text([0] * 5, [0.2] * PLACES, [0] * 6, 128),
        text([2] * 5, [0.35] * PLACES, [2] * 6, 224),
    ]
    # Published are 0, 1 and 2 further blocks, 3 expansions, 3 widths; the stem's first convolution has 24 channels at
    # two of them.
    stages = [3 * sum(3 ** (least + more) for more in (0, 1, 2)) for least in (2, 2, 4, 2)]
    assert SPACE.cardinality == 25 * 2 * 2 * 3 * math.prod(stages)
    assert ResNet50(identity="row").cardinality == 25 * 2 * 3 * 3 * math.prod(3 * 3 * 3**most for most in (4, 4, 6, 4))


def test_resnet_50_d_is_as_large_as_it_is() -> None:
    """Blocks 3, 4, 6, 3 of full width and a quarter inside: He et al., CVPR 2019.

    ResNet-50 has 25,557,032 parameters and 4,089,184,256 MACs with the stride in the 3×3 convolution (torchvision's).
    Model D has three 3×3 convolutions, 3 → 32 → 32 → 64, in place of the 7×7 one, and pools what it projects.
    """
    row = SPACE.from_notation([text([2, 1, 2, 2, 1], [0.25] * PLACES, [2] * 6)])
    stem = 9 * (3 * 32 + 32 * 32 + 32 * 64)
    assert {name: int(values[0]) for name, values in SPACE.cost(row).items()} == {
        "params": 25_557_032 - (49 * 3 * 64 + 2 * 64) + stem + 2 * (32 + 32 + 64),
        "macs": 4_089_184_256 + 112**2 * (stem - 49 * 3 * 64),
    }


def test_the_super_network_is_as_large_as_the_published_file() -> None:
    """Of 192,773,235 bytes: its tensors, and for each some 200 bytes of names and archive."""
    state = ResNet50Supernet(SPACE, device="meta").state_dict()
    held = sum(value.numel() * value.element_size() for value in state.values())
    assert 100 < (192_773_235 - held) / len(state) < 300
    assert {name for name in state if name.startswith(("input_stem", "classifier")) and name.endswith(".weight")} == {
        "input_stem.0.conv.conv.weight",
        "input_stem.0.bn.bn.weight",
        "input_stem.1.conv.conv.conv.weight",
        "input_stem.1.conv.bn.bn.weight",
        "input_stem.2.conv.conv.weight",
        "input_stem.2.bn.bn.weight",
        "classifier.linear.linear.weight",
    }
    projecting = [0, 4, 8, 14]
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    assert {name for name in state if name.startswith("blocks.")} == {
        f"blocks.{block}.{layer}.{key}"
        for block in range(PLACES)
        for layer in ("conv1", "conv2", "conv3", *["downsample"] * (block in projecting))
        for key in ("conv.conv.weight", *(f"bn.bn.{each}" for each in norm))
    }


def test_channels_are_those_of_the_published_networks() -> None:
    """Of published networks of width 0.65 and expansion 0.2: 40 channels behind the stem, 168 and 32 in stage 1, …"""
    smallest = SPACE.layout(SPACE.extremes()[0])
    assert (smallest.stem.middle, smallest.stem.outputs) == (24, 40)
    assert [block.outputs for block in smallest.blocks] == [168] * 2 + [336] * 2 + [664] * 4 + [1328] * 2
    assert [block.middle for block in smallest.blocks] == [32] * 2 + [64] * 2 + [136] * 4 + [264] * 2
    assert [block.stride for block in smallest.blocks if block.projects] == [1, 2, 2, 2]


def test_widths_that_come_to_the_same_are_one_architecture() -> None:
    """In the published space: 0.65 and 0.8 in the stem's first convolution, 24 channels; nothing else."""
    rng = np.random.default_rng(0)
    genes = SPACE.sample(500, rng)
    first = columns(SPACE, "stem.first.width")[0]
    for option, expected in ((1, 0), (2, 2)):
        other = genes.copy()
        other[:, first] = option
        np.testing.assert_array_equal(SPACE.canonical(other)[:, first], expected)
    for column in range(len(SPACE.choices)):
        if column != first:
            moved = genes.copy()
            moved[:, column] = (moved[:, column] + 1) % SPACE.sizes[column]
            same = (SPACE.canonical(moved) == genes).all(axis=1)
            np.testing.assert_array_equal(same, ~SPACE.active(genes)[:, column])
    rows = ResNet50(identity="row")
    np.testing.assert_array_equal(rows.canonical(other), other)


def test_canonical_rows_are_told_apart_by_shapes() -> None:
    """Complete: no two architectures of a listable space have layers of the same shapes."""
    space = ResNet50(**TINY_RESNET)
    genes = space.sample(10_000, np.random.default_rng(0))
    assert len(genes) == space.cardinality
    layouts = [space.layout(row) for row in genes]
    assert len({(each.resolution, each.stem, each.blocks) for each in layouts}) == len(genes)


def test_expansions_are_united_at_the_width_of_their_stage() -> None:
    """8 channels: 4, 6 and 8 all come to 8; of 16 channels 8, 12 and 16 come to 8, 16 and 16."""
    space = ResNet50(**TINY_RESNET)
    config = {"resolution": 8, "stem.depth": 0, "stem.first.width": 1.0, "stem.last.width": 1.0, "stage1.depth": 1}
    united = {}
    for width in (0.5, 1.0):
        configs = [config | {"stage1.width": width, "stage1.block1.expand": ratio} for ratio in (0.5, 0.75, 1.0)]
        united[width] = [
            c["stage1.block1.expand"] for c in space.to_configs(space.canonical(space.from_configs(configs)))
        ]
    assert united == {0.5: [0.5, 0.5, 0.5], 1.0: [0.5, 0.75, 0.75]}


def test_restrictions_that_leave_few_or_none() -> None:
    """A restriction binds the canonical row: expansion 0.75 alone leaves nothing where it stands for 0.5."""
    space = ResNet50(**TINY_RESNET)
    confined = space.restrict({"stage1.block1.expand": [0.75]})
    drawn = confined.sample(1000, np.random.default_rng(0))
    assert len(drawn) == confined.cardinality > 0
    assert {config["stage1.width"] for config in confined.to_configs(drawn)} == {1.0}
    macs = confined.cost(drawn)["macs"]
    assert confined.cost(confined.extremes())["macs"].tolist() == [macs.min(), macs.max()]
    nothing = confined.restrict({"stage1.width": [0.5]})
    assert nothing.cardinality == 0
    assert len(nothing.sample(5, np.random.default_rng(0))) == 0
    with pytest.raises(InvalidSpace, match="no architecture"):
        nothing.extremes()


def test_keys_of_the_published_space_never_change() -> None:
    assert (SPACE.digest, *SPACE.keys(SPACE.extremes())) == (
        "93b27358e0a21378a60b7944e9338cd9",
        "64f82155c634ba9a663a62326d261830",
        "e9cfa6694f399d4d236653e89b538a78",
    )


# ---------------------------------------------------------------------- notation


def test_notation_is_once_for_alls() -> None:
    d, w = [0, 0, 1, 2, 2], [2, 0, 1, 2, 0, 1]
    e = [0.2, 0.25, 0, 0] + [0.35] * 14
    config = SPACE.to_configs(SPACE.from_notation([text(d, e, w, 128)]))[0]
    assert config["stem.depth"] == 0
    assert [config[f"stage{stage}.depth"] for stage in (1, 2, 3, 4)] == [2, 3, 6, 4]
    assert [config["stem.first.width"], config["stem.last.width"]] == [1.0, 0.65]
    assert [config[f"stage{stage}.width"] for stage in (1, 2, 3, 4)] == [0.8, 1.0, 0.65, 0.8]
    assert "stage1.block3.expand" not in config
    # Ranks, whatever the order of the options.
    other = ResNet50(width_mults=[1.0, 0.65, 0.8])
    assert other.to_configs(other.from_notation([text(d, e, w, 128)]))[0] == config
    assert json.loads(other.notation(other.from_notation([text(d, e, w, 128)]))[0])["w"] == w


GOOD: dict[str, Any] = {"d": [2] * 5, "e": [0.2] * PLACES, "w": [0] * 6, "image_size": 224}
WRONG: dict[str, tuple[Any, str]] = {
    "no object": ([1], "must be an object"),
    "a list missing": ({name: GOOD[name] for name in ("d", "e", "image_size")}, "must be an object"),
    "another list": (GOOD | {"ks": [3]}, "must be an object"),
    "too short": (GOOD | {"e": [0.2] * 17}, "e must be a list of 18"),
    "no list": (GOOD | {"w": 2}, "w must be a list of 6"),
    "another expansion": (GOOD | {"e": [0.3] + [0.2] * 17}, r"e\[0\] is 0.3"),
    "0 in a block that is there": (GOOD | {"e": [0] + [0.2] * 17}, r"e\[0\] is 0"),
    "another depth": (GOOD | {"d": [2, 2, 3, 2, 2]}, r"d\[2\] is 3"),
    "half a stem": (GOOD | {"d": [1, 2, 2, 2, 2]}, r"d\[0\] is 1"),
    "another width": (GOOD | {"w": [0, 0, 0, 3, 0, 0]}, r"w\[3\] is 3"),
    "a boolean": (GOOD | {"w": [True, 0, 0, 0, 0, 0]}, r"w\[0\] is True"),
    "a list in a list": (GOOD | {"w": [[0], 0, 0, 0, 0, 0]}, r"w\[0\] is \[0\]"),
    "another size": (GOOD | {"image_size": 225}, "image_size is 225"),
}


@pytest.mark.parametrize("wrong", list(WRONG))
def test_bad_notation_is_refused(wrong: str) -> None:
    given, message = WRONG[wrong]
    with pytest.raises(InvalidArchitecture, match=f"^row 1: notation: {message}"):
        SPACE.from_notation([json.dumps(GOOD), json.dumps(given)])


# ---------------------------------------------------------------------- options


BAD: list[tuple[dict[str, Any], str]] = [
    ({"no_such": 1}, "no_such"),
    ({"depths": [-1]}, "depths"),
    ({"depths": []}, "depths"),
    ({"expansions": [0.2, 0.2]}, "expansions"),
    ({"expansions": [0]}, "expansions"),
    ({"width_mults": ["1"]}, "width_mults"),
    ({"stage_widths": [256]}, "stage_strides"),
    ({"stage_depths": [2, 2, 4]}, "stage_depths"),
    ({"stage_depths": [0, 2, 4, 2]}, "stage_depths"),
    ({"width_mults": [each / 10 for each in range(1, 10)]}, "width_mults"),
    ({"pool_stride": 0}, "pool_stride"),
    (
        {"resolutions": [4096], "expansions": [8], "width_mults": [8], "stem_stride": 1, "pool_stride": 1}
        | {"stage_strides": [1] * 4},
        "resolutions",
    ),
    ({"resolutions": list(range(1, 129))}, "resolutions"),
    ({"identity": "rows"}, "identity"),
]


@pytest.mark.parametrize(("options", "field"), BAD, ids=[f"{field}-{n}" for n, (_, field) in enumerate(BAD)])
def test_bad_options_are_refused_by_field(options: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidSpace) as refused:
        ResNet50(**options)
    assert refused.value.field == field


def test_options_are_complete_and_json() -> None:
    space = ResNet50(classes=10, width_mults=[1, 0.5])
    stored = json.loads(json.dumps(space.options))
    assert stored == space.options
    assert ResNet50(**stored).digest == space.digest


# ---------------------------------------------------------------------- graphs


def test_the_graph_of_a_small_network() -> None:
    rows = SPACE.from_notation(
        [text([2, 0, 0, 0, 0], [0.2, 0.35] * 9, [1, 2, 0, 1, 2, 0]), text([0] * 5, [0.25] * PLACES, [2] * 6, 128)]
    )
    graphs = SPACE.graphs(rows)
    names = [[graphs.labels[o] for o in row if o >= 0] for row in graphs.operations.tolist()]
    # 0.8 stands for 24 channels in the stem's first convolution, as 0.65 does.
    assert names[0][:6] == [
        "input_224",
        "conv3x3_w0.65",
        "residual_conv3x3",
        "conv3x3_w1",
        "projected_k3_e0.2_w0.65",
        "bottleneck_k3_e0.35_w0.65",
    ]
    assert names[1] == [
        "input_128",
        *["conv3x3_w1"] * 2,
        *(["projected_k3_e0.25_w1", "bottleneck_k3_e0.25_w1"] * 2),
        *(["projected_k3_e0.25_w1"] + ["bottleneck_k3_e0.25_w1"] * 3),
        *["projected_k3_e0.25_w1", "bottleneck_k3_e0.25_w1"],
        "output",
    ]
    edges = {(int(a), int(b)) for a, b in np.argwhere(graphs.adjacency[0])}
    chain = {(node, node + 1) for node in range(len(names[0]) - 1)}
    assert edges == chain | {(1, 3)}, "what the first convolution gives flows past the residual one"
    edges = {(int(a), int(b)) for a, b in np.argwhere(graphs.adjacency[1])}
    assert edges == {(node, node + 1) for node in range(len(names[1]) - 1)}


# ---------------------------------------------------------------------- weights

SMALL = ResNet50(
    **TINY_RESNET
    | {"width_mults": [0.5, 1.0], "stem_width": 32, "expansions": [0.5, 1.0], "resolutions": [9]}
    | {"stage_widths": [32, 48], "stage_strides": [1, 2], "stage_depths": [1, 2]}
)


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    """Random weights and statistics under the published names, in double precision."""
    rng = np.random.default_rng(0)
    state = SMALL.supernet().double().state_dict()
    return {
        name: torch.from_numpy(0.5 + rng.random(value.shape)) if value.is_floating_point() else value
        for name, value in state.items()
    }


def published(weights: dict[str, Tensor], row: Genes, images: Tensor) -> Tensor:
    """A sub-network as its paper and the names of its weights have it: the first channels of every layer."""
    layout = SMALL.layout(row)

    def conv(name: str, x: Tensor, outputs: int, stride: int = 1) -> Tensor:
        kernel = weights[f"{name}.conv.conv.weight"][:outputs, : x.shape[1]]
        y = F.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)
        mean, variance, gain, shift = (
            weights[f"{name}.bn.bn.{part}"][:outputs, None, None]
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (y - mean) / (variance + 1e-5).sqrt() * gain + shift

    x = conv("input_stem.0", images, layout.stem.middle, layout.stem.stride).relu()
    if layout.stem.residual:
        x = x + conv("input_stem.1.conv", x, layout.stem.middle).relu()
    x = conv("input_stem.2", x, layout.stem.outputs).relu()
    x = F.max_pool2d(x, 3, layout.pool_stride, 1)
    for block in layout.blocks:
        name = f"blocks.{block.place}"
        y = conv(f"{name}.conv1", x, block.middle).relu()
        y = conv(f"{name}.conv2", y, block.middle, block.stride).relu()
        y = conv(f"{name}.conv3", y, block.outputs)
        if block.projects:
            x = F.avg_pool2d(x, block.stride, block.stride, ceil_mode=True)
            x = conv(f"{name}.downsample", x, block.outputs)
        x = (x + y).relu()
    x = x.mean((2, 3))
    return x @ weights["classifier.linear.linear.weight"][:, : x.shape[1]].T + weights["classifier.linear.linear.bias"]


def test_sub_networks_compute_what_the_published_names_mean(weights: dict[str, Tensor]) -> None:
    supernet = SMALL.supernet().double().eval()
    supernet.load_state_dict(weights)
    images = torch.from_numpy(np.random.default_rng(1).standard_normal((2, 2, 9, 9)))
    for row in np.concatenate([SMALL.extremes(), SMALL.sample(4, np.random.default_rng(2))]):
        with torch.no_grad():
            expected = published(weights, row, images)
            torch.testing.assert_close(supernet(images, row), expected, rtol=1e-9, atol=1e-9)
            torch.testing.assert_close(supernet.extract(row)(images), expected, rtol=1e-9, atol=1e-9)


def test_extracts_have_the_published_names() -> None:
    supernet = SMALL.supernet()
    smallest, largest = (set(supernet.extract(row).state_dict()) for row in SMALL.extremes())
    assert {name for name in smallest if name.startswith("input_stem") and "weight" in name} == {
        f"input_stem.{layer}.{part}.weight" for layer in (0, 1) for part in ("conv", "bn")
    }
    assert {"input_stem.1.conv.conv.weight", "input_stem.2.conv.weight"} <= largest
    assert {"blocks.0.downsample.conv.weight", "blocks.0.conv2.bn.running_var", "classifier.linear.bias"} <= smallest
    assert not any("blocks.1.downsample" in name for name in largest)


def test_a_plain_network_of_the_largest_size_loads(weights: dict[str, Tensor]) -> None:
    """As published training begins: under the names of a plain network."""
    supernet = SMALL.supernet().double().eval()
    supernet.load_state_dict(weights)
    plain = supernet.extract(SMALL.extremes()[1]).state_dict()
    again = SMALL.supernet().double()
    again.load_state_dict(plain)
    assert all(torch.equal(value, weights[name]) for name, value in again.state_dict().items())
    with pytest.raises(RuntimeError, match=r"Unexpected key.*blocks\.9"):
        again.load_state_dict(plain | {"blocks.9.conv1.conv.weight": plain["blocks.0.conv1.conv.weight"]})
