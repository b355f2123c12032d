"""Drawings show the graph that they are of, whole and readable, as SVG."""

from __future__ import annotations

import re
from collections import defaultdict
from itertools import combinations, product
from xml.etree import ElementTree

import numpy as np
import pytest

from search_spaces.drawing import Drawing, drawing, drawn, svg
from search_spaces.layers import ROW, Item, Layout, layers
from search_spaces.plugins import load
from search_spaces.space import SearchSpace
from tests.spaces import CASES

Edges = set[tuple[int, int]]
NAMESPACE = "{http://www.w3.org/2000/svg}"

# A cell of nine operations on a path: too many columns for one row.
LONG: Edges = {(i, i + 1) for i in range(20)} | {(0, 3), (2, 15), (5, 15), (5, 17), (18, 20)}


def random_graph(seed: int) -> tuple[int, Edges]:
    """Any graph whose nodes are all fed, but the first."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(2, 26))
    matrix = np.triu(rng.random((count, count)) < rng.choice([0.05, 0.2, 0.5]), 1)
    for node in range(1, count):
        if not matrix[:, node].any():
            matrix[rng.integers(max(0, node - 2), node), node] = True
    return count, {(int(a), int(b)) for a, b in np.argwhere(matrix)}


def shown(layout: Layout) -> list[tuple[int, int]]:
    """The edges that a reader sees: through joins, and from ports to those of the same letter."""
    edges = [(a.node, b.node) for a, b in layout.folds.values()]
    into: defaultdict[object, list[int]] = defaultdict(list)
    out_of: defaultdict[object, list[int]] = defaultdict(list)
    for line in (line for row in layout.rows for line in row.lines):
        first, last = line[0], line[-1]
        assert all(item.line for item in line[1:-1])
        if first.node >= 0 and last.node >= 0:
            edges.append((first.node, last.node))
        elif first.node >= 0:
            into[last.letter or id(last)].append(first.node)
        else:
            out_of[first.letter or id(first)].append(last.node)
    assert into.keys() == out_of.keys()
    return edges + [pair for key in into for pair in product(into[key], out_of[key])]


@pytest.mark.parametrize("seed", range(60))
def test_every_connection_is_drawn_once_and_nothing_overlaps(seed: int) -> None:
    count, edges = random_graph(seed)
    layout = layers(count, edges)
    assert sorted(shown(layout)) == sorted(edges)
    for row in layout.rows:
        assert len(row.columns) <= ROW
        by_column: defaultdict[int, list[Item]] = defaultdict(list)
        for item in row.items:
            by_column[item.column].append(item)
            assert item.y >= -0.5 + item.half - 1e-9
        for column in by_column.values():
            for one, other in combinations(column, 2):
                assert abs(one.y - other.y) >= one.half + other.half
        for line in row.lines:
            assert [item.column for item in line] == sorted({item.column for item in line}), "from left to right"
    picture = drawn([f"op_{node}" for node in range(count)], edges)
    assert all(box.x >= 0 and box.x + box.width <= picture.width for box in picture.boxes)
    assert all(box.y >= 0 and box.y + box.height <= picture.height for box in picture.boxes)
    assert all(not _overlap(picture, a, b) for a, b in combinations(range(count), 2))


def _overlap(picture: Drawing, a: int, b: int) -> bool:
    one, other = picture.boxes[a], picture.boxes[b]
    return abs(one.x - other.x) < one.width and abs(one.y - other.y) < one.height


def test_a_chain_with_residual_blocks_is_folded_into_rows() -> None:
    count, passes = 22, {4, 5, 9, 20}
    edges = [[a, b] for a in range(count) for b in range(a + 1, count) if set(range(a + 1, b)) <= passes]
    picture = drawn([f"mb3_k{i % 3}" for i in range(count)], edges)
    assert len(picture.skips) == len(picture.sums) == 4
    assert len(picture.paths) == count - 1
    assert len({box.y for box in picture.boxes}) == 3
    assert all(box.x >= 0 and box.x + box.width <= picture.width for box in picture.boxes)
    assert all(box.y >= 0 and box.y + box.height <= picture.height for box in picture.boxes)
    assert "4 of them with a skip connection" in picture.title


def test_any_other_graph_is_drawn_edge_by_edge() -> None:
    edges = [[0, 1], [0, 2], [0, 3], [1, 4], [2, 4], [3, 4], [0, 4]]
    picture = drawn(["input", "conv_3x3", "conv_1x1", "skip", "output"], edges)
    assert len(picture.paths) == len(edges)
    assert not picture.skips
    assert len({(box.x, box.y) for box in picture.boxes}) == 5
    assert drawn(["only"], []).boxes


def test_lines_of_several_nodes_to_the_same_several_meet() -> None:
    edges = [(0, 1), (0, 2), *product((1, 2), (3, 4)), (3, 5), (4, 5)]
    picture = drawn(["input", "a", "b", "c", "d", "output"], edges)
    assert len(picture.joins) == 1
    assert (len(picture.lines), len(picture.paths)) == (2, 6)


def test_long_graphs_go_on_in_another_row_at_the_same_letter() -> None:
    picture = drawn([f"op_{node}" for node in range(21)], LONG)
    tops = sorted({box.y for box in picture.boxes})
    assert picture.width < ROW * 200
    assert picture.height > tops[0] + 3 * 44
    letters = [port.letter for port in picture.ports]
    assert all(letters.count(letter) > 1 for letter in letters)
    # One row leads to the next without a letter where it alone does.
    assert sum("H16" in path or "Q16" in path for path in picture.paths) >= 1


@pytest.mark.parametrize("case", [case for case in CASES if not case.endswith("-row")])
def test_architectures_of_every_space_are_drawn_whole(case: str) -> None:
    plugin, options = CASES[case]
    space: SearchSpace = load("spaces", plugin)(**options)
    graphs = space.graphs(space.sample(3, np.random.default_rng(5)))
    for row in range(len(graphs.operations)):
        picture = drawing(graphs, row)
        kinds = graphs.operations[row]
        assert [box.label for box in picture.boxes] == [graphs.labels[kind] for kind in kinds[kinds >= 0]]
        assert picture.width <= ROW * 260
        file = ElementTree.fromstring(svg(picture))
        assert len(file.findall(f"{NAMESPACE}g[@class]")) == len(picture.boxes + picture.ports) + len(picture.sums)
        if not picture.title.startswith("A chain"):
            edges = [(int(a), int(b)) for a, b in np.argwhere(graphs.adjacency[row])]
            assert sorted(shown(layers(len(picture.boxes), edges))) == sorted(edges)


@pytest.mark.parametrize("edge", [(1, 0), (1, 1), (0, 3), (-1, 1)])
def test_what_is_no_graph_is_refused(edge: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=re.escape(f"edge {edge}")):
        drawn(["a", "b", "c"], [(0, 1), (1, 2), edge])


@pytest.mark.parametrize(
    ("label", "lines"),
    [
        ("nor_conv_3x3", ("nor conv", "3x3")),
        ("skip_connect", ("skip connect",)),
        ("conv3x3-bn-relu", ("conv3x3", "bn relu")),
        ("normal.c_{k-2}", ("normal", "c_{k-2}")),
        ("mb3_k5", ("mb3", "k5")),
        ("block2.kernel=5", ("block2", "kernel 5")),
        ("rate=0.25", ("rate", "0.25")),
        ("x" * 40, ("x" * 19 + "…",)),
        ("_", ("_",)),
        ("", ()),
    ],
)
def test_labels_are_parted_and_fit(label: str, lines: tuple[str, ...]) -> None:
    box = drawn([label], []).boxes[0]
    assert box.lines == lines
    assert box.label == label
    assert box.width >= 7 * max(map(len, lines), default=0)


def test_families_of_operations_have_one_colour() -> None:
    picture = drawn(["input", "nor_conv_3x3", "nor_conv_1x1", "avg_pool_3x3"], [(0, 1), (1, 2), (2, 3)])
    first, wide, narrow, pool = (box.kind for box in picture.boxes)
    assert wide == narrow
    assert len({first, wide, pool}) == 3


def test_text_is_escaped_and_said_to_those_who_do_not_see_it() -> None:
    nasty = "</text><script>alert('&\"')</script>"
    text = svg(drawn([nasty, "b"], [(0, 1)]), f"of {nasty}", name="one")
    file = ElementTree.fromstring(text)
    assert "<script" not in text
    assert file.get("role") == "img"
    assert file.get("aria-labelledby") == "one-title one-text"
    found = {each.get("id"): each.text for each in file.iter() if each.get("id")}
    assert found["one-title"] == f"of {nasty}: A chain of 2 operations"
    assert found["one-text"] == f"1 {nasty} feeds 2; 2 b."
    assert [each.text for each in file.iter(f"{NAMESPACE}title")][1:] == [nasty, "b"]


def test_colours_are_the_readers_or_the_pages() -> None:
    picture = drawn(["a", "b"], [(0, 1)])
    alone, inside = svg(picture), svg(picture, name="x", styled=False)
    assert "prefers-color-scheme:dark" in alone
    assert "<style>" not in inside
    assert 'class="paper"' not in inside
    assert alone == svg(picture)
    assert not set(re.findall(r'id="([^"]+)"', alone)) & set(re.findall(r'id="([^"]+)"', inside))
