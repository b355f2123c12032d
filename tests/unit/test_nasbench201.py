"""NAS-Bench-201: the published tables, which cells compute the same, and the networks that are built."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from search_spaces.cells import EDGES, live
from search_spaces.nasbench201 import OPERATIONS, NasBench201
from search_spaces.networks.nasbench201 import Cell
from search_spaces.space import Genes, InvalidArchitecture, InvalidSpace, Unsupported
from tests.shared import SHARED, needs_shared

SPACE, ROWS = NasBench201(), NasBench201(identity="row")
EVERY: Genes = np.array(list(itertools.product(range(5), repeat=6)), dtype=np.int8)
CONVOLUTIONS = ("nor_conv_1x1", "nor_conv_3x3")


def table(name: str, *columns: str) -> dict[str, Any]:
    parquet = pytest.importorskip("pyarrow.parquet")
    found = parquet.read_table(SHARED / f"data/nb201/{name}.parquet", columns=["idx", *columns]).to_pydict()
    assert found["idx"] == list(range(15_625))
    return found  # type: ignore[no-any-return]


def cell(e01: str, e02: str, e12: str, e03: str, e13: str, e23: str) -> Genes:
    """One row (1, 6) from operations in short."""
    names = {"0": "none", "skip": "skip_connect", "c1": "nor_conv_1x1", "c3": "nor_conv_3x3", "pool": "avg_pool_3x3"}
    return np.array([[OPERATIONS.index(names[o]) for o in (e01, e02, e12, e03, e13, e23)]], dtype=np.int8)


def key(*operations: str) -> str:
    return SPACE.keys(cell(*operations))[0]


# ---------------------------------------------------------------------- published tables


@needs_shared
def test_published_strings_are_read_and_written() -> None:
    edges = [choice.name for choice in SPACE.choices]
    found = table("archs", "arch_str", *edges)
    genes = SPACE.from_notation(found["arch_str"])
    np.testing.assert_array_equal(genes, np.stack([found[edge] for edge in edges], axis=1))
    assert SPACE.notation(genes) == found["arch_str"]
    assert len(set(ROWS.keys(genes))) == 15_625


@needs_shared
def test_costs_are_the_published_ones() -> None:
    """Parameters of all rows, and MACs.

    The table was derived by counting more than multiply-accumulates: beside them 9 operations per output of a pooling,
    3 per output of a convolution for its ReLU and batch norm, and the same for the fixed parts of the network.
    Subtracting these leaves what papers quote as FLOPs, and what is counted here as MACs.
    """
    found = table("archs", "arch_str", "params_m", "flops_m")
    genes = SPACE.from_notation(found["arch_str"])
    costs = ROWS.cost(genes)
    np.testing.assert_array_equal(costs["params"], np.round(np.array(found["params_m"]) * 1e6))
    outputs = 5 * sum((16 << stage) * (32 >> stage) ** 2 for stage in range(3))
    convolutions, pools = (genes == 2).sum(axis=1) + (genes == 3).sum(axis=1), (genes == 4).sum(axis=1)
    counted = costs["macs"] + 160_832 + 3 * outputs * convolutions + 9 * outputs * pools
    np.testing.assert_array_equal(counted, np.round(np.array(found["flops_m"]) * 1e6))


def test_the_cost_that_papers_quote() -> None:
    """A cell of three 3×3 convolutions has 0.802 M parameters and 113.95 M MACs (Dong & Yang, 2020)."""
    costs = SPACE.cost(
        SPACE.from_notation(
            [
                "|c~0|+|c~0|p~1|+|s~0|c~1|s~2|".replace("c", "nor_conv_3x3")
                .replace("p~", "avg_pool_3x3~")
                .replace("s~", "skip_connect~")
            ]
        )
    )
    assert {name: int(values[0]) for name, values in costs.items()} == {"params": 802_426, "macs": 113_951_360}


@needs_shared
def test_cut_off_cells_are_those_at_chance() -> None:
    """The two edge orders in circulation differ here: only the right one makes all cut-off cells score 10 %."""
    genes = SPACE.from_notation(table("archs", "arch_str")["arch_str"])
    accuracy = np.array(table("cifar10_acc", "test_acc_200")["test_acc_200"])
    cut_off = (SPACE.canonical(genes) == 0).all(axis=1)
    assert cut_off.sum() == 341
    np.testing.assert_array_equal(cut_off, np.round(accuracy, 2) == 10.00)


@needs_shared
def test_cells_of_one_class_train_alike() -> None:
    """Trained apart, in other networks of other cost, they differ by the seed alone: some 0.26 points."""
    genes = SPACE.from_notation(table("archs", "arch_str")["arch_str"])
    accuracy = np.array(table("cifar10_acc", "test_acc_200")["test_acc_200"])
    kept = accuracy > 10.005
    canonical = SPACE.canonical(genes[kept])

    def pooled(groups: Any) -> float:
        _, group, size = np.unique(groups, return_inverse=True, return_counts=True, axis=0)
        group = group.ravel()
        rest = accuracy[kept] - (np.bincount(group, weights=accuracy[kept]) / size)[group]
        return float(np.sqrt((rest**2).sum() / (len(rest) - len(size))))

    assert pooled(canonical) == pytest.approx(0.26, abs=0.03)
    # Equal cost does not make equal networks: the classes say more.
    assert pooled(SPACE.cost(canonical)["macs"]) > 3


@needs_shared
def test_how_many_cells_of_a_class_disagree() -> None:
    """Of the 11,212 cells that were trained beside another one of their class 3.6 % lie beyond 1.96 standard deviations
    of the seed from its mean, and 1.1 % beyond three: fewer than 5 % do by chance, more than 0.3 %. Seeds have heavy
    tails; cells of large classes are no further off than those of pairs.
    """
    genes = SPACE.from_notation(table("archs", "arch_str")["arch_str"])
    accuracy = np.array(table("cifar10_acc", "test_acc_200")["test_acc_200"])
    kept = accuracy > 10.005
    _, group, size = np.unique(SPACE.canonical(genes[kept]), return_inverse=True, return_counts=True, axis=0)
    group = group.ravel()
    rest = accuracy[kept] - (np.bincount(group, weights=accuracy[kept]) / size)[group]
    together = size[group] > 1
    off = np.abs(rest[together]) / (0.26 * np.sqrt(1 - 1 / size[group][together]))
    assert len(off) == 11_212
    assert (off > 1.96).mean() == pytest.approx(0.036, abs=0.001)
    assert (off > 3).mean() == pytest.approx(0.011, abs=0.001)


# ---------------------------------------------------------------------- which cells are the same


def test_there_are_5260_functions() -> None:
    canonical = SPACE.canonical(EVERY)
    assert len(np.unique(canonical, axis=0)) == SPACE.cardinality == 5_260
    assert (canonical == 0).all(axis=1).sum() == 341
    assert ROWS.cardinality == len(np.unique(ROWS.canonical(EVERY), axis=0)) == 15_625
    np.testing.assert_array_equal(ROWS.canonical(EVERY), EVERY)


def published_text(row: list[int], *, zeros: bool) -> str:
    """A cell as the benchmark's own code compares cells: each node the sorted sum of what its edges bring.

    A skip hands on what it reads. With ``zeros``, no connection is zero, and so is what reads a node that is nothing
    but one zero; a sum of zeros is not seen to be zero. The signs are the published ones: sums are sorted before they
    become part of others, so their order decides what is found equal.
    """
    texts, edge = ["0"], iter(row)
    for node in (1, 2, 3):
        brought = []
        for source in range(node):
            operation = next(edge)
            if zeros and (operation == 0 or texts[source] == "#"):
                brought.append("#")
            elif operation == 1:
                brought.append(texts[source])
            else:
                brought.append(f"({texts[source]})@{operation}")
        texts.append("+".join(sorted(brought)))
    return texts[3]


def test_other_counts_of_unique_cells() -> None:
    """Those in circulation: by the two rules of the published code, and by dropping what is dead alone.

    The second rule misses nested zeros, and takes one convolution that is used twice for two.
    """
    rows = EVERY.tolist()
    assert len({published_text(row, zeros=False) for row in rows}) == 12_751
    assert len({published_text(row, zeros=True) for row in rows}) == 6_466
    assert len(np.unique(np.where(live(EVERY), EVERY, 0), axis=0)) == 9_445


def test_keys_of_all_rows_never_change() -> None:
    """What is stored is found by them: another row standing for a class would lose its measurements."""
    keys = hashlib.sha256("".join(SPACE.keys(EVERY)).encode()).hexdigest()
    assert keys == "d184100f191b0ced01b6dceb4280f7fad3a0438ea47e316d9d8d26da50d39e72"


def test_a_class_is_built_as_its_cheapest_row() -> None:
    canonical, macs = SPACE.canonical(EVERY), ROWS.cost(EVERY)["macs"]
    least: dict[bytes, int] = {}
    for row, value in zip(canonical, macs.tolist(), strict=True):
        least[row.tobytes()] = min(value, least.get(row.tobytes(), value))
    assert SPACE.cost(canonical)["macs"].tolist() == [least[row.tobytes()] for row in canonical]
    # Nothing in it is dead: without any one of its operations it is another architecture.
    for edge in range(6):
        there = canonical[canonical[:, edge] > 0]
        without = there.copy()
        without[:, edge] = 0
        assert (SPACE.canonical(without) != there).any(axis=1).all()


def test_what_is_united_and_what_is_not() -> None:
    alone = key("0", "0", "0", "c3", "0", "0")
    assert key("c3", "0", "0", "0", "skip", "0") == alone, "skips are contracted"
    assert key("skip", "0", "c3", "0", "0", "skip") == alone, "nodes have no names"
    assert key("c1", "pool", "0", "c3", "0", "0") == alone, "what leads nowhere is dropped"
    assert key("0", "0", "c1", "c3", "pool", "c1") == alone, "what reads zeros is dropped, and what reads that"
    assert key("0", "0", "0", "c1", "0", "0") != alone
    twice = key("c3", "0", "skip", "0", "skip", "skip")
    assert twice != alone, "x + x is not x"
    assert key("c3", "c3", "0", "0", "skip", "skip") != twice, "one convolution used twice is not two"
    assert key("pool", "0", "skip", "0", "skip", "skip") == key("pool", "pool", "0", "0", "skip", "skip")
    assert key("skip", "skip", "pool", "0", "0", "pool") != key("pool", "pool", "pool", "0", "0", "pool")


def injections(row: list[str], canonical: list[str]) -> Iterator[dict[int, int]]:
    """All ways to give each convolution of the canonical row the weights of another one of the row."""
    needed = [edge for edge, name in enumerate(canonical) if name in CONVOLUTIONS]
    given = [edge for edge, name in enumerate(row) if name in CONVOLUTIONS]
    for chosen in itertools.permutations(given, len(needed)):
        if all(row[b] == canonical[a] for a, b in zip(needed, chosen, strict=True)):
            yield dict(zip(needed, chosen, strict=True))


def test_rows_of_a_class_compute_the_same() -> None:
    """With any weights, offsets of batch norms included, for some way to match the convolutions; in training mode."""
    generator = torch.Generator().manual_seed(0)
    rng = np.random.default_rng(0)
    canonical = SPACE.canonical(EVERY)
    merged = np.flatnonzero((canonical != EVERY).any(axis=1))
    images = torch.randn(2, 3, 4, 4, generator=generator, dtype=torch.float64)
    for index in rng.choice(merged, 80, replace=False):
        row, other = ([OPERATIONS[gene] for gene in genes[index]] for genes in (EVERY, canonical))
        one, stands_for = Cell(row, 3).double(), Cell(other, 3).double()
        with torch.no_grad():
            for weight in one.parameters():
                weight.copy_(torch.randn(weight.shape, generator=generator, dtype=torch.float64))
            expected = one(images)
            found = False
            for matched in injections(row, other):
                for edge, source in matched.items():
                    stands_for.layers[edge].load_state_dict(one.layers[source].state_dict())
                found = found or torch.allclose(stands_for(images), expected, rtol=1e-9, atol=1e-9)
        assert found, (SPACE.notation(EVERY[index : index + 1]), SPACE.notation(canonical[index : index + 1]))


def test_different_classes_compute_differently() -> None:
    """One cell of each class, of those without pooling whose convolutions can be matched in one way only."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, 5, 5, generator=generator, dtype=torch.float64)
    cells = EVERY[(SPACE.canonical(EVERY) == EVERY).all(axis=1)]
    cells = cells[((cells == 2).sum(axis=1) < 2) & ((cells == 3).sum(axis=1) < 2) & ~(cells == 4).any(axis=1)]
    weights = {2 + n: Cell([name] * 6, 3).double().layers[0].state_dict() for n, name in enumerate(CONVOLUTIONS)}
    outputs = set()
    for row in cells:
        made = Cell([OPERATIONS[gene] for gene in row], 3).double()
        for edge in np.flatnonzero(row > 1):
            made.layers[int(edge)].load_state_dict(weights[int(row[edge])])
        with torch.no_grad():
            outputs.add(tuple(np.round(made(images).flatten().tolist(), 9)))
    assert len(cells) > 50
    assert len(outputs) == len(cells)


def test_a_restriction_binds_what_is_built() -> None:
    """A dead operation does not break a rule, and does not keep one."""
    confined = SPACE.restrict({"e02": ["none"], "e03": ["nor_conv_3x3"]})
    dead, alive = cell("0", "c1", "0", "c3", "0", "0"), cell("0", "c1", "0", "c3", "0", "c1")
    assert confined.valid(np.concatenate([dead, alive])).tolist() == [True, False]
    with pytest.raises(InvalidArchitecture, match="restricted") as refused:
        confined.check(np.concatenate([dead, alive]))
    assert (refused.value.row, refused.value.field) == (1, "e02")
    drawn = confined.sample(10_000, np.random.default_rng(0))
    assert len(drawn) == confined.cardinality
    assert (drawn[:, [1, 3]] == [0, 3]).all()
    impossible = SPACE.restrict({"e01": ["none"], "e12": ["nor_conv_1x1"]})
    assert impossible.cardinality == 0
    assert len(impossible.sample(5, np.random.default_rng(0))) == 0
    with pytest.raises(InvalidSpace, match="no architecture"):
        impossible.extremes()


# ---------------------------------------------------------------------- options, notation, networks, graphs

BAD: list[tuple[dict[str, Any], str]] = [
    ({"no_such": 1}, "no_such"),
    ({"classes": 0}, "classes"),
    ({"classes": True}, "classes"),
    ({"in_channels": "3"}, "in_channels"),
    ({"resolution": 30}, "resolution"),
    ({"resolution": 0}, "resolution"),
    ({"resolution": 32.0}, "resolution"),
    ({"channels": 2048}, "channels"),
    ({"cells": 0}, "cells"),
    ({"cells": None}, "cells"),
    ({"identity": "cell"}, "identity"),
]


@pytest.mark.parametrize(("options", "field"), BAD, ids=[f"{field}-{n}" for n, (_, field) in enumerate(BAD)])
def test_bad_options_are_refused_by_field(options: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidSpace) as refused:
        NasBench201(**options)
    assert refused.value.field == field


def test_options_are_complete_and_json() -> None:
    stored = json.loads(json.dumps(SPACE.options))
    assert NasBench201(**stored).digest == SPACE.digest == NasBench201(classes=10, cells=5).digest
    assert len({SPACE.digest, ROWS.digest, NasBench201(classes=100).digest}) == 3


def test_an_unknown_operation_is_refused_by_edge() -> None:
    text = "|none~0|+|none~0|none~1|+|skip_connect~0|OP~1|none~2|"
    with pytest.raises(InvalidArchitecture, match="max_pool_3x3") as refused:
        SPACE.from_configs([text.replace("OP", "none"), text.replace("OP", "max_pool_3x3")])
    assert (refused.value.row, refused.value.field) == (1, "e13")
    other_order = "|none~0|+|none~0|none~1|+|none~1|none~0|none~2|"
    with pytest.raises(InvalidArchitecture, match=r"must read \|OP~0\|") as refused:
        SPACE.from_notation([other_order])
    assert (refused.value.row, refused.value.field) == (0, "notation")


def test_the_network_has_the_published_names_and_shapes() -> None:
    network = ROWS.build(cell("skip", "c1", "0", "c3", "pool", "skip")[0])
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    assert shapes["stem.0.weight"] == (16, 3, 3, 3)
    assert shapes["cells.0.layers.1.op.1.weight"] == (16, 16, 1, 1)
    assert shapes["cells.16.layers.3.op.1.weight"] == (64, 64, 3, 3)
    assert shapes["cells.11.conv_a.op.1.weight"] == (64, 32, 3, 3)
    assert shapes["cells.11.downsample.1.weight"] == (64, 32, 1, 1)
    assert shapes["lastact.0.weight"] == (64,)
    assert shapes["classifier.weight"] == (10, 64)
    assert "cells.5.conv_b.op.2.weight" in shapes
    assert not any(name.startswith("cells.0.layers.0") for name in shapes)


def test_a_cell_adds_what_its_edges_bring() -> None:
    x = torch.arange(32.0).reshape(1, 2, 4, 4)
    made = Cell(["skip_connect", "none", "skip_connect", "skip_connect", "none", "skip_connect"], 2)
    torch.testing.assert_close(made(x), 2 * x)
    pooled = Cell(["none", "none", "none", "avg_pool_3x3", "none", "none"], 2)(x)
    assert pooled[0, 0, 0, 0] == (0 + 1 + 4 + 5) / 4, "padding is not averaged in"
    cut_off = Cell(["none", "none", "nor_conv_3x3", "none", "nor_conv_1x1", "skip_connect"], 2)
    with torch.no_grad():
        for weight in cut_off.parameters():
            weight.fill_(1.0)
        assert not cut_off(x).any(), "the offset of a batch norm behind no input does not count"


def test_there_is_no_super_network() -> None:
    with pytest.raises(Unsupported, match="no super-network"):
        SPACE.supernet()


def drawn(genes: Genes) -> tuple[list[str], set[tuple[int, int]]]:
    graphs = ROWS.graphs(genes)
    labels = [graphs.labels[operation] for operation in graphs.operations[0] if operation >= 0]
    return labels, {(int(a), int(b)) for a, b in np.argwhere(graphs.adjacency[0])}


def test_graphs_of_small_cells() -> None:
    labels, edges = drawn(cell("c3", "pool", "c1", "skip", "0", "c3"))
    assert labels == ["input", OPERATIONS[3], OPERATIONS[4], OPERATIONS[2], OPERATIONS[1], OPERATIONS[3], "output"]
    assert edges == {(0, 1), (0, 2), (0, 4), (1, 3), (2, 5), (3, 5), (4, 6), (5, 6)}
    # The first convolution leads nowhere, the last one reads nothing.
    assert drawn(cell("c3", "0", "0", "c1", "0", "c3")) == (["input", OPERATIONS[2], "output"], {(0, 1), (1, 2)})
    assert drawn(cell("c3", "0", "0", "0", "0", "c3")) == (["input", "none", "output"], {(0, 1), (1, 2)})


def test_edges_are_named_as_in_the_string() -> None:
    assert [choice.name for choice in SPACE.choices] == ["e01", "e02", "e12", "e03", "e13", "e23"]
    assert EDGES == ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
