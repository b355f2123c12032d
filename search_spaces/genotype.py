"""The text in which DARTS (Liu et al., ICLR 2019) and its followers publish cells, read without running it.

``Genotype(normal=[('sep_conv_3x3', 0), ...], normal_concat=range(2, 6), reduce=[...], reduce_concat=range(2, 6))``:
an operation and the node that it reads, two for each node in turn. Read is also what NASLib's tables hold,
``[[[0, 3], ...], [...]]``: the node and the number of the operation.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from search_spaces.space import InvalidArchitecture

Edge = tuple[str, int]
"""An operation's name and the node that it reads."""
CELLS = ("normal", "reduce")

_FORM = "Genotype(normal=[{1}], normal_concat=range(2, {0}), reduce=[{2}], reduce_concat=range(2, {0}))"
_LIST = r"(?:{0}(?:,{0})*,?)?\s*"
_NAMED = r"\s*\(\s*(?:'\w*'|\"\w*\")\s*,\s*\d{1,3}\s*\)\s*"
_NUMBERED = r"\s*[\[(]\s*\d{1,3}\s*,\s*\d{1,3}\s*[\])]\s*"
_CELL = rf"\s*=\s*\[({_LIST.format(_NAMED)})\]\s*,"
_CONCAT = r"\s*=\s*(?:range\(\s*(\d{1,3})\s*,\s*(\d{1,3})\s*\)|\[([\d,\s]*)\])\s*,?"
_GENOTYPE = re.compile(
    rf"Genotype\(\s*normal{_CELL}\s*normal_concat{_CONCAT}\s*reduce{_CELL}\s*reduce_concat{_CONCAT}\s*\)"
)
_NUMBERS = rf"\s*[\[(]({_LIST.format(_NUMBERED)})[\])]\s*"
_COMPACT = re.compile(rf"[\[(]{_NUMBERS},{_NUMBERS}[\])]")


def write(nodes: int, normal: Sequence[Edge], reduce: Sequence[Edge]) -> str:
    """The published text of two cells of ``nodes`` nodes."""
    cells = (", ".join(f"('{name}', {node})" for name, node in cell) for cell in (normal, reduce))
    return _FORM.format(nodes + 2, *cells)


def read(text: str, nodes: int, numbered: Sequence[str]) -> tuple[list[Edge], list[Edge]]:
    """The edges of the normal and of the reduction cell, as they stand there; ``numbered`` names operations.

    Raises `InvalidArchitecture`, as if it were row 0, for another form, another concatenation than that of all
    ``nodes`` nodes, or another number of edges than two for each.
    """
    # Long runs of blanks would be tried in all their parts.
    line = " ".join(text.split())
    if found := _COMPACT.fullmatch(line):
        pairs = [re.findall(r"(\d+)\s*,\s*(\d+)", cell) for cell in found.groups()]
        names = {str(number): name for number, name in enumerate(numbered)}
        normal, reduce = ([(names.get(op, f"number {op}"), int(node)) for node, op in cell] for cell in pairs)
    elif found := _GENOTYPE.fullmatch(line):
        one, *one_concat, other, low, high, listed = found.groups()
        for cell, concat in zip(CELLS, (one_concat, (low, high, listed)), strict=True):
            _check_concat(cell, nodes, *concat)
        edges = (re.findall(r"(\w*)['\"]\s*,\s*(\d+)", cell) for cell in (one, other))
        normal, reduce = ([(op, int(node)) for op, node in cell] for cell in edges)
    else:
        form = _FORM.format(nodes + 2, "('OPERATION', NODE), ...", "...")
        raise InvalidArchitecture(f"must read {form}, is {text[:200]!r}", row=0, field="notation")
    for cell, given in zip(CELLS, (normal, reduce), strict=True):
        if len(given) != 2 * nodes:
            message = f"has {len(given)} operations, a cell of {nodes} nodes has {2 * nodes}"
            raise InvalidArchitecture(message, row=0, field=cell)
    return normal, reduce


def _check_concat(cell: str, nodes: int, low: str | None, high: str | None, listed: str | None) -> None:
    found = range(int(low or 0), int(high or 0)) if listed is None else map(int, re.findall(r"\d+", listed))
    # Another order permutes the channels of a cell's output, which is no difference.
    if sorted(found) != list(range(2, nodes + 2)):
        message = f"must be range(2, {nodes + 2}): the output of a cell is that of all its nodes"
        raise InvalidArchitecture(message, row=0, field=f"{cell}_concat")
