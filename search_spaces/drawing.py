"""Pictures of architectures: from a graph to boxes and lines, and from those to SVG. Nothing but text is needed.

A chain in which some nodes may be skipped (residual blocks) is folded into rows, with each skip drawn from the line
before its node to a sum behind it. Any other graph is laid out in columns from left to right, by
`search_spaces.layers`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from search_spaces.layers import ROW, Item, layers
from search_spaces.layers import Row as LayerRow
from search_spaces.space import Graphs

_BOX_W, _BOX_H = 96, 44
_WIDEST = 20
"""Characters of a line in a box, at most."""
_GAP_X, _ROW_H = 50, 112
_GAP_COLUMNS, _GAP_WITH_JOINS, _GAP_ROWS = 64, 92, 66
_PAD_X, _PAD_Y = 44, 44
_SPLIT, _SUM = 21, 15
"""Where a skip leaves the line before a node, and where it joins the one behind it: distances from the box."""
_ARC = 26
_RADIUS = 9
_KINDS = 6
_BETWEEN = re.compile(r"=|[_.](?=\w)(?!(?<=\d\.)\d)|-(?=[a-z])", re.IGNORECASE)
"""What stands between the words of a label: not the points of numbers, not what lies in braces."""
_SHORT = 13
"""Characters of a label without numbers that stays on one line, at most."""
_TOLD = 60
"""Nodes of a graph that a description tells one by one, at most."""


@dataclass(frozen=True, slots=True)
class Box:
    """A node: its label in full and in lines that fit. Nodes of one family of operations have one ``kind``."""

    x: float
    y: float
    width: float
    height: float
    label: str
    lines: tuple[str, ...]
    kind: int


@dataclass(frozen=True, slots=True)
class Port:
    """Where a line ends that goes on from the ports of the same letter in another row."""

    x: float
    y: float
    letter: str


@dataclass(frozen=True, slots=True)
class Drawing:
    """``paths`` end in arrow heads, ``lines`` and ``skips`` do not; ``sums``, ``splits`` and ``joins`` are points.

    ``title`` says in a few words what is seen, ``description`` which node feeds which.
    """

    width: float
    height: float
    title: str
    description: str
    boxes: tuple[Box, ...]
    paths: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()
    skips: tuple[str, ...] = ()
    sums: tuple[tuple[float, float], ...] = ()
    splits: tuple[tuple[float, float], ...] = ()
    joins: tuple[tuple[float, float], ...] = ()
    ports: tuple[Port, ...] = ()


def drawing(graphs: Graphs, row: int = 0) -> Drawing:
    """The drawing of one graph of a batch."""
    kept = [node for node, kind in enumerate(graphs.operations[row].tolist()) if kind >= 0]
    place = {node: index for index, node in enumerate(kept)}
    nodes = [graphs.labels[graphs.operations[row, node]] for node in kept]
    starts, ends = graphs.adjacency[row].nonzero()
    edges = [(place[a], place[b]) for a, b in zip(starts.tolist(), ends.tolist(), strict=True)]
    return drawn(nodes, edges)


def drawn(nodes: Sequence[str], edges: Iterable[Sequence[int]]) -> Drawing:
    """The drawing of a graph: ``nodes`` are labels in topological order, ``edges`` pairs of their indices.

    Raises ValueError for an edge that does not lead from one of the nodes to a later one.
    """
    pairs = {(int(a), int(b)) for a, b in edges}
    wrong = [pair for pair in pairs if not 0 <= pair[0] < pair[1] < len(nodes)]
    if wrong:
        raise ValueError(f"edge {min(wrong)} does not lead from one of {len(nodes)} nodes to a later one")
    skipped = _skipped(len(nodes), pairs)
    told = _told(nodes, sorted(pairs))
    return _columns(nodes, pairs, told) if skipped is None else _chain(nodes, skipped, told)


def _told(nodes: Sequence[str], edges: Sequence[tuple[int, int]]) -> str:
    """Which node feeds which, in words."""
    feeds: dict[int, list[str]] = {}
    for a, b in edges:
        feeds.setdefault(a, []).append(f"{b + 1}")
    told = [
        f"{index + 1} {name}" + (f" feeds {', '.join(feeds[index])}" if index in feeds else "")
        for index, name in enumerate(nodes[:_TOLD])
    ]
    return "; ".join(told) + (f"; and {len(nodes) - _TOLD} more." if len(nodes) > _TOLD else ".")


# ---------------------------------------------------------------------- chains


def _skipped(count: int, edges: set[tuple[int, int]]) -> set[int] | None:
    """The nodes that can be skipped, if the graph is a chain with skips and nothing else; otherwise None."""
    passes = {node for node in range(1, count - 1) if (node - 1, node + 1) in edges}
    implied = 0
    for start in range(count - 1):
        for end in range(start + 1, count):
            if (start, end) not in edges:
                return None
            implied += 1
            if end not in passes:
                break
    return passes if implied == len(edges) else None


def _chain(nodes: Sequence[str], skipped: set[int], told: str) -> Drawing:
    rows = math.ceil(len(nodes) / ROW)
    across = math.ceil(len(nodes) / max(rows, 1)) if nodes else 1
    texts, kinds, wide = _texts(nodes), _kinds(nodes), _width(nodes)
    boxes, paths, skips, sums, splits = [], [], [], [], []
    for index, name in enumerate(nodes):
        row, column = divmod(index, across)
        x, y = _PAD_X + column * (wide + _GAP_X), _PAD_Y + row * _ROW_H
        middle, right = y + _BOX_H / 2, x + wide
        boxes.append(Box(x, y, wide, _BOX_H, name, texts[index], kinds[index]))
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
            paths.append(_fold(right, right, middle, middle + _ROW_H, middle + _ROW_H - _BOX_H / 2 - _ARC - 8, _PAD_X))
    width = 2 * _PAD_X + across * wide + (across - 1) * _GAP_X
    height = 2 * _PAD_Y + max(rows - 1, 0) * _ROW_H + _BOX_H - 16
    text = f"A chain of {len(nodes)} operations"
    if skipped:
        text += f", {len(skipped)} of them with a skip connection"
    return Drawing(width, height, text, told, tuple(boxes), tuple(paths), (), tuple(skips), tuple(sums), tuple(splits))


def _bow(left: float, right: float, foot: float, top: float) -> str:
    """A line with round corners from the left foot over the top to the right foot."""
    r = _RADIUS
    up, across = f"V{top + r:g} Q{left:g},{top:g} {left + r:g},{top:g}", f"H{right - r:g}"
    return f"M{left:g},{foot:g} {up} {across} Q{right:g},{top:g} {right:g},{top + r:g} V{foot - 6:g}"


def _fold(start: float, edge: float, middle: float, target: float, lane: float, end: float) -> str:
    """From ``start`` in one row round its ``edge`` and along the ``lane`` to ``end``, where the next row begins."""
    r = _RADIUS
    out, back = edge + 30, _PAD_X - 28
    return (
        f"M{start:g},{middle:g} H{out - r:g} Q{out:g},{middle:g} {out:g},{middle + r:g} V{lane - r:g} "
        f"Q{out:g},{lane:g} {out - r:g},{lane:g} H{back + r:g} Q{back:g},{lane:g} {back:g},{lane + r:g} "
        f"V{target - r:g} Q{back:g},{target:g} {back + r:g},{target:g} H{end:g}"
    )


# ---------------------------------------------------------------------- any other graph


def _columns(nodes: Sequence[str], edges: set[tuple[int, int]], told: str) -> Drawing:
    layout = layers(len(nodes), edges)
    texts, kinds, wide = _texts(nodes), _kinds(nodes), _width(nodes)
    boxes: dict[int, Box] = {}
    paths: list[str] = []
    lines: list[str] = []
    joins: list[tuple[float, float]] = []
    ports: list[Port] = []
    ends: list[tuple[float, float]] = []
    top = float(_PAD_Y)
    for row in layout.rows:
        places = _places(row, wide)
        heights = {id(item): top + (item.y + 0.5) * _BOX_H for item in row.items}
        right, bottom = 0.0, top
        for item in row.items:
            x, y = places[item.column], heights[id(item)]
            bottom = max(bottom, y + item.half * _BOX_H)
            if item.node >= 0:
                right = max(right, x + wide)
                name, lined, kind = nodes[item.node], texts[item.node], kinds[item.node]
                boxes[item.node] = Box(x, y - _BOX_H / 2, wide, _BOX_H, name, lined, kind)
            elif item.letter:
                right = max(right, x + _RADIUS)
                ports.append(Port(x, y, item.letter))
            elif not item.line:
                joins.append((x, y))
        for path in row.lines:
            stops = [(places[item.column], heights[id(item)], item) for item in path]
            (paths if path[-1].node >= 0 else lines).append(_curves(stops, wide))
        ends.append((right, bottom))
        top = bottom + _GAP_ROWS
    edge = max((right for right, _ in ends), default=0.0)
    for number, (a, b) in layout.folds.items():
        start, end = boxes[a.node], boxes[b.node]
        middles = start.y + _BOX_H / 2, end.y + _BOX_H / 2
        paths.append(_fold(start.x + wide, edge, *middles, ends[number][1] + _GAP_ROWS / 2, end.x))
    bottom = ends[-1][1]
    text = f"A graph of {len(nodes)} operations and {len(edges)} connections"
    return Drawing(
        edge + _PAD_X,
        bottom + _PAD_Y,
        text,
        told,
        tuple(boxes[node] for node in range(len(nodes))),
        tuple(paths),
        tuple(lines),
        joins=tuple(joins),
        ports=tuple(ports),
    )


def _places(row: LayerRow, wide: float) -> dict[int, float]:
    """Where columns are: the left sides of boxes, the middles of what stands between them."""
    used = {item.column for item in row.items}
    places: dict[int, float] = {}
    x = float(_PAD_X)
    for column in row.columns:
        between = [each for each in used if places and max(places) < each < column]
        if places:
            x += _GAP_WITH_JOINS if between else _GAP_COLUMNS
        if column - 1 in used and not places:
            x += _GAP_COLUMNS / 2
        odd = sorted(each for each in used if each % 2 and each < column and each not in places)
        for number, each in enumerate(odd):
            gap = _GAP_WITH_JOINS if places else 2 * _GAP_COLUMNS / 2
            places[each] = x - gap * (len(odd) - number) / (len(odd) + 1)
        places[column] = x
        x += wide
    for each in sorted(each for each in used if each not in places):
        places[each] = x + _GAP_COLUMNS / 2
    return places


def _curves(stops: Sequence[tuple[float, float, Item]], wide: float) -> str:
    """Through all stops, level past the columns of boxes that lie on the way."""
    x, y, item = stops[0]
    x += wide if item.node >= 0 else 0
    parts = [f"M{x:g},{y:.5g}"]
    for place, height, item in stops[1:]:
        end = place - (_RADIUS if item.letter else 0)
        reach = (end - x) / 2
        parts.append(f"C{x + reach:g},{y:.5g} {end - reach:g},{height:.5g} {end:g},{height:.5g}")
        x, y = end, height
        if item.line and item.column % 2 == 0:
            x += wide
            parts.append(f"H{x:g}")
    return " ".join(parts)


# ---------------------------------------------------------------------- labels


def _texts(nodes: Sequence[str]) -> list[tuple[str, ...]]:
    return [_lined(name) for name in nodes]


def _lined(name: str) -> tuple[str, ...]:
    """A label in at most two lines: what the operation is, and its size or what comes behind."""
    head, rest = _parted(name)
    return tuple(part if len(part) <= _WIDEST else part[: _WIDEST - 1] + "…" for part in (head, rest) if part)


def _parted(name: str) -> tuple[str, str]:
    """The words of a label before the first with a digit, or the first, and the others."""
    words = [word for word in _BETWEEN.split(name) if word] or [name]
    count = next((i for i, word in enumerate(words) if any(map(str.isdigit, word))), len(words))
    if count == len(words) and len(" ".join(words)) > _SHORT:
        count = 1
    count = max(count, 1)
    return " ".join(words[:count]), " ".join(words[count:])


def _width(nodes: Sequence[str]) -> float:
    """Of all boxes: as wide as the longest line of text, bold in the first line, needs."""
    texts = [(line, bool(second)) for name in nodes for second, line in enumerate(_lined(name))]
    return max([_BOX_W, *(math.ceil(len(line) * (7 if second else 8.4)) + 16 for line, second in texts)])


def _kinds(nodes: Sequence[str]) -> list[int]:
    """A number per node, equal for labels with the same first line, in the order in which those appear."""
    heads = list(dict.fromkeys(_parted(name)[0] for name in nodes))
    return [heads.index(_parted(name)[0]) % _KINDS for name in nodes]


# ---------------------------------------------------------------------- SVG

_LIGHT = ("#fff", "#171b22", "#5a6472", ("#2f6fde", "#0a7f93", "#0d8f6c", "#d9730d", "#a8479c", "#8a6d00"))
_DARK = ("#161b22", "#e8ebf0", "#9aa5b4", ("#6ea0ff", "#4cc3d6", "#43c79f", "#ffa14d", "#db86d0", "#d4b63c"))


def svg(drawn: Drawing, title: str = "", *, name: str = "architecture", styled: bool = True) -> str:
    """The drawing as an SVG element, or as the whole of a file.

    ``title`` comes before the drawing's own for who does not see it; ``name`` begins the ids of elements: two drawings
    in one page need two. ``styled`` puts colours in, light and dark as the reader's system is; without, the page has
    rules for the classes ``node``, ``k0`` to ``k5``, ``second``, ``edge``, ``skip``, ``split``, ``sum``, ``join``,
    ``port`` and ``head``. All text is escaped.
    """
    spoken = f"{title}: {drawn.title}" if title else drawn.title
    size = f"{drawn.width:g} {drawn.height:g}"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="{name}" viewBox="0 0 {size}" width="{drawn.width:g}" '
        f'height="{drawn.height:g}" role="img" aria-labelledby="{name}-title {name}-text">',
        f'<title id="{name}-title">{escape(spoken)}</title>',
        f'<desc id="{name}-text">{escape(drawn.description)}</desc>',
        f'<defs><marker id="{name}-arrow" viewBox="0 0 8 8" refX="7.5" refY="4" markerWidth="7" markerHeight="7" '
        'orient="auto-start-reverse"><path class="head" d="M0,0 L8,4 L0,8 Z"/></marker></defs>',
    ]
    if styled:
        parts += [f"<style>{_style(name)}</style>", '<rect class="paper" width="100%" height="100%"/>']
    parts += [f'<path class="edge" d="{path}" marker-end="url(#{name}-arrow)"/>' for path in drawn.paths]
    parts += [f'<path class="edge" d="{path}"/>' for path in drawn.lines]
    parts += [f'<path class="edge skip" d="{path}"/>' for path in drawn.skips]
    parts += [f'<circle class="split" cx="{x:g}" cy="{y:g}" r="2.5"/>' for x, y in drawn.splits]
    parts += [f'<circle class="join" cx="{x:g}" cy="{y:.5g}" r="3.5"/>' for x, y in drawn.joins]
    parts += [
        f'<g class="sum" transform="translate({x:g},{y:g})"><circle r="6.5"/><path d="M-3.5,0 H3.5 M0,-3.5 V3.5"/></g>'
        for x, y in drawn.sums
    ]
    parts += [
        f'<g class="port"><circle cx="{port.x:g}" cy="{port.y:.5g}" r="{_RADIUS}"/>'
        f'<text x="{port.x:g}" y="{port.y:.5g}">{port.letter}</text></g>'
        for port in drawn.ports
    ]
    parts += [_node(box) for box in drawn.boxes]
    return "\n".join([*parts, "</svg>"]) + "\n"


def _node(box: Box) -> str:
    middle = box.y + box.height / 2
    texts = [
        f'<text x="{box.x + box.width / 2:g}" y="{middle + (number - (len(box.lines) - 1) / 2) * 16:.5g}"'
        f"{' class=' + chr(34) + 'second' + chr(34) if number else ''}>{escape(line)}</text>"
        for number, line in enumerate(box.lines)
    ]
    return (
        f'<g class="node k{box.kind}"><title>{escape(box.label)}</title><rect x="{box.x:g}" y="{box.y:.5g}" '
        f'width="{box.width:g}" height="{box.height:g}" rx="8"/>{"".join(texts)}</g>'
    )


def _style(name: str) -> str:
    """Rules that hold in this drawing alone, with plain colours: what shows SVG need not know CSS's newer parts."""
    light, dark = (_colours(name, *colours) for colours in (_LIGHT, _DARK))
    font = "system-ui,-apple-system,'Segoe UI',Roboto,'Noto Sans','DejaVu Sans',sans-serif"
    return (
        f".{name} text{{font:600 13px {font};text-anchor:middle;dominant-baseline:central}}"
        f".{name} text.second{{font-weight:400;font-size:12px}}.{name} .port text{{font-size:11px}}"
        f".{name} .edge{{fill:none;stroke-width:1.5}}.{name} .skip{{stroke-dasharray:4 3}}"
        f".{name} .node rect,.{name} .sum *,.{name} .port circle{{stroke-width:1.3}}"
        f".{name} .node rect{{fill-opacity:.13}}"
        f"{light}@media (prefers-color-scheme:dark){{{dark}}}"
    )


def _colours(name: str, paper: str, ink: str, muted: str, kinds: Sequence[str]) -> str:
    return (
        f".{name} .paper,.{name} .sum circle,.{name} .port circle{{fill:{paper}}}.{name} text{{fill:{ink}}}"
        f".{name} text.second{{fill:{muted}}}.{name} .edge,.{name} .sum *,.{name} .port circle{{stroke:{muted}}}"
        f".{name} .head,.{name} .split,.{name} .join{{fill:{muted}}}"
        + "".join(f".{name} .k{kind} rect{{fill:{colour};stroke:{colour}}}" for kind, colour in enumerate(kinds))
    )
