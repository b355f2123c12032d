"""Graphs laid out in columns from left to right, long ones folded into rows: where everything goes.

The steps are Sugiyama's (Sugiyama, Tagawa & Toda, IEEE Transactions on Systems, Man, and Cybernetics 1981): columns by
longest path, lines that skip columns given a place in each, orders with few crossings by medians, heights by least
squares. What several nodes send to the same several nodes meets in a join. A graph of many columns is cut where few
lines cross; such a line ends in a port with a letter, and goes on from the port of the same letter.
"""

from __future__ import annotations

import math
from bisect import bisect_right, insort
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

ROW = 8
"""Columns of boxes in a row of a folded graph, at most."""
_SWEEPS = 12
_GAP_BOXES, _GAP = 0.45, 0.2
"""Least distances between boxes, and between other items, in heights of a box."""
_WEIGHTS = (1.0, 2.0, 8.0)
"""How much two connected items want one height, by how many of them are places of a line: long lines are straight."""
_TO_PORT = 0.001
"""The same where one is a port: it gives way."""


@dataclass(slots=True)
class Item:
    """A box, a join, a port, or the place of a line between its ends.

    ``column`` is even for boxes, odd for what stands between two columns of boxes. ``node`` is the box's, ``letter`` a
    port's; ``number`` breaks ties in the order of nodes.
    """

    column: int
    number: float
    node: int = -1
    letter: str = ""
    line: bool = False
    y: float = 0.0

    @property
    def half(self) -> float:
        """Half the height that it needs, in heights of a box."""
        return 0.5 if self.node >= 0 else 0.3 if self.letter else 0.22


@dataclass(slots=True)
class Row:
    """Items with heights ``y``, in heights of a box, 0 the middle of the first; ``lines`` are paths of items."""

    items: list[Item] = field(default_factory=list)
    lines: list[list[Item]] = field(default_factory=list)

    @property
    def columns(self) -> list[int]:
        """Those of boxes, ascending."""
        return sorted({item.column for item in self.items if item.node >= 0})


@dataclass(frozen=True, slots=True)
class Layout:
    """``folds`` are lines from the last column of a row to the first of the next, by the row they leave."""

    rows: list[Row]
    folds: dict[int, tuple[Item, Item]]


def layers(count: int, edges: Iterable[tuple[int, int]]) -> Layout:
    """Places for the nodes 0 to ``count``, in topological order, and for their edges."""
    edges = sorted(set(edges))
    groups, single = _joins(edges)
    column = _columns(count, edges)
    breaks = _breaks(edges, column)
    row_of = {node: sum(column[node] >= each for each in breaks) for node in range(count)}
    rows = [Row() for _ in range(len(breaks) + 1)]
    boxes = [Item(column[node], node, node=node) for node in range(count)]
    for node, box in enumerate(boxes):
        rows[row_of[node]].items.append(box)
    folds = _folds(edges, boxes, row_of, breaks)
    crossing: defaultdict[tuple[int, ...], set[int]] = defaultdict(set)
    inside: list[tuple[int, int]] = []
    for a, targets in _targets(single).items():
        here = [b for b in targets if row_of[b] == row_of[a]]
        there = tuple(b for b in targets if row_of[b] != row_of[a] and folds.get(row_of[a]) != (boxes[a], boxes[b]))
        inside += [(a, b) for b in here]
        if there:
            crossing[there].add(a)
    for sources, targets in groups:
        _join(sources, targets, rows, boxes, row_of, crossing)
    for a, b in inside:
        rows[row_of[a]].lines.append([boxes[a], boxes[b]])
    leaving = {read: min((row_of[a], column[a], a) for a in nodes) for read, nodes in crossing.items()}
    for letter, read in zip(_letters(), sorted(leaving, key=lambda each: leaving[each]), strict=False):
        _ports(letter, sorted(crossing[read]), read, rows, boxes, row_of)
    for row in rows:
        _arrange(row)
    return Layout(rows, folds)


# ---------------------------------------------------------------------- what stands where


def _targets(edges: Iterable[tuple[int, int]]) -> dict[int, list[int]]:
    found: defaultdict[int, list[int]] = defaultdict(list)
    for a, b in edges:
        found[a].append(b)
    return found


def _joins(edges: Sequence[tuple[int, int]]) -> tuple[list[tuple[list[int], list[int]]], list[tuple[int, int]]]:
    """Nodes that all feed the same several others, and the edges that are left."""
    alike: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
    for a, targets in _targets(edges).items():
        alike[tuple(targets)].append(a)
    groups = [(sources, list(targets)) for targets, sources in alike.items() if min(len(sources), len(targets)) > 1]
    joined = {a for sources, _ in groups for a in sources}
    return groups, [(a, b) for a, b in edges if a not in joined]


def _columns(count: int, edges: Sequence[tuple[int, int]]) -> list[int]:
    """Twice the longest path to each node."""
    column = [0] * count
    for a, b in edges:  # sorted, so all that leads to a node is done before what leads on from it
        column[b] = max(column[b], column[a] + 2)
    return column


def _breaks(edges: Sequence[tuple[int, int]], column: Sequence[int]) -> list[int]:
    """The columns at which rows begin, but the first: few lines cross them, and rows are about as long."""
    total = max(column, default=0) // 2 + 1
    if total <= ROW:
        return []
    wanted = math.ceil(total / ROW)
    crossing = [len({a for a, b in edges if column[a] < 2 * cut <= column[b]}) for cut in range(total + 1)]
    best: dict[tuple[int, int], tuple[float, list[int]]] = {(0, 0): (0.0, [])}
    for number in range(1, wanted + 1):
        for end in range(1, total + 1):
            ways = [
                (cost + 2 * crossing[end] + (end - start - total / wanted) ** 2 / 4, [*cuts, end])
                for start in range(max(0, end - ROW), end)
                if (found := best.get((number - 1, start)))
                for cost, cuts in [found]
            ]
            if ways:
                best[number, end] = min(ways)
    return [2 * cut for cut in best[wanted, total][1][:-1]]


def _folds(
    edges: Sequence[tuple[int, int]], boxes: Sequence[Item], row_of: Mapping[int, int], breaks: Sequence[int]
) -> dict[int, tuple[Item, Item]]:
    """For each break a line that alone leaves its row from its node, in the last column, and alone comes to its end,
    in the first, from another row. None of those that meet in joins does."""
    far = [(a, b) for a, b in edges if row_of[a] != row_of[b]]
    folds: dict[int, tuple[Item, Item]] = {}
    for a, b in far:
        row = row_of[a]
        alone = sum(start == a or end == b for start, end in far) == 1
        if alone and boxes[b].column == breaks[row] == boxes[a].column + 2:
            folds.setdefault(row, (boxes[a], boxes[b]))
    return folds


def _join(
    sources: Sequence[int],
    targets: Sequence[int],
    rows: Sequence[Row],
    boxes: Sequence[Item],
    row_of: Mapping[int, int],
    crossing: defaultdict[tuple[int, ...], set[int]],
) -> None:
    """A join in each row that has several of both; other lines are drawn one by one."""
    for row in sorted({row_of[a] for a in sources}):
        mine = [boxes[a] for a in sources if row_of[a] == row]
        read = [boxes[b] for b in targets if row_of[b] == row]
        far = tuple(b for b in targets if row_of[b] > row)
        if far:
            crossing[far].update(item.node for item in mine)
        first, last = max(item.column for item in mine), min((item.column for item in read), default=0)
        if len(mine) > 1 and len(read) > 1 and first < last:
            join = Item(first + 1, sum(item.number for item in mine) / len(mine))
            rows[row].items.append(join)
            rows[row].lines += [[a, join] for a in mine] + [[join, b] for b in read]
        else:
            rows[row].lines += [[a, b] for a in mine for b in read]


def _ports(
    letter: str,
    sources: Sequence[int],
    targets: Sequence[int],
    rows: Sequence[Row],
    boxes: Sequence[Item],
    row_of: Mapping[int, int],
) -> None:
    """Where a line that crosses to other rows ends, once per column that it leaves, and where it goes on."""
    for nodes, leaves in ((sources, True), (targets, False)):
        shared: dict[tuple[int, int], Item] = {}
        for node in nodes:
            box, row = boxes[node], rows[row_of[node]]
            key = (row_of[node], box.column)
            if key not in shared:
                shared[key] = Item(
                    box.column + (1 if leaves else -1), box.number + (0.5 if leaves else -0.5), letter=letter
                )
                row.items.append(shared[key])
            row.lines.append([box, shared[key]] if leaves else [shared[key], box])


def _letters() -> Iterable[str]:
    size = 0
    while True:
        size += 1
        for number in range(26**size):
            digits = []
            for _ in range(size):
                number, digit = divmod(number, 26)
                digits.append("abcdefghijklmnopqrstuvwxyz"[digit])
            yield "".join(reversed(digits))


# ---------------------------------------------------------------------- orders and heights


def _arrange(row: Row) -> None:
    """Gives long lines a place in each column that they pass, then every item its height."""
    used = sorted({item.column for item in row.items})
    for path in row.lines:
        start, end = path[0], path[-1]
        passed = [column for column in used if start.column < column < end.column]
        between = [Item(column, (start.number + end.number) / 2, line=True) for column in passed]
        row.items += between
        path[1:1] = between
    before: dict[int, list[Item]] = {id(item): [] for item in row.items}
    behind: dict[int, list[Item]] = {id(item): [] for item in row.items}
    for path in row.lines:
        for a, b in pairwise(path):
            behind[id(a)].append(b)
            before[id(b)].append(a)
    by_column = {
        column: sorted((i for i in row.items if i.column == column), key=lambda i: i.number) for column in used
    }
    order = [by_column[column] for column in used]
    best, fewest = order, math.inf
    for sweep in range(_SWEEPS):
        _number(order)
        crossings = _crossings(order, behind)
        if crossings < fewest:
            best, fewest = [list(column) for column in order], crossings
        near = before if sweep % 2 == 0 else behind
        order = [list(column) for column in order]
        for column in order if sweep % 2 == 0 else reversed(order):
            column.sort(key=lambda item: _middle(near[id(item)], item.y))
            for place, item in enumerate(column):
                item.y = place - (len(column) - 1) / 2
    _number(best)
    for sweep in range(2 * _SWEEPS):
        sides = (before, behind) if sweep >= _SWEEPS else (before,) if sweep % 2 == 0 else (behind,)
        for column in best if sweep % 2 == 0 else reversed(best):
            _settle(column, sides)
    _straighten(row.lines, best)
    top = min((item.y - item.half for item in row.items), default=0.0)
    for item in row.items:
        item.y -= top + 0.5


def _number(order: Sequence[Sequence[Item]]) -> None:
    for column in order:
        for place, item in enumerate(column):
            item.y = place - (len(column) - 1) / 2


def _middle(near: Sequence[Item], own: float) -> float:
    return sum(item.y for item in near) / len(near) if near else own


def _crossings(order: Sequence[Sequence[Item]], behind: Mapping[int, Sequence[Item]]) -> int:
    """Pairs of lines that cross, between neighbouring columns."""
    total = 0
    for column in order:
        ends: list[float] = []
        for _, end in sorted((item.y, other.y) for item in column for other in behind[id(item)]):
            total += len(ends) - bisect_right(ends, end)
            insort(ends, end)
    return total


def _settle(column: Sequence[Item], near: Sequence[Mapping[int, Sequence[Item]]]) -> None:
    """Moves the items of a column towards what they are connected to, as near as the distances between them allow.

    Least squares under least distances in a given order is isotonic regression: neighbours that would overlap move as
    one block to the mean of where they want to be.
    """
    blocks: list[_Block] = []
    offset = 0.0
    for index, item in enumerate(column):
        if index:
            offset += _apart(column[index - 1], item)
        around = [(other.y, _pull(item, other)) for each in near for other in each[id(item)]]
        weight = sum(each for _, each in around)
        wants = sum(y * each for y, each in around) / weight if weight else item.y
        block = _Block(wants - offset, weight or 1.0, [(item, offset)])
        while blocks and blocks[-1].at > block.at:
            above = blocks.pop()
            weight = above.weight + block.weight
            at = (above.at * above.weight + block.at * block.weight) / weight
            block = _Block(at, weight, above.members + block.members)
        blocks.append(block)
    for block in blocks:
        for item, below in block.members:
            item.y = block.at + below


def _pull(one: Item, other: Item) -> float:
    return _TO_PORT if one.letter or other.letter else _WEIGHTS[one.line + other.line]


def _apart(above: Item, below: Item) -> float:
    """The least distance between the middles of two neighbours."""
    return above.half + below.half + (_GAP_BOXES if above.node >= 0 and below.node >= 0 else _GAP)


def _straighten(lines: Iterable[Sequence[Item]], order: Sequence[Sequence[Item]]) -> None:
    """Puts the places of each long line at one height, for as many columns on end as others leave it room."""
    above = {id(low): high for column in order for high, low in pairwise(column)}
    below = {id(high): low for column in order for high, low in pairwise(column)}
    for line in lines:
        run: list[Item] = []
        low, high = -math.inf, math.inf
        for item in line[1:-1]:
            over, under = above.get(id(item)), below.get(id(item))
            least = over.y + _apart(over, item) if over else -math.inf
            most = under.y - _apart(item, under) if under else math.inf
            if max(low, least) > min(high, most):
                _level(run, low, high)
                run, low, high = [], -math.inf, math.inf
            run.append(item)
            low, high = max(low, least), min(high, most)
        _level(run, low, high)


def _level(items: Sequence[Item], low: float, high: float) -> None:
    """All at one height, from ``low`` to ``high``."""
    wanted = sum(item.y for item in items) / max(len(items), 1)
    for item in items:
        item.y = min(max(wanted, low), high)


@dataclass(frozen=True, slots=True)
class _Block:
    """Items that move together: where the first place of their column would be, and how far below it each lies."""

    at: float
    weight: float
    members: list[tuple[Item, float]]
