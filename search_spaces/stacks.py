"""Stacks of blocks of which a depth leaves the first: what spaces of transformers have in common.

One choice of a row is the depth of a stack; each block that the stack has at full depth has choices of its own, which
are inactive where the depth cuts the block off.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import final

import numpy as np
from numpy.typing import NDArray

from search_spaces.space import Bools, Choice, Genes


@final
class Stack:
    """Where one stack lies in a row.

    ``column`` is that of the depth, ``depths`` its options; ``blocks`` (deepest, choices of a block) are the columns
    of each block's choices.
    """

    def __init__(self, column: int, depths: Sequence[int], blocks: Sequence[Sequence[int]]) -> None:
        self.column = column
        self.blocks: NDArray[np.intp] = np.array(blocks, dtype=np.intp)
        self._depths = np.array(depths, dtype=np.int16)

    @property
    def deepest(self) -> int:
        """Blocks at full depth."""
        return len(self.blocks)

    def depth(self, genes: Genes) -> NDArray[np.int16]:
        """(n,): how many blocks each row has."""
        return np.asarray(self._depths[genes[:, self.column]])

    def present(self, genes: Genes) -> Bools:
        """(n, deepest): which blocks the depths leave."""
        return np.asarray(self.depth(genes)[:, None] > np.arange(self.deepest, dtype=np.int16))

    def cut_off(self, genes: Genes, active: Bools) -> None:
        """Sets ``active`` (n, d) to False, in place, for the choices of blocks that the depths cut off."""
        present = self.present(genes)
        for choice in self.blocks.T:
            active[:, choice] = present

    def ways(self, allowed: Bools, sizes: NDArray[np.int16], *, rows: bool) -> list[int]:
        """For each depth, how many settings of the depth and the blocks have it.

        ``allowed`` (d, widest) are the options that a restriction leaves, ``sizes`` (d,) how many there are without
        one. With ``rows``, those that differ only beyond the depth, where no restriction binds, count one by one.
        """
        left, everything = allowed.sum(axis=1).tolist(), sizes.tolist()
        inside = [math.prod(left[column] for column in block) for block in self.blocks.tolist()]
        outside = [math.prod(everything[column] for column in block) if rows else 1 for block in self.blocks.tolist()]
        depths = zip(self._depths.tolist(), allowed[self.column].tolist(), strict=False)
        return [keep * math.prod(inside[:depth] + outside[depth:]) for depth, keep in depths]

    def draw(self, genes: Genes, ways: Sequence[int], rng: np.random.Generator) -> None:
        """Draws the depths anew, in place, each as likely as its share of ``ways``."""
        # Python divides integers that are too large for floats.
        total = sum(ways)
        edges = np.cumsum([each / total for each in ways])[:-1]
        genes[:, self.column] = np.searchsorted(edges, rng.random(len(genes)), side="right")


def extremes(choices: Sequence[Choice], allowed: Bools) -> Genes:
    """(2, d): each choice at the least, and at the largest, of its allowed options, which are numbers."""
    values = np.full(allowed.shape, np.nan)
    for column, choice in enumerate(choices):
        values[column, : len(choice.options)] = [float(option) for option in choice.options]
    values[~allowed] = np.nan
    return np.stack([np.nanargmin(values, axis=1), np.nanargmax(values, axis=1)]).astype(np.int8)
