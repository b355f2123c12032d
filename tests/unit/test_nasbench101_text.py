"""NAS-Bench-101's options, cells as text, and refusals that say what is wrong."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from search_spaces.nasbench101 import OPERATIONS, NasBench101
from search_spaces.space import Genes, InvalidArchitecture, InvalidSpace

SPACE, ROWS = NasBench101(), NasBench101(identity="row")
CONV_3X3, CONV_1X1, POOL = OPERATIONS


def text(edges: str, *operations: str) -> str:
    """A cell from edges such as "01 12" and the operations of its inner vertices."""
    last = len(operations) + 1
    matrix = [[int(f"{a}{b}" in edges.split()) for b in range(last + 1)] for a in range(last + 1)]
    return json.dumps({"adjacency": matrix, "operations": ["input", *operations, "output"]})


def cell(edges: str, *operations: str, space: NasBench101 = SPACE) -> Genes:
    return space.from_notation([text(edges, *operations)])


# ---------------------------------------------------------------------- options, notation, refusals

BAD: list[tuple[dict[str, Any], str]] = [
    ({"no_such": 1}, "no_such"),
    ({"max_vertices": 2}, "max_vertices"),
    ({"max_vertices": 8}, "max_vertices"),
    ({"max_edges": 0}, "max_edges"),
    ({"max_edges": 22}, "max_edges"),
    ({"channels": 4}, "channels"),
    ({"resolution": 30}, "resolution"),
    ({"stacks": 7}, "stacks"),
    ({"cells": 0}, "cells"),
    ({"classes": True}, "classes"),
    ({"identity": "cell"}, "identity"),
]


@pytest.mark.parametrize(("options", "field"), BAD, ids=[f"{field}-{n}" for n, (_, field) in enumerate(BAD)])
def test_bad_options_are_refused_by_field(options: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidSpace) as refused:
        NasBench101(**options)
    assert refused.value.field == field


def test_options_are_complete_and_json() -> None:
    stored = json.loads(json.dumps(SPACE.options))
    assert NasBench101(**stored).digest == SPACE.digest
    assert len({SPACE.digest, ROWS.digest, NasBench101(max_edges=8).digest}) == 3


def test_notation_is_as_short_as_nothing_is_lost() -> None:
    for edges, operations in (("01", []), ("01 12 02", [POOL]), ("01 12 23 34 45 56", [CONV_1X1] * 5)):
        row = cell(edges, *operations)
        assert SPACE.notation(row) == [text(edges, *operations)]
    # A dead vertex whose operation is not what reading gives it is written.
    for edges, operations in (("04", [CONV_3X3, CONV_3X3, POOL]), ("01 13", [POOL, CONV_1X1])):
        row = cell(edges, *operations, space=ROWS)
        assert ROWS.notation(row) == [text(edges, *operations)]


def test_rows_that_cannot_be_built_are_refused_with_the_reason() -> None:
    fine = cell("01 12", POOL)[0]
    crowded = SPACE.from_configs([SPACE.to_configs(fine[None])[0]])[0]
    crowded[:21] = 1
    for row, why in ((crowded, "21 edges lie on paths .* at most 9"), (0 * fine, "no path leads from the input")):
        with pytest.raises(InvalidArchitecture, match=rf"row 2: adjacency: {why}") as refused:
            SPACE.check(np.stack([fine, fine, row]))
        assert (refused.value.row, refused.value.field) == (2, "adjacency")
        assert SPACE.valid(np.stack([fine, row])).tolist() == [True, False]
    # Dead edges do not count: ten are given, seven lie on paths.
    dead = cell("01 02 03 14 24 34 46 05 15 25", *[CONV_1X1] * 5)
    assert SPACE.valid(dead).all()
    # In a restricted space too, what cannot be built is told from what is not wanted.
    with pytest.raises(InvalidArchitecture, match="at most 9"):
        SPACE.restrict({"e01": [0]}).check(crowded[None])


REFUSED: dict[str, tuple[str, str, str]] = {
    "no JSON": ("[[0, 1], [0, 0]", "notation", "must read"),
    "deep": ("[" * 100_000, "notation", "must read"),
    "no object": ("[[0, 1], [0, 0]]", "notation", "must read"),
    "a key too many": ('{"adjacency": [[0]], "operations": [], "x": 1}', "notation", "must read"),
    "no matrix": ('{"adjacency": 3, "operations": []}', "adjacency", "square matrix"),
    "one vertex": ('{"adjacency": [[0]], "operations": ["input"]}', "adjacency", "2 to 7 vertices, has 1"),
    "eight vertices": (text("01 17", *[POOL] * 6), "adjacency", "2 to 7 vertices, has 8"),
    "not square": ('{"adjacency": [[0, 1], [0]], "operations": []}', "adjacency", "row 1 has 1 entries"),
    "a number": (text("01 12", POOL).replace("1, 0]", "2, 0]", 1), "adjacency", r"\[0\]\[1\] is 2, must be 0 or 1"),
    "a truth": (text("01 12", POOL).replace("1, 0]", "true, 0]", 1), "adjacency", "is True, must be 0 or 1"),
    "a cycle": (text("01 12 23 31 34", POOL, POOL, POOL), "adjacency", r"from vertex 3 back to 1: .* \[1, 2, 3\] form"),
    "a loop": (text("01 12 11", POOL), "adjacency", r"from vertex 1 back to 1: vertices \[1\] form a cycle"),
    "backwards": (text("02 21 13", POOL, POOL), "adjacency", "from vertex 2 back to 1: number vertices along"),
    "no input": (text("01 12", POOL).replace("input", POOL), "operations", r"\[0\] is 'maxpool3x3', must be 'input'"),
    "no output": (text("01 12", POOL).replace("output", POOL), "operations", r"\[2\] is .*, must be 'output'"),
    "too few": (text("01 12", POOL).replace('"maxpool3x3", ', ""), "operations", "each of the 3 vertices .* got 2"),
    "no list": ('{"adjacency": [[0, 1], [0, 0]], "operations": "input"}', "operations", "must be a list"),
    "unknown": (text("01 12 23", POOL, "avgpool"), "op2", "no such operation 'avgpool', operations are"),
    "no name": (text("01 12", POOL).replace('"maxpool3x3"', "[3]"), "op1", "no such operation"),
    "no path": (text("01 23", POOL, POOL), "adjacency", "no path leads"),
    "ten edges": (text("01 02 03 04 12 13 14 23 24 34", POOL, POOL, POOL), "adjacency", "10 edges lie on paths"),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_texts_are_refused_by_row_and_field(name: str) -> None:
    wrong, field, message = REFUSED[name]
    for read in (SPACE.from_notation, SPACE.from_configs):
        with pytest.raises(InvalidArchitecture, match=message) as refused:
            read([text("01 12", POOL), wrong])
        assert (refused.value.row, refused.value.field) == (1, field)
