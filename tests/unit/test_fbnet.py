"""FBNet: published counts and latencies, which rows compute the same, notation and networks."""

from __future__ import annotations

import hashlib
import itertools
import json
from functools import cache
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor, nn

from search_spaces.fbnet import OPERATIONS, FBNet
from search_spaces.networks.layout import Block, Skip
from search_spaces.networks.mobile import Shuffle
from search_spaces.space import FloatArray, Genes, InvalidArchitecture, InvalidSpace, Unsupported, distinct
from tests.shared import SHARED, needs_shared
from tests.spaces.fbnet import TINY

# Several threads that wait for one another on a busy machine take many times as long as one.
torch.set_num_threads(1)

SPACE, ROWS = FBNet(), FBNet(identity="row")
SMALL, SMALL_ROWS = FBNet(**TINY), FBNet(**TINY, identity="row")
EVERY_SMALL: Genes = np.array(list(itertools.product(range(9), repeat=3)), dtype=np.int8)

# The networks of the paper by the 22 layers of the published code, a stage a line.
FBNET_A = """
skip
k3_e3.k3_e1.skip.skip
k5_e6.k3_e3.k5_e1.k3_e3
k5_e6.k5_e3.k5_e1_g2.k5_e6
k3_e6.k5_e1_g2.k5_e3.k3_e1_g2
k5_e6.k5_e6.k5_e3.k5_e6
k5_e6
"""
FBNET_B = """
k3_e1
k3_e6.k5_e1.k3_e1.k3_e1
k5_e6.k5_e3.k3_e6.k5_e6
k5_e6.k5_e1.skip.k5_e3
k5_e6.k3_e1.k5_e1.k5_e3
k5_e6.k5_e1.k5_e6.k5_e6
k3_e6
"""
FBNET_C = """
k3_e1
k3_e6.skip.k3_e1.k3_e1
k5_e6.k5_e3.k5_e6.k3_e6
k5_e6.k5_e3.k5_e6.k5_e6
k5_e6.k5_e6.k5_e6.k5_e3
k5_e6.k5_e6.k5_e6.k5_e6
k3_e6
"""


def text(lines: str) -> str:
    return ".".join(lines.split())


# ---------------------------------------------------------------------- what is published

TWICE_3X3 = 2 * 9 - 25
"""Weights per channel: two depthwise 3×3 convolutions one behind the other, less a 5×5."""


@pytest.mark.parametrize(
    ("lines", "features", "macs", "weights", "twice"),
    [
        (FBNET_A, 1504, 249_921_848, 4_286_480, []),
        (FBNET_B, 1984, 295_561_032, 4_777_296, [(6 * 32, 28)]),
        (FBNET_C, 1984, 382_984_480, 5_520_784, [(6 * 32, 28), (6 * 112, 14)]),
    ],
    ids="ABC",
)
def test_published_counts(lines: str, features: int, macs: int, weights: int, twice: list[tuple[int, int]]) -> None:
    """FBNet-A's to the last digit. Those of B and C are counted for blocks that the space has not: ``twice`` (channels,
    side) have two depthwise 3×3 convolutions in place of a 5×5, as a comment in the published code says.

    Published are the weights of convolutions, without norms and biases.
    """
    space = FBNet(feature_width=features)
    genes = space.from_notation([text(lines)])
    assert space.cost(genes)["macs"][0] + sum(TWICE_3X3 * channels * side**2 for channels, side in twice) == macs
    counted = int(space.cost(genes)["params"][0]) + sum(TWICE_3X3 * channels for channels, _ in twice)
    beside = sum(each.numel() for each in space.build(genes[0]).parameters() if each.ndim == 1)
    assert counted - beside == weights


@cache
def table() -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = pq.read_table(SHARED / "data" / "fbnet" / "latency_devices.parquet").to_pydict()
    return found


@needs_shared
def test_published_rows_are_read_and_written() -> None:
    genes = ROWS.from_notation(table()["arch"])
    assert ROWS.notation(genes) == table()["arch"]
    np.testing.assert_array_equal(ROWS.from_notation(table()["op_idx"]), genes)
    assert len(set(SPACE.keys(genes))) == len(set(ROWS.keys(genes))) == 5_000
    assert len(np.unique(SPACE.cost(genes)["macs"])) > 4_900


def alike(space: FBNet, genes: Genes) -> FloatArray:
    """(n, kinds + 1): how often an operation stands in a layer of one shape at one resolution, then 1."""
    side, kinds, columns = space.options["resolution"], dict[tuple[int, ...], int](), []
    for options in space._layers:
        shape = (options[0].inputs, options[0].outputs, options[0].stride, side)
        columns.append(kinds.setdefault(shape, len(kinds)))
        side = -(-side // options[0].stride)
    counts = np.zeros((len(genes), len(kinds) * 9 + 1))
    for column, gene in zip(columns, genes.T, strict=True):
        counts[np.arange(len(genes)), 9 * column + gene] += 1
    counts[:, -1] = 1
    return counts


@needs_shared
@pytest.mark.parametrize("device", ["eyeriss", "raspi4"])
def test_layers_of_one_shape_take_the_same_time(device: str) -> None:
    """On these devices latencies were summed up layer by layer: so the shapes show which layers are alike."""
    genes, latency = ROWS.from_notation(table()["arch"])[:600], np.array(table()[device])[:600]

    def unexplained(space: FBNet) -> float:
        counts = alike(space, genes)
        rest = latency - counts @ np.linalg.lstsq(counts, latency, rcond=None)[0]
        return float(rest.std() / latency.std())

    assert unexplained(ROWS) < 1e-5
    assert unexplained(FBNet(stage_depths=[2, 4, 4, 4, 4, 3, 1])) > 0.1, "another layer begins each stage"


# ---------------------------------------------------------------------- which rows are the same


def test_how_many_there_are() -> None:
    assert SPACE.cardinality == (9 * (1 + 8 + 8**2 + 8**3)) ** 5 * 9**2 == 327_700_343_401_999_790_625
    assert ROWS.cardinality == 9**22
    # The second stage of the small space has the width of the first: their last two layers are one run.
    canonical = distinct(SMALL.canonical(EVERY_SMALL))
    assert len(canonical) == SMALL.cardinality == 9 * (1 + 8 + 64)


def test_what_is_united_and_what_is_not() -> None:
    def key(*layers: str) -> str:
        return SPACE.keys(SPACE.from_notation([".".join(("skip", *layers, *["skip"] * (21 - len(layers))))]))[0]

    assert key("k3_e1", "skip", "k5_e6", "skip") == key("k3_e1", "k5_e6")
    assert key("k3_e1", "skip", "skip", "k5_e6") == key("k3_e1", "k5_e6")
    assert key("skip", "k3_e1") != key("k3_e1", "skip"), "a skip that changes the shape has weights"
    assert key("k3_e1", "k3_e3", "k5_e6") != key("k3_e1", "k5_e6", "k3_e3"), "blocks do not commute"
    assert key("skip", "skip", "skip", "k3_e1") != key("skip", "skip", "skip", "skip", "k3_e1")
    first, last = ([name, *["k3_e1"] * 20, "skip"] for name in ("skip", "k5_e1"))
    assert len({*SPACE.keys(SPACE.from_notation([".".join(first), ".".join(last)]))}) == 2, "a run of one layer"


def drawn(network: nn.Module, seed: int) -> nn.Module:
    """With other weights, offsets of batch norms included; double."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in network.double().parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator, dtype=torch.float64))
    return network


def test_rows_of_a_class_compute_the_same() -> None:
    """With any weights, in training mode. Layers without weights have none to move: the rest keeps its order."""
    canonical = SMALL.canonical(EVERY_SMALL)
    moved = np.flatnonzero((canonical != EVERY_SMALL).any(axis=1))
    assert len(moved) == 9 * 8
    images = torch.randn(3, 2, 9, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for index in np.random.default_rng(0).choice(moved, 12, replace=False):
        row = drawn(SMALL_ROWS.build(EVERY_SMALL[index]), int(index))
        stands_for = SMALL.build(canonical[index]).double()
        stands_for.load_state_dict(dict(zip(stands_for.state_dict(), row.state_dict().values(), strict=True)))
        with torch.no_grad():
            torch.testing.assert_close(stands_for(images), row(images), rtol=1e-9, atol=1e-9)


def test_different_classes_compute_differently() -> None:
    """A quarter of them; what stands at a place has one set of weights."""
    images = torch.randn(2, 2, 9, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows = SMALL.sample(160, np.random.default_rng(0))
    blocks = [drawn(SMALL_ROWS.build(np.full(3, gene)), gene).get_submodule("blocks") for gene in range(9)]
    whole = drawn(SMALL_ROWS.build(rows[0]), 9)
    outputs: set[tuple[float, ...]] = set()
    for row in rows.tolist():
        chosen = nn.Sequential(*(blocks[gene].get_submodule(str(place)) for place, gene in enumerate(row)))
        whole.add_module("blocks", chosen)
        with torch.no_grad():
            outputs.add(tuple(np.round(whole(images).flatten().tolist(), 9)))
    assert len(outputs) == len(rows) == 160


def test_keys_never_change() -> None:
    """What is stored is found by them: another row standing for a class would lose its measurements."""
    numbers = np.frombuffer(hashlib.shake_128(b"rows").digest(22 * 2_000), dtype=np.uint8).reshape(2_000, 22)
    rows = (numbers % SPACE.sizes).astype(np.int8)
    assert len(np.unique(rows, axis=0)) == 2_000
    assert (SPACE.canonical(rows) != rows).any(axis=1).sum() == 1322
    for space, expected in (
        (SPACE, "1af9efe8c35cf1874ff0340c577b3348fa246271a93ccea0632441af074b7964"),
        (ROWS, "c3b8f70384dce37badcf1943775f0a3d8b52ea8d0aad089b3be62f1ccbc4aaee"),
    ):
        assert hashlib.sha256("".join(space.keys(rows)).encode()).hexdigest() == expected
    assert (SPACE.digest, ROWS.digest) == ("d4496d7f0d4dbe6b0c6b9092f9e60b40", "71b383b3d95c7f0314e42198fcd49787")


def test_a_restriction_binds_what_is_built() -> None:
    """Layer 3 may not be skipped: so neither may all of layers 3 to 5 be."""
    confined = SPACE.restrict({"layer3": OPERATIONS[:8], "layer4": ["k3_e1", "skip"]})
    rows = SPACE.from_notation([text(FBNET_A), text(FBNET_C), text(FBNET_B)])
    assert confined.valid(rows).tolist() == [True, True, True]
    assert ROWS.restrict({"layer3": OPERATIONS[:8]}).valid(rows).tolist() == [True, False, True]
    assert confined.cardinality == SPACE.cardinality // 585 * (8 + 8 * 1 + 8 * 1 * 8)
    rows[0, 2:5] = OPERATIONS.index("skip")
    with pytest.raises(InvalidArchitecture, match="'skip' is restricted") as refused:
        confined.check(rows)
    assert (refused.value.row, refused.value.field) == (0, "layer3")
    found = confined.sample(2_000, np.random.default_rng(0))
    assert confined.valid(found).all()
    assert len(found) == 2_000


# ---------------------------------------------------------------------- options, notation, graphs, networks

BAD: list[tuple[dict[str, Any], str]] = [
    ({"no_such": 1}, "no_such"),
    ({"classes": 0}, "classes"),
    ({"stem_width": 15}, "stem_width"),
    ({"stem_stride": 0}, "stem_stride"),
    ({"stage_widths": [16, 24, 32, 64, 111, 184, 352]}, "stage_widths"),
    ({"stage_widths": [16]}, "stage_strides"),
    ({"stage_depths": [1, 4]}, "stage_depths"),
    ({"stage_depths": [0, 4, 4, 4, 4, 4, 1]}, "stage_depths"),
    ({"resolution": None}, "resolution"),
    ({"feature_width": 5000}, "feature_width"),
    ({"identity": "layer"}, "identity"),
]


@pytest.mark.parametrize(("options", "field"), BAD, ids=[f"{field}-{n}" for n, (_, field) in enumerate(BAD)])
def test_bad_options_are_refused_by_field(options: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidSpace) as refused:
        FBNet(**options)
    assert refused.value.field == field


def test_options_are_complete_and_json() -> None:
    stored = json.loads(json.dumps(SPACE.options))
    assert FBNet(**stored).digest == SPACE.digest == FBNet(classes=1000, stage_strides=[1, 2, 2, 2, 1, 2, 1]).digest
    assert len({SPACE.digest, ROWS.digest, FBNet(classes=100).digest, SMALL.digest}) == 4


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (text(FBNET_A)[5:], "must be 22 operations"),
        (text(FBNET_A) + ".skip", "must be 22 operations"),
        (text(FBNET_A).replace("k5_e6.k3_e3", "k7_e6.k3_e3"), "layer6 is 'k7_e6', operations are"),
        (text(FBNET_A).replace(".", ","), "must be 22 operations"),
        (str([0] * 21), "must be 22 operations"),
        (str([0] * 20 + [9, 0]), r"layer21 is '9', operations are \['0'"),
        (str([0] * 21 + ["0"]), "must be 22 operations"),
        (str([0.0] * 22), "must be 22 operations"),
        ("[" + "9" * 5_000 + ",0" * 21 + "]", "layer1 is"),
    ],
)
def test_other_texts_are_refused(wrong: str, message: str) -> None:
    with pytest.raises(InvalidArchitecture, match=message) as refused:
        SPACE.from_notation([text(FBNET_A), wrong])
    assert (refused.value.row, refused.value.field) == (1, "notation")


def test_there_is_no_super_network() -> None:
    with pytest.raises(Unsupported, match="no super-network"):
        SPACE.supernet()


def test_graphs_leave_out_what_does_nothing() -> None:
    graphs = SMALL.graphs(SMALL.from_notation(["skip.skip.k5_e1_g2", "k3_e1.k3_e1.k3_e1"]))
    labels = [graphs.labels[operation] for operation in graphs.operations[0] if operation >= 0]
    assert labels == ["input", "stem", "conv_1x1", "k5_e1_g2", "output"]
    edges = [{(int(a), int(b)) for a, b in np.argwhere(each)} for each in graphs.adjacency]
    assert edges[0] == {(0, 1), (1, 2), (2, 3), (2, 4), (3, 4)}
    assert edges[1] == {(0, 1), (1, 2), (2, 3), (2, 4), (2, 5), (3, 4), (3, 5), (4, 5)}


def test_a_layer_of_two_groups_mixes_them() -> None:
    shuffled = Shuffle(2)(torch.arange(6.0).reshape(1, 6, 1, 1))
    assert shuffled.flatten().tolist() == [0, 3, 1, 4, 2, 5]
    batch = ({0: torch.export.Dim("batch", min=1)},)
    exported = torch.export.export(Shuffle(2), (torch.zeros(3, 6, 1, 1),), dynamic_shapes=batch)
    assert exported.module()(torch.zeros(7, 6, 1, 1)).shape == (7, 6, 1, 1), "of any size of batch"
    block = drawn(SMALL_ROWS.build(SMALL_ROWS.from_notation(["skip.k3_e1_g2.skip"])[0]), 0).eval()
    block = block.get_submodule("blocks.1")
    parts = {
        name: block.get_submodule(f"conv.{name}") for name in ("inverted_bottleneck", "depth_conv", "point_linear")
    }
    first, last = (parts[name].get_parameter("conv.weight") for name in ("inverted_bottleneck", "point_linear"))
    assert first.shape == last.shape == (6, 3, 1, 1)

    def in_groups(x: Tensor, weight: Tensor) -> Tensor:
        halves = zip(x.chunk(2, dim=1), weight.flatten(1).chunk(2), strict=True)
        return torch.cat([torch.einsum("nchw,oc->nohw", half, rows) for half, rows in halves], dim=1)

    x = torch.randn(2, 6, 5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        expanded = parts["inverted_bottleneck"].get_submodule("bn")(in_groups(x, first)).relu()
        behind = parts["depth_conv"](expanded[:, [0, 3, 1, 4, 2, 5]])
        expected = x + parts["point_linear"].get_submodule("bn")(in_groups(behind, last))
        torch.testing.assert_close(block(x), expected)


def test_a_skip_that_changes_the_shape_is_a_convolution() -> None:
    network = SMALL_ROWS.build(SMALL_ROWS.from_notation(["skip.skip.skip"])[0]).eval()
    blocks = network.get_submodule("blocks")
    assert [len(list(block.parameters())) for block in blocks.children()] == [3, 0, 0]
    x = torch.randn(2, 4, 9, 9, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        made: Tensor = blocks(x)
    assert made.shape == (2, 6, 5, 5)
    assert made.min() == 0, "ReLU behind it"
    convolution = blocks.get_submodule("0.conv")
    assert isinstance(convolution, nn.Conv2d)
    assert (convolution.kernel_size, convolution.stride) == ((1, 1), (2, 2))


def test_one_network_of_full_size_runs() -> None:
    """FBNet-A on images of 64 pixels: its parameters are those counted; shapes and strides the paper's."""
    space = FBNet(feature_width=1504, resolution=64)
    row = space.from_notation([text(FBNET_A)])[0]
    network = space.build(row).eval()
    assert sum(each.numel() for each in network.parameters()) == space.cost(row[None])["params"][0] == 4_321_464
    with torch.no_grad():
        seen = network.get_submodule("first_conv")(torch.zeros(1, 3, 64, 64))
        shapes = []
        for layer in network.get_submodule("blocks").children():
            seen = layer(seen)
            shapes.append((seen.shape[1], seen.shape[2]))
    stages = [(16, 32), (24, 16), (32, 8), (64, 4), (112, 4), (184, 2), (352, 2)]
    assert shapes == [shape for shape, depth in zip(stages, (1, 4, 4, 4, 4, 4, 1), strict=True) for _ in range(depth)]


def test_options_stand_for_what_they_say() -> None:
    for name, layer in zip(OPERATIONS, SPACE._layers[1], strict=True):
        if isinstance(layer, Block):
            groups = "_g2" if layer.groups == 2 else ""
            assert name == f"k{layer.kernel}_e{layer.middle // layer.inputs}{groups}"
        else:
            assert isinstance(layer, Skip)
            assert name == "skip"
