"""NAS-Bench-101: published counts, which cells are the same, the networks that are built, and what is refused."""

from __future__ import annotations

import hashlib
import itertools
import json
from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch

from search_spaces import dags
from search_spaces.nasbench101 import OPERATIONS, NasBench101
from search_spaces.networks.nasbench101 import Cell, widths
from search_spaces.space import Genes, InvalidSpace, Unsupported

SPACE, ROWS = NasBench101(), NasBench101(identity="row")
CONV_3X3, CONV_1X1, POOL = OPERATIONS
EDGES = dags.edges(7)


def text(edges: str, *operations: str) -> str:
    """A cell from edges such as "01 12" and the operations of its inner vertices."""
    last = len(operations) + 1
    matrix = [[int(f"{a}{b}" in edges.split()) for b in range(last + 1)] for a in range(last + 1)]
    return json.dumps({"adjacency": matrix, "operations": ["input", *operations, "output"]})


def cell(edges: str, *operations: str, space: NasBench101 = SPACE) -> Genes:
    return space.from_notation([text(edges, *operations)])


def key(edges: str, *operations: str) -> str:
    return SPACE.keys(cell(edges, *operations))[0]


def at_random(count: int, seed: int = 0) -> Genes:
    """Rows that can be built, as likely with dead vertices as they come."""
    return ROWS.sample(count, np.random.default_rng(seed))


def renamed(genes: Genes, rng: np.random.Generator) -> Genes:
    """The same graphs with the inner vertices in another topological order."""
    result = genes.copy()
    for row, source in zip(result, genes, strict=True):
        edges = [edge for edge, there in zip(EDGES, source, strict=False) if there]
        left, place = {1, 2, 3, 4, 5}, {0: 0, 6: 6}
        while left:
            free = [v for v in left if not any(b == v and a in left for a, b in edges)]
            chosen = int(rng.choice(free))
            left.remove(chosen)
            place[chosen] = 6 - len(left) - 1
        row[:21] = 0
        for a, b in edges:
            row[EDGES.index((place[a], place[b]))] = 1
        for vertex in range(1, 6):
            row[20 + place[vertex]] = source[20 + vertex]
    return result


def graph(row: Genes) -> nx.DiGraph:
    """What lies on paths from the input to the output."""
    whole = nx.DiGraph([edge for edge, there in zip(EDGES, row, strict=False) if there])
    alive = ({0} | nx.descendants(whole, 0)) & ({6} | nx.ancestors(whole, 6))
    names = {0: "input", 6: "output"} | {vertex: OPERATIONS[row[20 + vertex]] for vertex in range(1, 6)}
    kept = nx.DiGraph(whole.subgraph(alive))
    nx.set_node_attributes(kept, names, "operation")
    return kept


# ---------------------------------------------------------------------- published counts


def test_there_are_423624_cells() -> None:
    """As the published generator counts them, by the most vertices: it found 423,624 (Ying et al., 2019)."""
    counts = [NasBench101(max_vertices=vertices).cardinality for vertices in range(3, 8)]
    assert counts == [7, 91, 2_532, 64_542, 423_624]
    # All graphs of five vertices: nothing limits their ten edges.
    assert NasBench101(max_vertices=5, max_edges=21).cardinality == len(dags.classes(5, 10)) > 2_532


def test_rows_that_can_be_built_are_counted() -> None:
    """Against pruning by networkx, on all 1,024 sets of edges between five vertices."""
    space = NasBench101(max_vertices=5, max_edges=5, identity="row").restrict({"op2": [POOL], "e04": [0]})
    total = 0
    for bits in itertools.product([0, 1], repeat=10):
        whole = nx.DiGraph([edge for edge, there in zip(dags.edges(5), bits, strict=True) if there])
        whole.add_nodes_from(range(5))
        alive = ({0} | nx.descendants(whole, 0)) & ({4} | nx.ancestors(whole, 4))
        kept = whole.subgraph(alive)
        if nx.has_path(whole, 0, 4) and len(kept.edges) <= 5 and not whole.has_edge(0, 4):
            total += 27 if 2 not in alive else 9
    assert space.cardinality == total


def test_the_cell_that_the_publication_shows() -> None:
    """Its Inception-like cell: asked for in one order, stored in the generator's, with 2,694,282 parameters."""
    asked = cell("01 02 03 05 16 26 34 46 56", CONV_1X1, CONV_3X3, CONV_3X3, CONV_3X3, POOL)
    stored = cell("01 02 03 04 16 26 36 45 56", CONV_3X3, CONV_1X1, POOL, CONV_3X3, CONV_3X3)
    np.testing.assert_array_equal(SPACE.canonical(asked), stored)
    assert SPACE.cost(asked)["params"].tolist() == [2_694_282]
    assert SPACE.cost(SPACE.extremes())["params"].tolist() == [227_274, 49_979_274]


# ---------------------------------------------------------------------- which cells are the same


def test_dead_vertices_are_those_on_no_path() -> None:
    rows = at_random(150)
    shown = SPACE.graphs(rows)
    for index, row in enumerate(rows):
        kept = graph(row)
        order = sorted(kept)
        there = shown.operations[index] >= 0
        assert [shown.labels[o] for o in shown.operations[index][there]] == [kept.nodes[v]["operation"] for v in order]
        np.testing.assert_array_equal(
            shown.adjacency[index][there][:, there], nx.to_numpy_array(kept, nodelist=order, dtype=bool)
        )
        assert SPACE.active(row[None])[0, 21:].tolist() == [vertex in kept for vertex in range(1, 6)]


def test_names_of_vertices_do_not_matter() -> None:
    rng = np.random.default_rng(1)
    rows = at_random(400)
    others = renamed(rows, rng)
    assert (rows != others).any(axis=1).mean() > 0.7
    assert SPACE.keys(rows) == SPACE.keys(others)
    np.testing.assert_array_equal(
        SPACE.graphs(SPACE.canonical(others)).adjacency, SPACE.graphs(SPACE.canonical(rows)).adjacency
    )


def test_keys_tell_graphs_apart() -> None:
    """Canonical rows that agree in the degrees of all operations are no isomorphic graphs, as networkx finds."""
    rows = SPACE.canonical(SPACE.sample(1_500, np.random.default_rng(2)))
    alike: dict[Any, list[nx.DiGraph]] = {}
    for row in rows:
        one = graph(row)
        degrees = sorted((one.nodes[v]["operation"], one.in_degree(v), one.out_degree(v)) for v in one)
        alike.setdefault(tuple(degrees), []).append(one)
    compared = 0
    for group in alike.values():
        for one, other in itertools.islice(itertools.combinations(group, 2), 20):
            same = nx.is_isomorphic(one, other, node_match=lambda a, b: a["operation"] == b["operation"])
            assert not same
            compared += 1
    assert compared > 50


def test_the_canonical_row_is_the_generators_first() -> None:
    """Fewest vertices first, then edges as a number, those into the output weighing most, then operations."""
    rows = at_random(30, seed=3)
    for row, found in zip(rows, SPACE.canonical(rows), strict=True):
        kept = graph(row)
        inner = sorted(set(kept) - {0, 6})
        candidates = []
        for order in itertools.permutations(range(1, 1 + len(inner))):
            place = dict(zip(inner, order, strict=True)) | {0: 0, 6: 6}
            if all(place[a] < place[b] for a, b in kept.edges):
                bits = [int(any((place[a], place[b]) == edge for a, b in kept.edges)) for edge in EDGES]
                labels = [0] * 5
                for vertex in inner:
                    labels[place[vertex] - 1] = int(row[20 + vertex])
                candidates.append((bits[::-1], labels))
        bits, labels = min(candidates)
        assert found.tolist() == bits[::-1] + labels


def test_every_listed_class_is_canonical_and_unique() -> None:
    codes = dags.classes(7, 9)
    assert (np.diff(codes) > 0).all()
    np.testing.assert_array_equal(dags.first(codes, 7), codes)
    np.testing.assert_array_equal(dags.pruned(codes, 7)[0], codes)
    np.testing.assert_array_equal(dags.pack(dags.unpack(codes, 7), 7), codes)


def test_what_is_united_and_what_is_not() -> None:
    chain = key("01 12 23", CONV_3X3, POOL)
    assert key("01 14 46", CONV_3X3, CONV_1X1, CONV_1X1, POOL, CONV_1X1) == chain, "dead vertices are dropped"
    assert key("01 12 23 04", CONV_3X3, POOL, CONV_1X1) != chain
    assert key("01 12 24 13", CONV_3X3, POOL, CONV_1X1) == chain, "what leads nowhere is dropped"
    assert key("01 12 24 34", CONV_3X3, POOL, CONV_1X1) == chain, "what reads nothing is dropped"
    assert key("01 12 23", POOL, CONV_3X3) != chain
    assert key("01 12 23 13", CONV_3X3, POOL) != chain
    assert key("01 02 13 23", CONV_1X1, POOL) == key("01 02 13 23", POOL, CONV_1X1), "vertices have no names"


def test_keys_never_change() -> None:
    """What is stored is found by them."""
    small = NasBench101(max_vertices=5)
    keys = small.keys(dags.unpack(dags.classes(5, 9), 5))
    assert (
        hashlib.sha256("".join(keys).encode()).hexdigest()
        == "0f3e6211d5261c1bbb43b2b2bd554b5877aa6a7046cf6628a41db0c88769848a"
    )
    every = hashlib.sha256(dags.unpack(dags.classes(7, 9), 7).tobytes()).hexdigest()
    assert every == "6a6243149989596d0da441c332c84cb602cc561ee11d3846392fd83c27dd1ee2"


# ---------------------------------------------------------------------- the networks of a class


def leading(row: Genes) -> int:
    """How many inner vertices lead into the output."""
    return sum(vertex > 0 for vertex in graph(row).predecessors(6))


def test_leftover_channels_go_to_the_first_vertices() -> None:
    star = [[0, 1, 1, 1, 0], [0, 0, 0, 0, 1], [0, 0, 0, 0, 1], [0, 0, 0, 0, 1], [0] * 5]
    assert widths(star, 128) == [0, 43, 43, 42, 128]
    assert widths(star, 256) == [0, 86, 85, 85, 256]
    # Vertex 1 leads to 2 and 3 only: as wide as the wider of them. Vertex 2 leads out itself.
    assert widths([[0, 1, 0, 0, 1], [0, 0, 1, 1, 0], [0, 0, 0, 1, 1], [0, 0, 0, 0, 1], [0] * 5], 5) == [0, 3, 3, 2, 5]
    assert widths([[0, 1], [0, 0]], 7) == [0, 7]


def test_the_published_code_makes_other_networks_of_other_orders() -> None:
    """Three vertices lead out; the wide ones are two convolutions in one order, a convolution and a pool in another."""
    one = cell("01 02 03 14 24 34", CONV_3X3, CONV_3X3, POOL)
    other = cell("01 02 03 14 24 34", CONV_3X3, POOL, CONV_3X3)
    assert SPACE.keys(one) == SPACE.keys(other)
    assert ROWS.cost(one)["params"] != ROWS.cost(other)["params"]
    assert SPACE.cost(one)["params"] == SPACE.cost(other)["params"] == ROWS.cost(SPACE.canonical(other))["params"]


def test_orders_of_53908_classes_cost_differently_in_the_published_code() -> None:
    """All orders of all cells that have three or five vertices leading into the output: elsewhere channels come out
    even."""
    bare, alive = dags.graphs(7, 9)
    inner = (alive >> 1) & 31
    # Dead vertices behind all others, and without edges.
    bare = bare[(inner & (inner + 1) == 0) & (dags.pruned(bare, 7)[0] == bare)]
    bare = bare[np.isin(np.bitwise_count(dags.into(bare, 6) >> 1), (3, 5))]
    codes = (bare[:, None] | np.arange(243, dtype=np.int32)).ravel()
    codes = codes[dags.pruned(codes, 7)[0] == codes]
    stands_for = dags.first(codes, 7)
    costs, trained = (ROWS.cost(dags.unpack(each, 7)) for each in (codes, stands_for))
    assert len(np.unique(stands_for[costs["params"] != trained["params"]])) == 53_908
    for name, most in (("params", 0.014), ("macs", 0.024)):
        assert 0.9 * most < np.abs(costs[name] / trained[name] - 1).max() < most


def test_all_rows_of_a_class_have_one_network() -> None:
    """Leftover channels and all: the very same weights in the same places."""
    space = NasBench101(channels=7, stacks=1, cells=1, resolution=4)
    rows = np.array([row for row in at_random(60, seed=4) if leading(row) >= 3])
    assert len(rows) > 5
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 3, 4, 4), dtype=np.float32))
    for row, other in zip(rows, renamed(rows, np.random.default_rng(5)), strict=True):
        one, two = space.build(row), space.build(other)
        assert [name for name, _ in one.named_parameters()] == [name for name, _ in two.named_parameters()]
        with torch.no_grad():
            torch.testing.assert_close(one(x), two(x), rtol=0, atol=0)


def test_the_published_networks_of_a_class_compute_the_same_where_channels_come_out_even() -> None:
    """In training mode, with any weights: those of each vertex are moved to where the canonical row has it."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 4, 5, 5, generator=generator, dtype=torch.float64)
    rows = at_random(60, seed=7)
    seen = 0
    for row in rows[(SPACE.canonical(rows) != rows).any(axis=1)]:
        if leading(row) not in (1, 2, 4):
            continue
        kept, canonical = graph(row), SPACE.canonical(row[None])[0]
        match = nx.algorithms.isomorphism.DiGraphMatcher(
            kept, graph(canonical), node_match=lambda a, b: a["operation"] == b["operation"]
        )
        assert match.is_isomorphic()
        order, place = sorted(kept), match.mapping
        one, other = made(row), made(canonical)
        with torch.no_grad():
            for weight in one.parameters():
                weight.copy_(torch.randn(weight.shape, generator=generator, dtype=torch.float64))
            for index, vertex in enumerate(order[1:-1]):
                other.vertices[place[vertex] - 1].load_state_dict(one.vertices[index].state_dict())
            last = {6: len(order) - 1}
            for name, projection in one.projections.items():
                vertex = order[int(name)]
                moved = projection.state_dict()
                if vertex == 6 and len(order) > 2:
                    moved = {key: value[channels(kept, place)] if value.ndim else value for key, value in moved.items()}
                other.projections[str(last.get(vertex, place[vertex]))].load_state_dict(moved)
            expected = one(x)
            if len(order) > 2:
                expected = expected[:, channels(kept, place)]
            torch.testing.assert_close(other(x), expected, rtol=1e-9, atol=1e-9)
        seen += 1
    assert seen > 15


def made(row: Genes) -> Cell:
    """The cell that the published code makes of a row."""
    graphs = ROWS.graphs(row[None])
    operations = [graphs.labels[label] for label in graphs.operations[0][1:-1]]
    return Cell(graphs.adjacency[0].tolist(), operations, 4, 8).double()


def channels(kept: nx.DiGraph, place: dict[int, int]) -> list[int]:
    """Where each of the eight channels of the canonical output is among those of the row's."""
    leading = sorted(vertex for vertex in kept.predecessors(6) if vertex)
    wide = 8 // len(leading)
    ranked = sorted(leading, key=lambda vertex: place[vertex])
    return [leading.index(vertex) * wide + channel for vertex in ranked for channel in range(wide)]


def test_a_cell_computes_what_its_edges_say() -> None:
    """By hand: ReLU of projections and of 1×1 convolutions with weights 1, norms that change nothing, a pool."""
    x = torch.arange(18.0).reshape(1, 2, 3, 3) - 9
    # 1 is a pool of the input, 2 a 1×1 convolution of the input and of 1; both lead out, and so does the input.
    matrix = [[0, 1, 1, 1], [0, 0, 1, 1], [0, 0, 0, 1], [0] * 4]
    made = Cell(matrix, [POOL, CONV_1X1], 2, 3).eval()
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if name.endswith("0.weight"):
                parameter.fill_(1.0)
    assert made.widths == [0, 2, 1, 3]
    scale = (1 + 1e-5) ** -0.5
    projected = torch.relu(x.sum(1, keepdim=True)) * scale
    pooled = torch.nn.functional.max_pool2d(projected, 3, 1, 1)
    convolved = (pooled + projected) * scale
    expected = torch.cat([pooled, pooled, convolved], 1) + projected
    torch.testing.assert_close(made(x), expected)
    # Of five channels the first of two vertices has three, of which the second reads the first two.
    made = Cell([[0, 1, 0, 0], [0, 0, 1, 1], [0, 0, 0, 1], [0] * 4], [POOL, POOL], 2, 5).eval()
    result = made(x)
    torch.testing.assert_close(result[:, 3:], torch.nn.functional.max_pool2d(result[:, :2], 3, 1, 1))
    assert not torch.equal(result[:, 0], result[:, 1])
    pool = Cell([[0, 1, 0], [0, 0, 1], [0, 0, 0]], [POOL], 1, 1).vertices[0]
    assert (pool(torch.full((1, 1, 2, 2), -1.0)) == -1).all(), "padding is not seen"


def test_rows_as_they_are_are_bounded_and_drawn() -> None:
    """Beyond what the contract tries: six vertices, and a restriction of operations that may be dead."""
    space = NasBench101(max_vertices=6, identity="row")
    smallest, largest = space.cost(space.extremes())["macs"]
    macs = space.cost(space.sample(2_000, np.random.default_rng(0)))["macs"]
    assert smallest <= macs.min() < macs.max() <= largest
    confined = space.restrict({"e05": [0], "op3": [POOL], "op4": [CONV_1X1, POOL]})
    low, high = confined.cost(confined.extremes())["macs"]
    drawn = confined.sample(2_000, np.random.default_rng(0))
    assert confined.valid(drawn).all()
    assert len(drawn) == 2_000
    macs = confined.cost(drawn)["macs"]
    assert smallest <= low <= macs.min() < macs.max() <= high < largest
    assert confined.cardinality < space.cardinality
    assert ROWS.cardinality == 373_754_169


def test_a_restriction_binds_no_dead_vertex() -> None:
    """Cells of fewer vertices keep to a rule about the last one."""
    space = NasBench101(max_vertices=5)
    every = space.to_configs(space.sample(3_000, np.random.default_rng(0)))
    confined = space.restrict({"op3": [POOL], "e04": [0]})
    assert confined.cardinality == sum(config.get("op3", POOL) == POOL and not config["e04"] for config in every)
    assert confined.cardinality > sum(config.get("op3") == POOL and not config["e04"] for config in every)


def test_a_restriction_that_leaves_nothing() -> None:
    for space in (SPACE, ROWS):
        empty = space.restrict({edge: [0] for edge in ("e06", "e16", "e26", "e36", "e46", "e56")})
        assert empty.cardinality == 0
        assert len(empty.sample(5, np.random.default_rng(0))) == 0
        with pytest.raises(InvalidSpace, match="no architecture"):
            empty.extremes()


def test_there_is_no_super_network() -> None:
    with pytest.raises(Unsupported, match="no super-network"):
        SPACE.supernet()
