"""The ProxylessNAS space: published networks and their sizes, its super-network against the published one."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from search_spaces.proxylessnas import ProxylessNAS
from search_spaces.space import Genes, InvalidArchitecture, InvalidSpace
from search_spaces.supernets.proxylessnas import ProxylessNASSupernet
from tests.spaces.proxylessnas import TINY_PROXYLESS

# Several threads that wait for one another on a busy machine take many times as long as one.
torch.set_num_threads(1)

SPACE = ProxylessNAS()
STAGES, DEPTH = 5, 4
Stages = list[list[tuple[int, int]]]
"""(kernel, expansion) of each block, stage by stage."""


def published(stages: Stages, resolution: int) -> dict[str, Any]:
    """A network as a config."""
    config: dict[str, Any] = {"resolution": resolution}
    for stage, blocks in enumerate(stages, 1):
        if stage <= STAGES:
            config[f"stage{stage}.depth"] = len(blocks)
        for block, (kernel, expansion) in enumerate(blocks, 1):
            config[f"stage{stage}.block{block}.kernel"] = kernel
            config[f"stage{stage}.block{block}.expand"] = expansion
    return config


def test_the_defaults_are_the_published_space() -> None:
    assert len(SPACE.choices) == 1 + STAGES * (1 + 2 * DEPTH) + 2
    assert [choice.name for choice in SPACE.choices[-3:]] == [
        "stage5.block4.expand",
        "stage6.block1.kernel",
        "stage6.block1.expand",
    ]
    smallest, largest = SPACE.to_configs(SPACE.extremes())
    assert smallest == published([[(3, 3)] * 2] * STAGES + [[(3, 3)]], 128)
    assert largest == published([[(7, 6)] * DEPTH] * STAGES + [[(7, 6)]], 224)
    assert SPACE.cardinality == 25 * (9**2 + 9**3 + 9**4) ** STAGES * 9


SPECIALISED: dict[str, tuple[Stages, int, str, str, list[int]]] = {
    "Jetson TX2, 96 ms": (
        [
            [(3, 3), (3, 4), (3, 6)],
            [(7, 3), (5, 4)],
            [(3, 4), (5, 4), (5, 4), (5, 3)],
            [(5, 4), (7, 3), (7, 3), (3, 6)],
            [(3, 6), (3, 6), (5, 6), (3, 4)],
            [(5, 3)],
        ],
        172,
        "6.2M",
        "349M",
        [72, 128, 192, 96, 224, 224, 416, 416, 312, 416, 384, 384, 768, 768, 1488, 1488, 992, 744],
    ),
    "Jetson TX2, 35 ms": (
        [[(3, 4), (3, 3)], [(3, 6), (7, 6)], [(5, 6), (5, 3)], [(5, 3), (3, 4)], [(5, 6), (3, 4)], [(5, 4)]],
        128,
        "4.3M",
        "121M",
        [96, 96, 192, 336, 336, 312, 312, 512, 768, 992, 992],
    ),
}
"""Networks that Once-for-All publishes, at width 1.3: side of the images, parameters, MACs, channels inside blocks."""


@pytest.mark.parametrize("name", list(SPECIALISED))
def test_specialised_networks_have_their_published_sizes(name: str) -> None:
    stages, resolution, params, macs, middles = SPECIALISED[name]
    row = SPACE.from_configs([published(stages, resolution)])
    costs = SPACE.cost(row)
    assert (f"{costs['params'][0] / 1e6:.1f}M", f"{costs['macs'][0] / 1e6:.0f}M") == (params, macs)
    layout = SPACE.layout(row[0])
    assert (layout.stem, layout.blocks[0].outputs, layout.final) == (40, 24, 1664)
    assert [block.middle for block in layout.blocks[1:]] == middles
    assert sorted({block.outputs for block in layout.blocks[1:]}) == [32, 56, 104, 128, 248, 416]


WIDER: dict[str, Any] = {"width_mult": 1.0, "depths": [1, 2, 3, 4], "resolutions": [224]}
ORIGINAL: dict[str, tuple[dict[str, Any], Stages, int]] = {
    "mobile": (
        {"stage_widths": [32, 40, 80, 96, 192, 320]},
        [
            [(5, 3), (3, 3)],
            [(7, 3), (3, 3), (5, 3), (5, 3)],
            [(7, 6), (5, 3), (5, 3), (5, 3)],
            [(5, 6), (5, 3), (5, 3), (5, 3)],
            [(7, 6), (7, 6), (7, 3), (7, 3)],
            [(7, 6)],
        ],
        4_080_512,
    ),
    "cpu": (
        {"stem_width": 40, "first_width": 24, "stage_widths": [32, 48, 88, 104, 216, 360], "feature_width": 1432},
        [
            [(3, 6), (3, 3), (3, 3), (3, 3)],
            [(3, 6), (3, 3), (3, 3), (5, 3)],
            [(3, 6), (3, 3)],
            [(5, 6), (3, 3), (3, 3), (3, 3)],
            [(5, 6), (5, 3), (5, 3), (3, 3)],
            [(5, 6)],
        ],
        4_361_648,
    ),
    "gpu": (
        {"stem_width": 40, "first_width": 24, "stage_widths": [32, 56, 112, 128, 256, 432], "feature_width": 1728},
        [
            [(5, 3)],
            [(7, 3), (3, 3)],
            [(7, 6), (5, 3)],
            [(5, 6), (3, 3), (5, 3)],
            [(7, 6), (7, 6), (7, 6), (5, 6)],
            [(7, 6)],
        ],
        7_119_848,
    ),
}
"""The networks that ProxylessNAS found (Cai, Zhu & Han, ICLR 2019), and their parameters."""


@pytest.mark.parametrize("name", list(ORIGINAL))
def test_the_original_networks_have_their_sizes(name: str) -> None:
    options, stages, params = ORIGINAL[name]
    space = ProxylessNAS(**(WIDER | options))
    costs = space.cost(space.from_configs([published(stages, 224)]))
    assert int(costs["params"][0]) == params
    if name == "mobile":
        assert f"{costs['macs'][0] / 1e6:.0f}M" == "320M"


def test_keys_of_the_published_space_never_change() -> None:
    assert (SPACE.digest, *SPACE.keys(SPACE.extremes())) == (
        "757823ca8677fb2c59e87270fd5e317c",
        "87b774e863281ce421c5625c0aa7b29c",
        "7babd8e1b88ca0c0efd17cdeca62e3aa",
    )


# ---------------------------------------------------------------------- notation


def test_notation_is_once_for_alls() -> None:
    stages, resolution, *_ = SPECIALISED["Jetson TX2, 35 ms"]
    config = published(stages, resolution)
    # Blocks that are cut off are 0 in published tables, or whatever stood there.
    lists = {
        name: [value for blocks in stages[:STAGES] for value in [*(pair[i] for pair in blocks), 0, 0]]
        + [stages[-1][0][i]]
        for i, name in enumerate(("ks", "e"))
    }
    given = {**lists, "d": [2] * STAGES + [1], "image_size": resolution}
    row = SPACE.from_notation([json.dumps(given)])
    np.testing.assert_array_equal(row, SPACE.from_configs([config]))
    written = json.loads(SPACE.notation(row)[0])
    assert list(written) == ["ks", "e", "d", "image_size"]
    assert written["d"] == given["d"]
    assert written["ks"][:3] == [3, 3, 3], "the first option stands in a block that is cut off"


GOOD: dict[str, Any] = {"ks": [3] * 21, "e": [3] * 21, "d": [2] * 5 + [1], "image_size": 224}
WRONG: dict[str, tuple[Any, str]] = {
    "a number": (3, "must be an object"),
    "a list missing": ({"ks": [3] * 21, "e": [3] * 21, "image_size": 224}, "must be an object"),
    "one depth too few": (GOOD | {"d": [2] * 5}, "d must be a list of 6"),
    "a longer last stage": (GOOD | {"d": [2] * 6}, "the last stage has 1 blocks, not 2"),
    "another depth": (GOOD | {"d": [2, 2, 5, 2, 2, 1]}, r"d\[2\] is 5"),
    "another kernel": (GOOD | {"ks": [3] * 20 + [4]}, r"ks\[20\] is 4"),
    "0 in a block that is there": (GOOD | {"e": [3, 0] + [3] * 19}, r"e\[1\] is 0"),
    "0 in the last stage": (GOOD | {"e": [3] * 20 + [0]}, r"e\[20\] is 0"),
    "a boolean": (GOOD | {"ks": [True] + [3] * 20}, r"ks\[0\] is True"),
    "another size": (GOOD | {"image_size": 225}, "image_size is 225"),
}


@pytest.mark.parametrize("wrong", list(WRONG))
def test_bad_notation_is_refused(wrong: str) -> None:
    given, message = WRONG[wrong]
    with pytest.raises(InvalidArchitecture, match=f"^row 1: notation: {message}"):
        SPACE.from_notation([json.dumps(GOOD), json.dumps(given)])


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"no_such": 1}, "no_such"),
        ({"stage_widths": [24], "stage_strides": [2]}, "stage_widths"),
        ({"stage_strides": [2, 2, 2, 1, 2]}, "stage_strides"),
        ({"kernels": [4]}, "kernels"),
        ({"depths": [0]}, "depths"),
        ({"feature_width": "wide"}, "feature_width"),
        ({"stage_se": [False] * 6}, "stage_se"),
        ({"identity": "rows"}, "identity"),
    ],
)
def test_bad_options_are_refused_by_field(options: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidSpace) as refused:
        ProxylessNAS(**options)
    assert refused.value.field == field


# ---------------------------------------------------------------------- weights

SMALL = ProxylessNAS(
    **(TINY_PROXYLESS | {"kernels": [3, 5, 7], "expansions": [3, 1], "stage_strides": [1, 2, 1], "resolutions": [9]})
)


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    """Random weights and statistics under the published names, in double precision."""
    rng = np.random.default_rng(0)
    state = SMALL.supernet().double().state_dict()
    return {
        name: torch.from_numpy(0.2 + rng.random(value.shape) * 0.3) if value.is_floating_point() else value
        for name, value in state.items()
    }


def computed(weights: dict[str, Tensor], row: Genes, images: Tensor) -> Tensor:
    """A sub-network as its paper and the names of its weights have it, batch norm with an epsilon of 0.001."""

    def norm(name: str, x: Tensor) -> Tensor:
        mean, variance, gain, shift = (
            weights[f"{name}.{part}"][: x.shape[1], None, None]
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (variance + 1e-3).sqrt() * gain + shift

    def fixed(name: str, x: Tensor, stride: int = 1, groups: int = 1) -> Tensor:
        kernel = weights[f"{name}.conv.weight"]
        return norm(f"{name}.bn", F.conv2d(x, kernel, None, stride, kernel.shape[-1] // 2, 1, groups))

    def point(name: str, x: Tensor, outputs: int) -> Tensor:
        kernel = weights[f"{name}.conv.conv.weight"][:outputs, : x.shape[1]]
        return norm(f"{name}.bn.bn", F.conv2d(x, kernel))

    def depthwise(name: str, x: Tensor, size: int, stride: int) -> Tensor:
        kernel = weights[f"{name}.conv.conv.weight"][: x.shape[1]]
        for large, small in ((7, 5), (5, 3)):
            if size < large:
                centre = kernel[:, 0, 1:-1, 1:-1].reshape(-1, small**2)
                kernel = (centre @ weights[f"{name}.conv.{large}to{small}_matrix"].T).view(-1, 1, small, small)
        return norm(f"{name}.bn.bn", F.conv2d(x, kernel, None, stride, size // 2, 1, x.shape[1]))

    layout = SMALL.layout(row)
    x = fixed("first_conv", images, layout.stem_stride).clamp(0, 6)
    x = fixed("blocks.0.conv.depth_conv", x, groups=layout.stem).clamp(0, 6)
    x = fixed("blocks.0.conv.point_linear", x)
    for block in layout.blocks[1:]:
        name = f"blocks.{block.place}.conv"
        y = point(f"{name}.inverted_bottleneck", x, block.middle).clamp(0, 6)
        y = depthwise(f"{name}.depth_conv", y, block.kernel, block.stride).clamp(0, 6)
        y = point(f"{name}.point_linear", y, block.outputs)
        x = x + y if block.stride == 1 and block.inputs == block.outputs else y
    x = fixed("feature_mix_layer", x).clamp(0, 6).mean((2, 3))
    return x @ weights["classifier.linear.weight"].T + weights["classifier.linear.bias"]


def test_sub_networks_compute_what_the_published_names_mean(weights: dict[str, Tensor]) -> None:
    supernet = SMALL.supernet().double().eval()
    supernet.load_state_dict(weights)
    images = torch.from_numpy(np.random.default_rng(1).standard_normal((2, 2, 9, 9)))
    for row in np.concatenate([SMALL.extremes(), SMALL.sample(4, np.random.default_rng(2))]):
        with torch.no_grad():
            expected = computed(weights, row, images)
            torch.testing.assert_close(supernet(images, row), expected, rtol=1e-9, atol=1e-9)
            torch.testing.assert_close(supernet.extract(row)(images), expected, rtol=1e-9, atol=1e-9)


def test_the_super_network_has_the_published_names() -> None:
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    fixed = ("first_conv", "feature_mix_layer", "blocks.0.conv.depth_conv", "blocks.0.conv.point_linear")
    names = {"classifier.linear.weight", "classifier.linear.bias"}
    for layer in fixed:
        names |= {f"{layer}.conv.weight", *(f"{layer}.bn.{each}" for each in norm)}
    for block in range(1, 1 + STAGES * DEPTH + 1):
        for layer in ("inverted_bottleneck", "depth_conv", "point_linear"):
            prefix = f"blocks.{block}.conv.{layer}"
            names |= {f"{prefix}.conv.conv.weight", *(f"{prefix}.bn.bn.{each}" for each in norm)}
        names |= {f"blocks.{block}.conv.depth_conv.conv.{each}_matrix" for each in ("7to5", "5to3")}
    supernet = ProxylessNASSupernet(SPACE, device="meta")
    assert set(supernet.state_dict()) == names
    assert supernet.get_parameter("blocks.21.conv.point_linear.conv.conv.weight").shape == (416, 6 * 248, 1, 1)


def test_checkpoints_of_before_the_rename_load(weights: dict[str, Tensor]) -> None:
    old = {name.replace(".conv.", ".mobile_inverted_conv.", int(name.startswith("blocks"))): value
           for name, value in weights.items()}  # fmt: skip
    assert old.keys() != weights.keys()
    supernet = SMALL.supernet().double()
    supernet.load_state_dict(old)
    assert all(torch.equal(value, weights[name]) for name, value in supernet.state_dict().items())


def test_the_first_block_never_adds_its_input() -> None:
    """Nor where rounding makes stem and first block equally wide, unlike MobileNetV3's."""
    narrow = ProxylessNAS(width_mult=0.25).first_block
    assert (narrow.inputs, narrow.outputs, narrow.stride) == (8, 8, 1)
    assert not narrow.residual


def test_a_published_network_is_built() -> None:
    row = SPACE.extremes()[0]
    network = SPACE.build(row).eval()
    with torch.no_grad():
        assert network(torch.zeros(1, *SPACE.input_shape(row))).shape == (1, 1000)
    assert sum(each.numel() for each in network.parameters()) == int(SPACE.cost(row[None])["params"][0])
    assert {each.eps for each in network.modules() if isinstance(each, torch.nn.BatchNorm2d)} == {1e-3}
