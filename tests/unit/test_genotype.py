"""Genotypes, DARTS' notation of cells: what is read and written, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

from search_spaces.darts import Darts
from search_spaces.space import InvalidArchitecture
from tests.unit.test_darts import DARTS_V2

SPACE = Darts()


def test_genotypes_are_read_in_any_order_and_written_in_one() -> None:
    genes = SPACE.from_notation([DARTS_V2])
    (written,) = SPACE.notation(genes)
    begin = "Genotype(normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('sep_conv_3x3', 1), "
    assert written.startswith(f"{begin}('skip_connect', 0), ('sep_conv_3x3', 1), ")
    assert written.endswith("], reduce_concat=range(2, 6))")
    spread = DARTS_V2.replace(", ", " ,\n  ").replace("=", " = ").replace("'", '"').replace("[2 ,", "[5, 2,", 1)
    same = [written, spread.replace("4 ,\n  5]", "4]", 1), DARTS_V2.replace("[2, 3, 4, 5]", "range(2, 6)")]
    normal = [[0, 3], [1, 3], [0, 3], [1, 3], [1, 3], [0, 2], [0, 2], [2, 5]]
    compact = json.dumps([normal, [[0, 0], [1, 0], [2, 2], [1, 0], [0, 0], [2, 2], [2, 2], [1, 0]]])
    for other in (*same, compact, compact.replace("[", "(").replace("]", ")")):
        np.testing.assert_array_equal(SPACE.from_configs([other]), genes)


REFUSED = {
    "an unknown operation": ("('dil_conv_3x3', 2)", "('none', 2)", "normal.node5.second"),
    "a later node": ("('dil_conv_3x3', 2)", "('dil_conv_3x3', 5)", "normal.node5.inputs"),
    "one node twice": (
        "('max_pool_3x3', 0), ('max_pool_3x3', 1)",
        "('max_pool_3x3', 1), ('max_pool_3x3', 1)",
        "reduce.node2.inputs",
    ),
    "an operation too few": ("('max_pool_3x3', 0), ('max_pool_3x3', 1), ", "", "reduce"),
    "another concatenation": ("normal_concat=[2, 3, 4, 5]", "normal_concat=range(3, 6)", "normal_concat"),
    "no concatenation": (", reduce_concat=[2, 3, 4, 5]", "", "notation"),
    "code": ("('sep_conv_3x3', 0)", "(print('x'), 0)", "notation"),
    "junk": ("('sep_conv_3x3', 0), ", "('sep_conv_3x3', 0) + ", "notation"),
}


@pytest.mark.parametrize("case", list(REFUSED))
def test_other_texts_are_refused_by_row_and_field(case: str) -> None:
    old, new, field = REFUSED[case]
    with pytest.raises(InvalidArchitecture) as refused:
        SPACE.from_notation([DARTS_V2, DARTS_V2.replace(old, new, 1)])
    assert (refused.value.row, refused.value.field) == (1, field)


def test_numbers_that_name_no_operation_are_refused() -> None:
    cell = [[0, 3], [1, 3], [0, 3], [1, 3], [1, 3], [0, 2], [0, 2], [2, 7]]
    with pytest.raises(InvalidArchitecture, match="number 7") as refused:
        SPACE.from_notation([json.dumps([cell, cell])])
    assert (refused.value.row, refused.value.field) == (0, "normal.node5.second")


def test_long_texts_are_refused_at_once() -> None:
    for filling in (" " * 100_000, "(" * 100_000, "('a', 1), " * 10_000, "[[" + "[0, 1], " * 10_000):
        with pytest.raises(InvalidArchitecture):
            SPACE.from_notation([f"Genotype(normal=[{filling}"])
        with pytest.raises(InvalidArchitecture):
            SPACE.from_notation([filling])
