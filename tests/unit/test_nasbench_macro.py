"""NAS-Bench-Macro: published costs and accuracies, which rows compute the same, restrictions, notation and networks."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import defaultdict
from functools import cache
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor, nn

from search_spaces.nasbench_macro import NasBenchMacro
from search_spaces.space import Genes, InvalidArchitecture, InvalidSpace, Unsupported
from tests.shared import SHARED, needs_shared
from tests.spaces.nasbench_macro import TINY

# Several threads that wait for one another on a busy machine take many times as long as one.
torch.set_num_threads(1)

SPACE, ROWS = NasBenchMacro(), NasBenchMacro(identity="row")
SMALL, SMALL_ROWS = NasBenchMacro(**TINY), NasBenchMacro(**TINY, identity="row")
EVERY: Genes = np.array(list(itertools.product(range(3), repeat=8)), dtype=np.int8)


@cache
def table() -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = pq.read_table(SHARED / "data" / "nas_bench_macro" / "cifar10.parquet").to_pydict()
    return found


# ---------------------------------------------------------------------- what is published


@needs_shared
def test_published_costs_of_all_rows() -> None:
    """Exactly, as written: millions in 32 bits. What is called FLOPs there are multiply-accumulates."""
    genes = ROWS.from_notation(table()["arch"])
    assert len(np.unique(genes, axis=0)) == 6_561
    for metric, column in (("params", "params_m"), ("macs", "flops_m")):
        np.testing.assert_array_equal((ROWS.cost(genes)[metric] / 1e6).astype(np.float32), table()[column])
    assert ROWS.notation(genes) == table()["arch"]


@needs_shared
def test_classes_are_what_was_trained() -> None:
    """Three accuracies of all rows of a class are those of one network; no two classes share them."""
    genes = SPACE.from_notation(table()["arch"])
    runs = np.stack([table()[f"test_acc_run{run}"] for run in (1, 2, 3)], axis=1)
    of_class = defaultdict(set)
    for key, accuracies in zip(SPACE.keys(genes), runs.tolist(), strict=True):
        of_class[key].add(tuple(accuracies))
    assert len(of_class) == 3_969
    assert {len(trained) for trained in of_class.values()} == {1}
    assert len(set.union(*of_class.values())) == 3_969
    # So seeds differ within a class only between its three runs.
    assert np.sqrt(runs.var(axis=1, ddof=1).mean()) == pytest.approx(0.213, abs=0.001)


# ---------------------------------------------------------------------- which rows are the same


def test_there_are_3969_functions() -> None:
    canonical = SPACE.canonical(EVERY)
    distinct = np.unique(canonical, axis=0)
    assert len(distinct) == SPACE.cardinality == 9 * 21 * 21 == 3_969
    assert ROWS.cardinality == len(np.unique(ROWS.canonical(EVERY), axis=0)) == 6_561
    for metric, values in ROWS.cost(EVERY).items():
        np.testing.assert_array_equal(SPACE.cost(canonical)[metric], values, err_msg="rows of a class cost the same")
    # Behind an identity that keeps the shape, nothing else of the stage comes.
    for before, after in ((3, 4), (6, 7)):
        assert not distinct[:, after][distinct[:, before] == 0].any()


def test_what_is_united_and_what_is_not() -> None:
    def key(text: str) -> str:
        return SPACE.keys(SPACE.from_notation([text]))[0]

    assert key("01" + "102" + "021") == key("01" + "120" + "021")
    assert key("01" + "120" + "021") != key("01" + "210" + "021"), "blocks do not commute"
    assert key("01" + "012" + "021") != key("01" + "120" + "021"), "an identity that changes the shape has weights"
    assert key("01" + "110" + "000") != key("01" + "100" + "100"), "stages do not mix"
    assert key("10" + "110" + "000") != key("01" + "110" + "000")


def drawn(network: nn.Module, seed: int) -> nn.Module:
    """With other weights, offsets of batch norms included; double."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in network.double().parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator, dtype=torch.float64))
    return network


def test_rows_of_a_class_compute_the_same() -> None:
    """With any weights, in training mode. Layers without weights have none to move: the rest keeps its order."""
    every = np.array(list(itertools.product(range(3), repeat=6)), dtype=np.int8)
    canonical = SMALL.canonical(every)
    moved = np.flatnonzero((canonical != every).any(axis=1))
    images = torch.randn(3, 2, 9, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for index in np.random.default_rng(0).choice(moved, 12, replace=False):
        row = drawn(SMALL_ROWS.build(every[index]), int(index))
        stands_for = SMALL.build(canonical[index]).double()
        weights = zip(stands_for.state_dict(), row.state_dict().values(), strict=True)
        stands_for.load_state_dict(dict(weights))
        with torch.no_grad():
            torch.testing.assert_close(stands_for(images), row(images), rtol=1e-9, atol=1e-9)


def test_different_classes_compute_differently() -> None:
    """One network of each class; what stands at a place has one set of weights."""
    images = torch.randn(2, 2, 9, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows = SMALL.sample(1_000, np.random.default_rng(0))
    assert len(rows) == SMALL.cardinality == 3 * (3 * 7) * (3 * 3)
    blocks = [drawn(SMALL_ROWS.build(np.full(6, gene)), gene).get_submodule("blocks") for gene in range(3)]
    whole = drawn(SMALL_ROWS.build(rows[0]), 9)
    outputs: set[tuple[float, ...]] = set()
    for row in rows.tolist():
        chosen = nn.Sequential(*(blocks[gene].get_submodule(str(place)) for place, gene in enumerate(row)))
        whole.add_module("blocks", chosen)
        with torch.no_grad():
            outputs.add(tuple(np.round(whole(images).flatten().tolist(), 9)))
    assert len(outputs) == len(rows)


def test_keys_of_all_rows_never_change() -> None:
    """What is stored is found by them: another row standing for a class would lose its measurements."""
    for space, expected in (
        (SPACE, "f271e63c033dd3fe860b08c56eeb681fc3fe8efc66bcb002869bc3cdb085ee96"),
        (ROWS, "b1763e4e4939cc6ec6e662f9984bf3665d4a3b48d52ba67b2f879916e5abdf1f"),
    ):
        assert hashlib.sha256("".join(space.keys(EVERY)).encode()).hexdigest() == expected
    assert (SPACE.digest, ROWS.digest) == ("76c8ae4aa1a301d78868b865e7ce2c52", "a3111980278aea094be2cdd5a0d5f23f")


# ---------------------------------------------------------------------- restrictions


def test_a_restriction_binds_what_is_built() -> None:
    """An identity that stands first in a row, and last in the canonical one."""
    confined = SPACE.restrict({"layer4": ["mb3_k3", "mb6_k5"]})
    rows = SPACE.from_notation(["00010000", "00001000", "00021000", "00000000"])
    assert confined.valid(rows).tolist() == [True, True, True, False]
    with pytest.raises(InvalidArchitecture, match="'identity' is restricted") as refused:
        confined.check(rows[2:])
    assert (refused.value.row, refused.value.field) == (1, "layer4")
    assert confined.cardinality == 9 * (3 * (2 + 4)) * 21
    found = confined.sample(10_000, np.random.default_rng(0))
    assert len(found) == confined.cardinality
    assert (found[:, 3] > 0).all()


def test_rules_that_leave_nothing() -> None:
    """The canonical row would have to skip before a layer that is not skipped."""
    impossible = SPACE.restrict({"layer4": ["identity"], "layer5": ["mb3_k3"]})
    assert impossible.cardinality == 0
    assert len(impossible.sample(5, np.random.default_rng(0))) == 0
    with pytest.raises(InvalidSpace, match="no architecture"):
        impossible.extremes()
    assert ROWS.restrict({"layer4": ["identity"], "layer5": ["mb3_k3"]}).cardinality == 3**6


# ---------------------------------------------------------------------- options, notation, graphs, networks


BAD: list[tuple[dict[str, Any], str]] = [
    ({"no_such": 1}, "no_such"),
    ({"classes": 0}, "classes"),
    ({"in_channels": True}, "in_channels"),
    ({"resolution": 32.0}, "resolution"),
    ({"channels": 1024}, "channels"),
    ({"stage_depths": []}, "stage_depths"),
    ({"stage_depths": [2, 0]}, "stage_depths"),
    ({"stage_depths": [1] * 7}, "stage_depths"),
    ({"stage_depths": 3}, "stage_depths"),
    ({"feature_width": "1280"}, "feature_width"),
    ({"identity": "layer"}, "identity"),
]


@pytest.mark.parametrize(("options", "field"), BAD, ids=[f"{field}-{n}" for n, (_, field) in enumerate(BAD)])
def test_bad_options_are_refused_by_field(options: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidSpace) as refused:
        NasBenchMacro(**options)
    assert refused.value.field == field


def test_options_are_complete_and_json() -> None:
    stored = json.loads(json.dumps(SPACE.options))
    assert NasBenchMacro(**stored).digest == SPACE.digest == NasBenchMacro(classes=10, stage_depths=[2, 3, 3]).digest
    assert len({SPACE.digest, ROWS.digest, NasBenchMacro(classes=100).digest, SMALL.digest}) == 4


@pytest.mark.parametrize("text", ["1120122", "112012200", "11201223", "1120122O", "1 1 2 0 1 2 2 0", "¹1201220"])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(InvalidArchitecture, match=r"^row 1: notation: must be 8 digits 0 to 2") as refused:
        SPACE.from_notation(["11201220", text])
    assert (refused.value.row, refused.value.field) == (1, "notation")


def test_there_is_no_super_network() -> None:
    with pytest.raises(Unsupported, match="no super-network"):
        SPACE.supernet()


def test_graphs_leave_out_what_does_nothing() -> None:
    graphs = SPACE.graphs(SPACE.from_notation(["02" + "010" + "100"]))
    labels = [graphs.labels[operation] for operation in graphs.operations[0]]
    assert labels == ["input", "stem", "conv_1x1", "mb6_k5", "conv_1x1", "mb3_k3", "mb3_k3", "output"]
    edges = {(int(a), int(b)) for a, b in np.argwhere(graphs.adjacency[0])}
    # The second and the fifth layer keep the shape: their input flows past them.
    assert edges == {(0, 1), (1, 2), (2, 3), (2, 4), (3, 4), (4, 5), (4, 6), (5, 6), (6, 7)}


def test_the_network_is_the_published_one() -> None:
    """Names are Once-for-All's; shapes, strides, and where something is added are the published code's."""
    genes = ROWS.from_notation(["01200021"])
    network = ROWS.build(genes[0]).eval()
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items() if "weight" in name}
    assert shapes["first_conv.conv.weight"] == (32, 3, 3, 3)
    assert shapes["blocks.0.conv.weight"] == (64, 32, 1, 1)
    assert shapes["blocks.1.conv.inverted_bottleneck.conv.weight"] == (192, 64, 1, 1)
    assert shapes["blocks.1.conv.depth_conv.conv.weight"] == (192, 1, 3, 3)
    assert shapes["blocks.2.conv.depth_conv.conv.weight"] == (384, 1, 5, 5)
    assert shapes["blocks.2.conv.point_linear.conv.weight"] == (128, 384, 1, 1)
    assert shapes["feature_mix_layer.conv.weight"] == (1280, 256, 1, 1)
    assert shapes["classifier.linear.weight"] == (10, 1280)
    assert not any(name.startswith(("blocks.3.", "blocks.4.")) for name in shapes)
    assert [sum(each.numel() for each in network.parameters())] == ROWS.cost(genes)["params"].tolist()

    x = torch.randn(1, 32, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        seen: list[Tensor] = [x]
        for layer in network.get_submodule("blocks").children():
            seen.append(layer(seen[-1]))
        assert [each.shape[-1] for each in seen[1:]] == [16, 16, 8, 8, 8, 4, 4, 4]
        assert (seen[1] < 0).any(), "no ReLU behind an identity that changes the shape"
        block = network.get_submodule("blocks.1")
        torch.testing.assert_close(seen[2], seen[1] + block.get_submodule("conv")(seen[1]))
        torch.testing.assert_close(seen[3], network.get_submodule("blocks.2.conv")(seen[2]))
        assert seen[4] is seen[3]
