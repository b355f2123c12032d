"""An architecture's graph as boxes and lines, ready to be drawn as SVG.

A chain in which some nodes may be skipped (residual blocks) is folded into rows, with each skip drawn from the line
before its node to a sum behind it. Any other graph is laid out in layers from left to right.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from service.wire.base import Json

ROW = 8
"""Nodes in a row of a folded chain, at most."""
_BOX_W, _BOX_H = 96, 44
_GAP_X, _ROW_H = 50, 112
_PAD_X, _PAD_Y = 44, 44
_SPLIT, _SUM = 21, 15
"""Where a skip leaves the line before a node, and where it joins the one behind it: distances from the box."""
_ARC = 26
_RADIUS = 9
_KINDS = 6


@dataclass(frozen=True, slots=True)
class Box:
    x: float
    y: float
    width: float
    height: float
    lines: tuple[str, ...]
    kind: int
    """Nodes of one family of operations have one colour."""


@dataclass(frozen=True, slots=True)
class Diagram:
    """``paths`` end in arrow heads, ``skips`` do not; ``sums`` and ``splits`` are points."""

    width: float
    height: float
    description: str
    boxes: tuple[Box, ...]
    paths: tuple[str, ...]
    skips: tuple[str, ...] = ()
    sums: tuple[tuple[float, float], ...] = ()
    splits: tuple[tuple[float, float], ...] = field(default=())


def diagram(graph: Json) -> Diagram:
    """The drawing of a graph: ``nodes`` (labels in topological order) and ``edges`` (pairs of indices)."""
    nodes: list[str] = list(graph["nodes"])
    edges = {(int(a), int(b)) for a, b in graph["edges"]}
    skipped = _skipped(len(nodes), edges)
    return _layers(nodes, edges) if skipped is None else _chain(nodes, skipped)


def _skipped(count: int, edges: set[tuple[int, int]]) -> set[int] | None:
    """The nodes that can be skipped, if the graph is a chain with skips and nothing else; otherwise None."""
    passes = {node for node in range(1, count - 1) if (node - 1, node + 1) in edges}
    implied = set()
    for start in range(count - 1):
        for end in range(start + 1, count):
            implied.add((start, end))
            if end not in passes:
                break
    return passes if implied == edges else None


def _chain(nodes: Sequence[str], skipped: set[int]) -> Diagram:
    rows = math.ceil(len(nodes) / ROW)
    across = math.ceil(len(nodes) / max(rows, 1)) if nodes else 1
    kinds = _kinds(nodes)
    boxes, paths, skips, sums, splits = [], [], [], [], []
    for index, name in enumerate(nodes):
        row, column = divmod(index, across)
        x, y = _PAD_X + column * (_BOX_W + _GAP_X), _PAD_Y + row * _ROW_H
        middle, right = y + _BOX_H / 2, x + _BOX_W
        boxes.append(Box(x, y, _BOX_W, _BOX_H, _lines(name), kinds[index]))
        if index in skipped:
            left_x, right_x = x - _SPLIT, right + _SUM
            splits.append((left_x, middle))
            sums.append((right_x, middle))
            skips.append(_bow(left_x, right_x, middle, y - _ARC + 4))
        if index == len(nodes) - 1:
            continue
        if column < across - 1:
            paths.append(f"M{right:g},{middle:g} H{right + _GAP_X:g}")
        else:
            paths.append(_fold(right, middle, middle + _ROW_H))
    width = 2 * _PAD_X + across * _BOX_W + (across - 1) * _GAP_X
    height = 2 * _PAD_Y + max(rows - 1, 0) * _ROW_H + _BOX_H - 16
    text = f"A chain of {len(nodes)} operations"
    if skipped:
        text += f", {len(skipped)} of them with a skip connection"
    return Diagram(width, height, text, tuple(boxes), tuple(paths), tuple(skips), tuple(sums), tuple(splits))


def _bow(left: float, right: float, foot: float, top: float) -> str:
    """A line with round corners from the left foot over the top to the right foot."""
    r = _RADIUS
    up, across = f"V{top + r:g} Q{left:g},{top:g} {left + r:g},{top:g}", f"H{right - r:g}"
    return f"M{left:g},{foot:g} {up} {across} Q{right:g},{top:g} {right:g},{top + r:g} V{foot - 6:g}"


def _fold(right: float, middle: float, target: float) -> str:
    """From the end of one row to the start of the next."""
    r, start, lane = _RADIUS, _PAD_X, target - _BOX_H / 2 - _ARC - 8
    out, back = right + 30, start - 28
    return (
        f"M{right:g},{middle:g} H{out - r:g} Q{out:g},{middle:g} {out:g},{middle + r:g} V{lane - r:g} "
        f"Q{out:g},{lane:g} {out - r:g},{lane:g} H{back + r:g} Q{back:g},{lane:g} {back:g},{lane + r:g} "
        f"V{target - r:g} Q{back:g},{target:g} {back + r:g},{target:g} H{start:g}"
    )


def _layers(nodes: Sequence[str], edges: set[tuple[int, int]]) -> Diagram:
    depth = [0] * len(nodes)
    for start, end in sorted(edges):
        depth[end] = max(depth[end], depth[start] + 1)
    members: dict[int, list[int]] = {}
    for index, layer in enumerate(depth):
        members.setdefault(layer, []).append(index)
    tallest = max((len(each) for each in members.values()), default=1)
    kinds = _kinds(nodes)
    step_x, step_y = _BOX_W + 64, _BOX_H + 40
    height = 2 * _PAD_Y + tallest * step_y - 40
    places: dict[int, tuple[float, float]] = {}
    for layer, inside in members.items():
        top = (height - (len(inside) * step_y - 40)) / 2
        for position, index in enumerate(inside):
            places[index] = (_PAD_X + layer * step_x, top + position * step_y)
    paths = [_curve(places[a], places[b], depth[b] - depth[a]) for a, b in sorted(edges)]
    boxes = [Box(*places[i], _BOX_W, _BOX_H, _lines(name), kinds[i]) for i, name in enumerate(nodes)]
    width = 2 * _PAD_X + (max(depth, default=0) + 1) * step_x - 64
    text = f"A graph of {len(nodes)} operations and {len(edges)} connections"
    return Diagram(width, height, text, tuple(boxes), tuple(paths))


def _curve(start: tuple[float, float], end: tuple[float, float], span: int) -> str:
    """From the right side of one box to the left side of another; long ones bow, so as not to hide behind boxes."""
    x0, y0, x1, y1 = start[0] + _BOX_W, start[1] + _BOX_H / 2, end[0], end[1] + _BOX_H / 2
    bow = -14 * (span - 1) - _BOX_H * (span > 1) if y1 <= y0 else 14 * (span - 1)
    reach = (x1 - x0) / 2
    return f"M{x0:g},{y0:g} C{x0 + reach:g},{y0 + bow:g} {x1 - reach:g},{y1 + bow:g} {x1:g},{y1:g}"


def _lines(name: str) -> tuple[str, ...]:
    """A label in at most two lines."""
    head, _, rest = name.partition("_")
    return tuple(part if len(part) <= 14 else part[:13] + "…" for part in (head, rest.replace("_", " ")) if part)


def _kinds(nodes: Sequence[str]) -> list[int]:
    """A number per node, equal for labels with the same head, in the order in which heads appear."""
    heads = list(dict.fromkeys(name.partition("_")[0] for name in nodes))
    return [heads.index(name.partition("_")[0]) % _KINDS for name in nodes]
