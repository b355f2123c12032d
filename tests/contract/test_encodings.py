"""What every encoding keeps, over every entry point of ``frontier.spaces``; graphs are looked at with networkx."""

from __future__ import annotations

import math
from collections import Counter
from itertools import islice
from typing import Any

import networkx as nx
import numpy as np
import pytest

from search_spaces.encoding import ENCODINGS, PaddedGraphs, adjacency, adjacency_names, padded_graphs
from search_spaces.paths import path, path_names
from search_spaces.plugins import load
from search_spaces.space import Genes, SearchSpace, Unsupported
from search_spaces.structure import SHAPE, is_layer, structure, structure_names
from tests.spaces import CASES

LISTED = 300
"""Paths of a graph that are listed one by one."""


@pytest.fixture(scope="module", params=list(CASES))
def space(request: pytest.FixtureRequest) -> SearchSpace:
    plugin, options = CASES[request.param]
    built: SearchSpace = load("spaces", plugin)(**options)
    return built


@pytest.fixture(scope="module")
def genes(space: SearchSpace) -> Genes:
    """Both extremes, architectures, and rows of any kind."""
    rng = np.random.default_rng(3)
    rows = np.concatenate([space.extremes(), space.sample(5, rng), space._draw_rows(60, rng)])
    rows = rows[space.valid(rows)][:12]
    assert len(rows) > 6
    return rows


@pytest.fixture(scope="module")
def padded(space: SearchSpace, genes: Genes) -> PaddedGraphs:
    return padded_graphs(space, genes)


# ---------------------------------------------------------------------- every encoding


@pytest.mark.parametrize("name", ENCODINGS)
def test_features_are_named_numbers(name: str, space: SearchSpace, genes: Genes) -> None:
    encoding, before = ENCODINGS[name], genes.copy()
    try:
        features = encoding.encode(space, genes)
    except Unsupported as reason:
        with pytest.raises(Unsupported):
            encoding.names(space)
        pytest.skip(str(reason))
    names = encoding.names(space)
    assert features.dtype == np.float32
    assert features.shape == (len(genes), len(names))
    assert len(set(names)) == len(names)
    assert np.isfinite(features).all()
    np.testing.assert_array_equal(genes, before)
    assert encoding.encode(space, genes[:0]).shape == (0, len(names))
    # A row's features do not depend on its neighbours, nor on where it stands.
    for i in (0, len(genes) - 1):
        np.testing.assert_array_equal(encoding.encode(space, genes[i : i + 1])[0], features[i])
    np.testing.assert_array_equal(encoding.encode(space, genes[::-1]), features[::-1])
    # What stands in an inactive choice shows nowhere.
    rng = np.random.default_rng(5)
    other = (rng.random(genes.shape) * space.sizes).astype(np.int8)
    same = np.where(space.active(genes), genes, other).astype(np.int8)
    np.testing.assert_array_equal(encoding.encode(space, same), features)


# ---------------------------------------------------------------------- graphs


def graph(padded: PaddedGraphs, row: int) -> nx.DiGraph:
    """One graph, its nodes with their labels."""
    result = nx.DiGraph()
    for node, operation in enumerate(padded.operations[row].tolist()):
        if operation >= 0:
            result.add_node(node, label=padded.labels[operation])
    result.add_edges_from(np.argwhere(padded.adjacency[row]).tolist())
    return result


def test_padded_graphs_are_the_graphs(space: SearchSpace, genes: Genes, padded: PaddedGraphs) -> None:
    wide = space.most_nodes
    graphs = space.graphs(genes)
    v = graphs.operations.shape[1]
    assert padded.labels == graphs.labels
    assert [each.dtype.name for each in (padded.adjacency, padded.operations, padded.mask)] == ["bool", "int16", "bool"]
    assert padded.adjacency.shape == (len(genes), wide, wide)
    assert padded.mask.shape == padded.operations.shape == (len(genes), wide)
    np.testing.assert_array_equal(padded.adjacency[:, :v, :v], graphs.adjacency)
    np.testing.assert_array_equal(padded.operations[:, :v], graphs.operations)
    np.testing.assert_array_equal(padded.mask, padded.operations >= 0)
    assert not padded.mask[:, v:].any()
    assert padded.adjacency.sum() == graphs.adjacency.sum()


def test_adjacency_gives_the_graph_back(space: SearchSpace, genes: Genes, padded: PaddedGraphs) -> None:
    try:
        features, names = adjacency(space, genes), adjacency_names(space)
    except Unsupported as reason:
        pytest.skip(str(reason))
    assert set(np.unique(features)) <= {0.0, 1.0}
    for row in range(0, len(genes), 3):
        read = nx.DiGraph()
        for index in np.flatnonzero(features[row]).tolist():
            node, is_label, label = names[index].removeprefix("node ").partition("=")
            if is_label:
                read.add_node(int(node), label=label)
            else:
                start, end = names[index].split(" > ")
                read.add_edge(*(int(each.removeprefix("node ")) for each in (start, end)))
        expected = graph(padded, row)
        assert dict(read.nodes(data="label")) == dict(expected.nodes(data="label"))
        assert set(read.edges) == set(expected.edges)


def measured(whole: nx.DiGraph) -> dict[str, float]:
    """Every feature of structure, from how many paths there are of each length and number of layers."""
    first, last = min(whole), max(whole)
    layers = {node: int(is_layer(label)) for node, label in whole.nodes(data="label")}
    ways: dict[int, Counter[tuple[int, int]]] = {first: Counter({(0, layers[first]): 1})}
    for node in islice(nx.topological_sort(whole), 1, None):
        ways[node] = Counter()
        for feeder in whole.predecessors(node):
            for (length, passed), number in ways[feeder].items():
                ways[node][length + 1, passed + layers[node]] += number
    paths = ways[last]
    if paths.total() <= LISTED and first != last:
        listed = nx.all_simple_paths(whole, first, last)
        assert paths == Counter((len(each) - 1, sum(layers[node] for node in each)) for each in listed)
    longest, shortest = max(length for length, _ in paths), min(length for length, _ in paths)
    assert longest == nx.dag_longest_path_length(whole)
    assert shortest == nx.shortest_path_length(whole, first, last)
    most = max(passed for _, passed in paths)
    return {
        **{f"count.{label}": number for label, number in Counter(dict(whole.nodes(data="label")).values()).items()},
        "nodes": whole.number_of_nodes(),
        "edges": whole.number_of_edges(),
        "read_input": whole.out_degree(first),
        "read_by_output": whole.in_degree(last),
        "log2_paths": math.log2(paths.total()),
        "longest_path": longest,
        "shortest_path": shortest,
        "layers_on_longest_path": max(passed for length, passed in paths if length == longest),
        "layers_on_shortest_path": min(passed for length, passed in paths if length == shortest),
        "most_layers": most,
        "fewest_layers": min(passed for _, passed in paths),
        "effective_depth": sum(passed * number for (_, passed), number in paths.items()) / paths.total(),
        "effective_width": sum(layers.values()) / max(most, 1),
    }


def test_structure_is_what_networkx_finds(space: SearchSpace, genes: Genes, padded: PaddedGraphs) -> None:
    features, names = structure(space, genes), structure_names(space)
    assert tuple(names[-len(SHAPE) :]) == SHAPE
    for row, values in enumerate(features):
        expected: dict[str, Any] = {**dict.fromkeys(names, 0.0), **measured(graph(padded, row))}
        assert list(expected) == names
        np.testing.assert_allclose(values, np.array(list(expected.values())), rtol=1e-6, err_msg=str(names))


def test_paths_are_what_networkx_finds(space: SearchSpace, genes: Genes, padded: PaddedGraphs) -> None:
    try:
        features, names = path(space, genes), np.array(path_names(space))
    except Unsupported as reason:
        pytest.skip(str(reason))
    for row, values in enumerate(features):
        whole = graph(padded, row)
        listed = nx.all_simple_paths(whole, min(whole), max(whole))
        inner = [[whole.nodes[node]["label"] for node in each[1:-1]] for each in listed]
        assert set(names[values == 1]) == {" > ".join(["input", *labels, "output"]) for labels in inner}
        assert set(np.unique(values)) <= {0.0, 1.0}
