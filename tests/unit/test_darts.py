"""DARTS' cells: published sizes, which cells compute the same and how many there are, networks."""

from __future__ import annotations

import itertools
import json
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor, nn

from search_spaces.darts import OPERATIONS, Darts
from search_spaces.networks.darts import Cell, Edge, FactorizedReduce, Network
from search_spaces.pairs import Pairs
from search_spaces.space import Genes, InvalidSpace, Unsupported
from tests.shared import SHARED, needs_shared

SPACE, ROWS = Darts(), Darts(identity="row")
SMALL: dict[str, Any] = {"channels": 2, "layers": 4, "classes": 3, "in_channels": 2}
MAX, AVG, SKIP, SEP3, SEP5, DIL3, DIL5 = OPERATIONS

# As their authors published them, in their order.
DARTS_V2 = (
    "Genotype(normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('sep_conv_3x3', 1), "
    "('sep_conv_3x3', 1), ('skip_connect', 0), ('skip_connect', 0), ('dil_conv_3x3', 2)], normal_concat=[2, 3, 4, 5], "
    "reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1), ('skip_connect', 2), ('max_pool_3x3', 1), ('max_pool_3x3', 0), "
    "('skip_connect', 2), ('skip_connect', 2), ('max_pool_3x3', 1)], reduce_concat=[2, 3, 4, 5])"
)
P_DARTS = (
    "Genotype(normal=[('skip_connect', 0), ('dil_conv_3x3', 1), ('skip_connect', 0),('sep_conv_3x3', 1), "
    "('sep_conv_3x3', 1), ('sep_conv_3x3', 3), ('sep_conv_3x3',0), ('dil_conv_5x5', 4)], normal_concat=range(2, 6), "
    "reduce=[('avg_pool_3x3', 0), ('sep_conv_5x5', 1), ('sep_conv_3x3', 0), ('dil_conv_5x5', 2), ('max_pool_3x3', 0), "
    "('dil_conv_3x3', 1), ('dil_conv_3x3', 1), ('dil_conv_5x5', 3)], reduce_concat=range(2, 6))"
)
PC_DARTS = (
    "Genotype(normal=[('sep_conv_3x3', 1), ('skip_connect', 0), ('sep_conv_3x3', 0), ('dil_conv_3x3', 1), "
    "('sep_conv_5x5', 0), ('sep_conv_3x3', 1), ('avg_pool_3x3', 0), ('dil_conv_3x3', 1)], normal_concat=range(2, 6), "
    "reduce=[('sep_conv_5x5', 1), ('max_pool_3x3', 0), ('sep_conv_5x5', 1), ('sep_conv_5x5', 2), ('sep_conv_3x3', 0), "
    "('sep_conv_3x3', 3), ('sep_conv_3x3', 1), ('sep_conv_3x3', 2)], reduce_concat=range(2, 6))"
)


def text(normal: list[Edge], reduce: list[Edge]) -> str:
    nodes = list(range(2, 2 + len(normal) // 2))
    return f"Genotype(normal={normal}, normal_concat={nodes}, reduce={reduce}, reduce_concat={nodes})"


def row(space: Darts, *edges: list[Edge]) -> Genes:
    return space.from_notation([text(*edges)])


def drawn(rng: np.random.Generator, nodes: int, operations: tuple[str, ...] = OPERATIONS) -> list[Edge]:
    """A random cell, drawn here."""
    found: list[Edge] = []
    for node in range(2, nodes + 2):
        read = sorted(rng.choice(node, size=2, replace=False).tolist())
        found += [(operations[int(rng.integers(len(operations)))], each) for each in read]
    return found


def renamed(edges: list[Edge], order: tuple[int, ...]) -> tuple[list[Edge], list[int]] | None:
    """The cell in which node 2 + k is the former node ``order[k]``, and where each of its edges was; None if it reads
    a later node.
    """
    name = {0: 0, 1: 1} | {old: new for new, old in enumerate(order, start=2)}
    found: list[Edge] = []
    places: list[int] = []
    for old in order:
        two = sorted((name[edges[place][1]], place) for place in (2 * old - 4, 2 * old - 3))
        if two[1][0] >= name[old]:
            return None
        found += [(edges[place][0], node) for node, place in two]
        places += [place for _, place in two]
    return found, places


def all_renamed(edges: list[Edge]) -> list[list[Edge]]:
    orders = itertools.permutations(range(2, 2 + len(edges) // 2))
    return [other[0] for order in orders if (other := renamed(edges, order))]


# ---------------------------------------------------------------------- what is published


def test_published_cells_have_their_published_sizes() -> None:
    """In millions, as the papers print them, for CIFAR-10 and ImageNet; auxiliary heads are not counted."""
    small, large = (
        Darts(channels=36, layers=20),
        Darts(channels=48, layers=14, resolution=224, classes=1000, stem="imagenet"),
    )
    published = {DARTS_V2: (3.3, 4.7), P_DARTS: (3.4, 4.9), PC_DARTS: (3.6, 5.3)}
    for genotype, sizes in published.items():
        found = [int(space.cost(space.from_notation([genotype]))["params"][0]) / 1e6 for space in (small, large)]
        assert tuple(round(each, 1) for each in found) == sizes
    costs = small.cost(small.from_notation([DARTS_V2]))
    assert (int(costs["params"][0]), int(costs["macs"][0])) == (3_349_342, 528_359_040)


@needs_shared
def test_costs_of_the_published_rows_are_explained() -> None:
    """NASLib built the networks of NAS-Bench-301 without scale and offset in the batch norms of operations.

    Its FLOPs count, beside multiply-accumulates, one for each value that a ReLU or such a batch norm reads, nine for
    each that a pooling gives and one for the batch norm behind it; and 2,400,768 in every network: one for each value
    that a ReLU reads outside the operations, two for each that a batch norm reads there, 81 for each of the 512
    channels that are pooled at the end. Both are stored as millions in 32 bits.
    """
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.read_table(SHARED / "data/nb301/samples.parquet", columns=["genotype", "params_m", "flops_m"])
    genotypes, params, flops = (table[name].to_pylist() for name in ("genotype", "params_m", "flops_m"))
    genes = SPACE.from_notation(genotypes)
    costs = SPACE.cost(genes)
    # Channels of all layers of one kind, and values that one operation gives in them.
    widths, values = (2 * (32 + 64 + 128), 64 + 128), (2 * (32 * 1024 + 64 * 256 + 128 * 64), 64 * 256 + 128 * 64)
    unscaled, counted = np.zeros((2, len(genes)), dtype=np.int64)
    for number, both in enumerate(map(json.loads, genotypes)):
        for kind, edges in enumerate(both):
            for node, operation in edges:
                name, strided = OPERATIONS[operation], kind == 1 and node < 2
                norms = {SKIP: int(strided), SEP3: 2, SEP5: 2, DIL3: 1, DIL5: 1}.get(name, 0)
                unscaled[number] += 2 * norms * widths[kind]
                # The first ReLU reads a map of four times the size where the operation halves its side.
                counted[number] += (2 * norms + (3 if strided and norms else 0)) * values[kind]
                counted[number] += (9 + 1) * values[kind] * (name in (MAX, AVG))
    np.testing.assert_array_equal(((costs["params"] - unscaled) / 1e6).astype(np.float32), np.float32(params))
    np.testing.assert_array_equal(((costs["macs"] + counted + 2_400_768) / 1e6).astype(np.float32), np.float32(flops))


@needs_shared
def test_published_rows_are_read_and_told_apart() -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    genotypes = parquet.read_table(SHARED / "data/nb301/samples.parquet", columns=["genotype"])["genotype"].to_pylist()
    genes = SPACE.from_notation(genotypes)
    for index in range(0, len(genes), 50):
        normal, reduce = ([(OPERATIONS[op], node) for node, op in edges] for edges in json.loads(genotypes[index]))
        np.testing.assert_array_equal(SPACE.from_notation([text(normal, reduce)]), genes[index : index + 1])
    np.testing.assert_array_equal(SPACE.from_notation(SPACE.notation(genes)), genes)
    assert (len(set(genotypes)), len(set(ROWS.keys(genes))), len(set(SPACE.keys(genes)))) == (609, 609, 609)


# ---------------------------------------------------------------------- which cells are the same


def test_the_first_of_all_renamed_cells_stands_for_them() -> None:
    rng = np.random.default_rng(1)
    several = 0
    for _ in range(60):
        normal, reduce = drawn(rng, 4, (SKIP, SEP3)), drawn(rng, 4)
        ways = all_renamed(normal)
        rows = ROWS.from_notation([text(other, reduce) for other in ways])
        least = min(rows[:, : 3 + 8].tolist())
        canonical = SPACE.canonical(rows)
        assert (canonical[:, : 3 + 8] == least).all()
        assert len({each.tobytes() for each in canonical}) == 1
        several += len(ways) > 1
        flipped = SPACE.canonical(ROWS.from_notation([text(reduce, other) for other in ways]))
        assert (flipped[:, 3 + 8 :] == least).all()
    assert several > 30


def permuted(state: dict[str, Tensor], layers: list[int], orders: list[tuple[tuple[int, ...], list[int]]]) -> Any:
    """The weights of a network for the network of the renamed cells; ``layers``: 1 for a reduction cell, 0 else."""
    nodes = len(orders[0][0])

    def blocks(weight: Tensor, layer: int) -> Tensor:
        # The channels that a cell gives are those of its nodes, one behind the other; stems give no nodes.
        if layer < 0:
            return weight
        parts = weight.chunk(nodes, dim=1)
        return torch.cat([parts[old - 2] for old in orders[layers[layer]][0]], dim=1)

    found = dict(state)
    for layer, kind in enumerate(layers):
        cell = f"cells.{layer}."
        for name, value in state.items():
            if name.startswith(f"{cell}preprocess") and name.endswith("weight") and value.ndim == 4:
                found[name] = blocks(value, layer - (2 if "preprocess0" in name else 1))
            elif name.startswith(f"{cell}_ops."):
                del found[name]
        for new, old in enumerate(orders[kind][1]):
            begin = f"{cell}_ops.{old}."
            found |= {f"{cell}_ops.{new}.{n[len(begin) :]}": v for n, v in state.items() if n.startswith(begin)}
    found["classifier.weight"] = blocks(state["classifier.weight"], len(layers) - 1)
    return found


def noisy(network: nn.Module, rng: np.random.Generator) -> nn.Module:
    """In double precision, no two weights or statistics alike."""
    network = network.double()
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if value.is_floating_point():
                noise = torch.from_numpy(rng.random(value.shape))
                value.copy_(0.5 + noise if name.endswith(("var", "weight")) and value.ndim == 1 else noise - 0.5)
    return network


@pytest.mark.parametrize("stem", ["cifar", "imagenet"])
def test_renamed_cells_compute_the_same(stem: str) -> None:
    """With the weights of operations moved along, and those of all that reads a cell's output permuted."""
    space = Darts(**SMALL, stem=stem, resolution=8 if stem == "cifar" else 32, identity="row")
    rng = np.random.default_rng(2)
    images = torch.from_numpy(rng.standard_normal((3, *space.input_shape(np.zeros(22, dtype=np.int8)))))
    tried = 0
    while tried < 4:
        both = drawn(rng, 4), drawn(rng, 4)
        orders = [tuple(int(node) for node in 2 + rng.permutation(4)) for _ in both]
        others = [renamed(edges, order) for edges, order in zip(both, orders, strict=True)]
        if others[0] is None or others[1] is None or sorted(orders[0]) == list(orders[0]):
            continue
        one, other = (space.build(row(space, *each)[0]) for each in (both, (others[0][0], others[1][0])))
        noisy(one, rng)
        moved = [(orders[kind], found[1]) for kind, found in enumerate(others) if found]
        other.double().load_state_dict(permuted(one.state_dict(), [0, 1, 1, 0], moved))
        for training in (False, True):
            with torch.no_grad():
                expected = one.train(training)(images)
                torch.testing.assert_close(other.train(training)(images), expected, rtol=1e-9, atol=1e-9)
        assert expected.std() > 1e-3
        tried += 1


def test_equal_nodes_are_told_apart() -> None:
    """What is not united: two nodes without weights are equal, and another one may read either."""
    space = Darts(**SMALL, resolution=8)
    reduce = drawn(np.random.default_rng(0), 4)
    twins = [(SKIP, 0), (SKIP, 1)] * 2
    one = row(space, [*twins, (SEP3, 0), (DIL3, 2), (SEP5, 0), (DIL5, 2)], reduce)
    other = row(space, [*twins, (SEP3, 0), (DIL3, 2), (SEP5, 0), (DIL5, 3)], reduce)
    assert space.keys(one) != space.keys(other)
    networks = [space.build(each[0]).eval() for each in (one, other)]
    networks[1].load_state_dict(networks[0].state_dict())
    images = torch.from_numpy(space.inputs(one[0], 2, np.random.default_rng(0))[0])
    with torch.no_grad():
        torch.testing.assert_close(networks[0](images), networks[1](images))


# ---------------------------------------------------------------------- how many there are


@pytest.mark.parametrize(("nodes", "operations"), [(1, 7), (2, 5), (3, 3)])
def test_classes_are_counted_exactly(nodes: int, operations: int) -> None:
    pairs = Pairs(nodes, operations)
    sizes = [len(choice) for choice in pairs.inputs[1:]] + [operations] * 2 * nodes
    rows = np.array(list(itertools.product(*map(range, sizes))), dtype=np.int8)
    distinct = np.unique(pairs.canonical(rows), axis=0)
    allowed = np.arange(max(sizes)) < np.array(sizes)[:, None]
    assert pairs.count(allowed) == len(distinct)
    # Restricted: rows that stand for a class and keep to what is left, the cheapest of them among these.
    rng = np.random.default_rng(3)
    counts = []
    for _ in range(40):
        left = allowed & (rng.random(allowed.shape) < 0.75)
        inside = distinct[left[np.arange(len(sizes)), distinct].all(axis=1)]
        counts.append(len(inside))
        assert pairs.count(left) == len(inside)
        costs = rng.integers(4, size=(2, operations)).astype(np.float64)[pairs.reads_input.astype(int)]
        total = costs[pairs.structure(inside)[:, None], np.arange(2 * nodes), inside[:, nodes - 1 :]].sum(axis=1)
        cheapest = pairs.cheapest(left, costs)
        assert (cheapest is None) == (len(inside) == 0)
        if cheapest is not None:
            place = (inside == cheapest).all(axis=1)
            assert place.sum() == 1
            assert total[place] == total.min()
    assert len(set(counts)) > 10


def test_cardinality_of_the_published_space() -> None:
    assert ROWS.cardinality == (180 * 7**8) ** 2 == 1_037_664_180**2
    assert SPACE.cardinality == 382_128_166**2 == 146_021_935_250_523_556
    others = [name for name in OPERATIONS if name != SEP5]
    banned = SPACE.restrict({choice.name: others for choice in SPACE.choices if SEP5 in choice.options})
    assert banned.cardinality == Darts(operations=others).cardinality
    impossible = SPACE.restrict({"normal.node3.inputs": ["1_2"], "normal.node4.inputs": ["0_1"]})
    assert impossible.cardinality == 0
    assert len(impossible.sample(5, np.random.default_rng(0))) == 0
    with pytest.raises(InvalidSpace, match="no architecture"):
        impossible.extremes()


def test_a_class_is_drawn_as_often_as_any_other() -> None:
    """Of cells of two nodes, by their symmetry: uniform over rows, a class of two rows would come up twice as often."""
    space = Darts(nodes=2)
    rows = space._draw(40_000, np.random.default_rng(4))
    assert len(rows) == 40_000
    np.testing.assert_array_equal(space.canonical(rows), rows)
    own = rows[:, :5]
    # Both nodes read the inputs: pairs of 49 nodes, in no order; else all rows.
    alike = (own[:, 0] == 0).mean()
    expected = (49 * 50 / 2) / (49 * 50 / 2 + 2 * 49**2)
    assert abs(alike - expected) < 5 * (expected * (1 - expected) / len(rows)) ** 0.5


def test_cells_are_drawn_where_few_rows_are_canonical() -> None:
    """All nodes read the inputs and one has the last operation: all have it, and another one each, in any order."""
    rules = {f"{cell}.node{node}.inputs": ["0_1"] for cell in ("normal", "reduce") for node in (3, 4, 5)}
    few = SPACE.restrict(rules | {"normal.node2.first": [DIL5], "reduce.node2.first": [DIL5]})
    assert (few.cardinality, len(few.sample(20_000, np.random.default_rng(0)))) == (210**2, 20_000)
    counts = np.unique(few._draw(21_000, np.random.default_rng(0))[:, :11], axis=0, return_counts=True)[1]
    assert (len(counts), float(chisquare(counts).pvalue) > 1e-3) == (210, True)


# ---------------------------------------------------------------------- options


BAD: list[tuple[dict[str, Any], str]] = [
    ({"no_such": 1}, "no_such"),
    ({"classes": 0}, "classes"),
    ({"in_channels": "3"}, "in_channels"),
    ({"resolution": 30}, "resolution"),
    ({"resolution": 36, "stem": "imagenet"}, "resolution"),
    ({"channels": 2048}, "channels"),
    ({"channels": 3, "resolution": 32, "stem": "imagenet"}, "channels"),
    ({"layers": 2}, "layers"),
    ({"nodes": 5}, "nodes"),
    ({"nodes": 0}, "nodes"),
    ({"operations": [SKIP, SKIP]}, "operations"),
    ({"operations": ["none"]}, "operations"),
    ({"stem": "mnist"}, "stem"),
    ({"identity": "cell"}, "identity"),
]


@pytest.mark.parametrize(("options", "field"), BAD, ids=[f"{field}-{n}" for n, (_, field) in enumerate(BAD)])
def test_bad_options_are_refused_by_field(options: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidSpace) as refused:
        Darts(**options)
    assert refused.value.field == field


def test_options_are_complete_and_json() -> None:
    stored = json.loads(json.dumps(SPACE.options))
    assert Darts(**stored).digest == SPACE.digest == Darts(classes=10, nodes=4).digest
    assert len({SPACE.digest, ROWS.digest, Darts(channels=36, layers=20).digest, Darts(nodes=3).digest}) == 4


def test_there_is_no_super_network() -> None:
    with pytest.raises(Unsupported, match="no super-network"):
        SPACE.supernet()


# ---------------------------------------------------------------------- networks, graphs


def test_the_network_has_the_published_names_and_shapes() -> None:
    normal, reduce = ([(DIL3, 0), (SEP5, 1), (SKIP, 0), (AVG, 2)], [(SKIP, 0), (MAX, 1), (SKIP, 1), (SKIP, 2)])
    network = Network(normal, reduce, channels=8, layers=5, device="meta")
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    assert shapes["stem.0.weight"] == (24, 3, 3, 3)
    assert shapes["cells.0.preprocess1.op.1.weight"] == (8, 24, 1, 1)
    assert shapes["cells.0._ops.0.op.1.weight"] == (8, 1, 3, 3)
    assert shapes["cells.0._ops.1.op.5.weight"] == (8, 1, 5, 5)
    assert shapes["cells.0._ops.1.op.7.weight"] == (8,)
    # Reduction cells stand at 1 and 3: twice the channels, skips of their inputs have weights.
    assert shapes["cells.1._ops.0.conv_1.weight"] == (8, 16, 1, 1)
    assert not any(name.startswith("cells.1._ops.3") for name in shapes)
    assert shapes["cells.2.preprocess0.conv_2.weight"] == (8, 16, 1, 1)
    assert shapes["cells.4.preprocess1.op.1.weight"] == (32, 64, 1, 1)
    assert shapes["classifier.weight"] == (10, 64)
    two_stems = Network(normal, reduce, channels=8, layers=5, stem="imagenet", device="meta").state_dict()
    assert two_stems["stem0.3.weight"].shape == (8, 4, 3, 3)
    assert two_stems["stem1.1.weight"].shape == (8, 8, 3, 3)
    assert two_stems["cells.0.preprocess0.conv_1.weight"].shape == (4, 8, 1, 1)


def test_a_cell_adds_two_and_gives_all() -> None:
    cell = Cell([(SKIP, 0), (SKIP, 1), (MAX, 1), (AVG, 2)], 2, 3, 2, False, False).eval()
    one, other = torch.rand(1, 2, 4, 4), torch.rand(1, 3, 4, 4)
    with torch.no_grad():
        a, b = cell.preprocess0(one), cell.preprocess1(other)
        first = a + b
        pooled = nn.functional.max_pool2d(b, 3, 1, 1)
        average = nn.functional.avg_pool2d(first, 3, 1, 1, count_include_pad=False)
        torch.testing.assert_close(cell(one, other), torch.cat([first, pooled + average], dim=1))


def test_halving_reads_every_pixel() -> None:
    reduce = FactorizedReduce(1, 2).eval()
    with torch.no_grad():
        for weight in (reduce.conv_1.weight, reduce.conv_2.weight):
            weight.fill_(1.0)
        found = reduce(torch.arange(16.0).reshape(1, 1, 4, 4)) * (1 + reduce.bn.eps) ** 0.5
    torch.testing.assert_close(found[0, 0], torch.tensor([[0.0, 2.0], [8.0, 10.0]]))
    torch.testing.assert_close(found[0, 1], torch.tensor([[5.0, 7.0], [13.0, 15.0]]))


def test_the_graph_of_small_cells() -> None:
    space = Darts(nodes=2)
    graphs = space.graphs(
        row(space, [(SEP3, 0), (SKIP, 1), (MAX, 1), (DIL5, 2)], [(AVG, 0), (AVG, 1), (SEP5, 0), (SKIP, 2)])
    )
    labels = [graphs.labels[operation] for operation in graphs.operations[0]]
    normal, reduce = (["normal.c_{k-2}", "normal.c_{k-1}"], ["reduce.c_{k-2}", "reduce.c_{k-1}"])
    assert labels == ["input", *normal, SEP3, SKIP, MAX, DIL5, *reduce, AVG, AVG, SEP5, SKIP, "output"]
    edges: set[tuple[int, int]] = {(int(a), int(b)) for a, b in np.argwhere(graphs.adjacency[0])}
    inside = {(1, 3), (2, 4), (2, 5), (3, 6), (4, 6), (7, 9), (8, 10), (7, 11), (9, 12), (10, 12)}
    around = {(0, 1), (0, 2), (0, 7), *((each, 8) for each in range(3, 7)), *((each, 13) for each in range(9, 13))}
    assert edges == inside | around
