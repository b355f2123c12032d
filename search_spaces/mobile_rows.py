"""Rows of mobile networks: of spaces of elastic chains of inverted bottlenecks.

A row is the resolution of the images; then, stage by stage, the depth, and the kernel and the expansion of each block
that the stage has at full depth; then kernel and expansion of the blocks of a last stage of fixed depth, the *tail*,
where there is one. All blocks in order, present or not, are the *places* of a row.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from search_spaces import ofa
from search_spaces.costs import CostTables
from search_spaces.graphs import chain
from search_spaces.space import Bools, Choice, Genes, Graphs, Identity, IntArray


@final
class Rows:
    """Arithmetic of the rows of one space.

    ``options`` has the lists ``resolutions``, ``kernels``, ``expansions``, ``depths``. ``stages`` is the number of
    stages of elastic depth, ``tail`` the number of blocks of the last stage of fixed depth.
    """

    def __init__(self, options: Mapping[str, Any], stages: int, tail: int = 0) -> None:
        self.options = options
        self.stages, self.tail = stages, tail
        self.deepest = int(max(options["depths"]))
        self.places = stages * self.deepest + tail
        self._depths = np.array(options["depths"], dtype=np.int16)
        self._stage = 1 + 2 * self.deepest
        """Genes per stage."""
        self._end = 1 + stages * self._stage
        """The first gene of the tail."""

    def choices(self) -> list[Choice]:
        """``resolution``, ``stageS.depth``, ``stageS.blockB.kernel`` and ``.expand``; all count from 1."""
        get = self.options
        choices = [Choice("resolution", tuple(get["resolutions"]))]
        blocks = [self.deepest] * self.stages + [self.tail] * bool(self.tail)
        for stage, deepest in enumerate(blocks, 1):
            if stage <= self.stages:
                choices.append(Choice(f"stage{stage}.depth", tuple(get["depths"])))
            for block in range(1, deepest + 1):
                choices.append(Choice(f"stage{stage}.block{block}.kernel", tuple(get["kernels"])))
                choices.append(Choice(f"stage{stage}.block{block}.expand", tuple(get["expansions"])))
        return choices

    def pairs(self) -> list[tuple[int, int]]:
        """Kernel and expansion, as indices, of each setting that `settings` gives."""
        return list(product(range(len(self.options["kernels"])), range(len(self.options["expansions"]))))

    @property
    def widest(self) -> tuple[int, int]:
        """Kernel and expansion, as indices, of what a super-network holds of each block."""
        return int(np.argmax(self.options["kernels"])), int(np.argmax(self.options["expansions"]))

    def where(self) -> list[tuple[int, int]]:
        """(stage, block) of each place, both from 0."""
        tail = [(self.stages, block) for block in range(self.tail)]
        return [*product(range(self.stages), range(self.deepest)), *tail]

    def present(self, genes: Genes) -> Bools:
        """(n, places): which blocks the depths leave."""
        depths = self._depths[self._by_stage(genes)[:, :, 0]]
        inside = (depths[:, :, None] > np.arange(self.deepest, dtype=np.int16)).reshape(-1, self.stages * self.deepest)
        return np.pad(inside, ((0, 0), (0, self.tail)), constant_values=True) if self.tail else inside

    def active(self, genes: Genes) -> Bools:
        """(n, d): all but the choices of blocks that the depths cut off."""
        result = np.ones(genes.shape, dtype=bool)
        inside = self._by_stage(result)
        shown = self.present(genes)[:, : self.stages * self.deepest].reshape(len(genes), self.stages, self.deepest)
        inside[:, :, 1::2] = shown
        inside[:, :, 2::2] = shown
        return result

    def settings(self, genes: Genes) -> NDArray[np.int32]:
        """(n, places): kernel and expansion of each block as one number, an index into `pairs`."""
        count = len(self.options["expansions"])
        rows = self._by_stage(genes).astype(np.int32)
        inside = (rows[:, :, 1::2] * count + rows[:, :, 2::2]).reshape(-1, self.stages * self.deepest)
        if not self.tail:
            return np.asarray(inside)
        end = genes[:, self._end :].astype(np.int32)
        return np.concatenate([inside, end[:, ::2] * count + end[:, 1::2]], axis=1)

    def cost(self, genes: Genes, tables: CostTables) -> dict[str, IntArray]:
        """``params`` and ``macs``, (n,) each; the setting of an empty place is the one after the last of `pairs`."""
        absent = np.int32(len(self.options["kernels"]) * len(self.options["expansions"]))
        return tables.cost(genes, lambda rows: np.where(self.present(rows), self.settings(rows), absent))

    def blocks(self, row: Genes) -> list[tuple[int, int, int, int]]:
        """(stage, block, kernel, expansion) of the blocks that are present in a row (d,), all as indices from 0."""
        present, pairs = self.present(row[None])[0].tolist(), self.pairs()
        settings = self.settings(row[None])[0].tolist()
        return [
            (*where, *pairs[setting])
            for where, setting, keep in zip(self.where(), settings, present, strict=True)
            if keep
        ]

    # ------------------------------------------------------------------ how many there are

    def cardinality(self, allowed: Bools, identity: Identity) -> int:
        """Resolutions times the settings of each stage, summed over its depths: rows under identity="row"."""
        left = allowed.sum(axis=1).tolist()
        return int(left[0] * math.prod(map(sum, self._ways(allowed, identity))) * math.prod(left[self._end :]))

    def draw(self, genes: Genes, allowed: Bools, identity: Identity, rng: np.random.Generator) -> Genes:
        """Turns rows that are uniform choice by choice into rows uniform over architectures (or rows), in place.

        A depth is as likely as the number of networks it has.
        """
        count, rows = len(genes), self._by_stage(genes)
        for stage, ways in enumerate(self._ways(allowed, identity)):
            weight = np.array(ways, dtype=np.float64)
            edges = np.cumsum(weight / weight.sum())[:-1]
            rows[:, stage, 0] = np.searchsorted(edges, rng.random(count), side="right")
        if identity == "row":
            sizes = np.array([len(choice.options) for choice in self.choices()])
            free = (rng.random(genes.shape) * sizes).astype(np.int8)
            genes = np.where(self.active(genes), genes, free).astype(np.int8)
        return genes

    def _ways(self, allowed: Bools, identity: Identity) -> list[list[int]]:
        """For each stage and each of its depths, how many architectures (or rows, under identity="row") have it."""
        left = allowed.sum(axis=1).tolist()
        everything = len(self.options["kernels"]) * len(self.options["expansions"])
        # Under identity="row" the choices beyond the depth tell rows apart, and no restriction binds them.
        free = [everything if identity == "row" else 1] * self.deepest
        result = []
        for first in range(1, self._end, self._stage):
            kernels = range(first + 1, first + self._stage, 2)
            inside = [left[kernel] * left[kernel + 1] for kernel in kernels]
            depths = zip(self._depths.tolist(), allowed[first].tolist(), strict=False)
            result.append([keep * math.prod(inside[:depth] + free[depth:]) for depth, keep in depths])
        return result

    # ------------------------------------------------------------------ as text and as graphs

    def write(self, genes: Genes) -> list[str]:
        """In Once-for-All's notation; blocks that are cut off are written as they stand."""
        get, pairs = self.options, self.pairs()
        tail = [self.tail] * bool(self.tail)
        depths = self._depths[self._by_stage(genes)[:, :, 0]].tolist()
        texts = []
        for side, row, depth in zip(genes[:, 0].tolist(), self.settings(genes).tolist(), depths, strict=True):
            lists = {
                "ks": [get["kernels"][pairs[setting][0]] for setting in row],
                "e": [get["expansions"][pairs[setting][1]] for setting in row],
                "d": depth + tail,
            }
            texts.append(ofa.write(get["resolutions"][side], lists))
        return texts

    def parse(self, text: str) -> list[int]:
        """The genes of one such text. Raises `InvalidArchitecture` as if it were row 0."""
        get, tail = self.options, [self.tail] * bool(self.tail)
        lengths = {"ks": self.places, "e": self.places, "d": self.stages + len(tail)}
        size, lists = ofa.read(text, lengths)
        if lists["d"][self.stages :] != tail:
            raise ofa.refused(f"the last stage has {self.tail} blocks, not {lists['d'][-1]!r}")
        depths = [ofa.option(f"d[{i}]", each, get["depths"]) for i, each in enumerate(lists["d"][: self.stages])]
        genes = [ofa.image_size(size, get["resolutions"])]
        for place, (stage, block) in enumerate(self.where()):
            if block == 0 and stage < self.stages:
                genes.append(depths[stage])
            cut_off = stage < self.stages and block >= get["depths"][depths[stage]]
            for name, options in (("ks", get["kernels"]), ("e", get["expansions"])):
                value = lists[name][place]
                genes.append(0 if cut_off and value == 0 else ofa.option(f"{name}[{place}]", value, options))
        return genes

    def graphs(self, genes: Genes, residual: Sequence[bool]) -> Graphs:
        """Nodes ``input_RESOLUTION``, ``stem``, ``first``, a ``mbEXPANSION_kKERNEL`` per block, ``output``.

        A node reads the sum of the nodes that feed it, so a skip connection is an edge past the block it skips.
        ``residual`` says of the first block and of each place whether its input is added to its output.
        """
        get = self.options
        inputs = [f"input_{side}" for side in get["resolutions"]]
        kinds = [f"mb{expansion}_k{kernel}" for kernel, expansion in product(get["kernels"], get["expansions"])]
        labels = (*inputs, "stem", "first", *kinds, "output")
        n, base = len(genes), len(inputs)
        fixed = [np.full((n, 1), base, np.int16), np.full((n, 1), base + 1, np.int16)]
        last = np.full((n, 1), len(labels) - 1, np.int16)
        blocks = base + 2 + self.settings(genes)
        operations = np.concatenate([genes[:, :1], *fixed, blocks, last], axis=1, dtype=np.int16)
        ends = np.ones((n, 3), dtype=bool)
        present = np.concatenate([ends, self.present(genes), ends[:, :1]], axis=1)
        passes = np.array([False, False, *residual, False])
        return chain(present, passes, operations, labels)

    def _by_stage(self, rows: NDArray[Any]) -> NDArray[Any]:
        """A view (n, stages, 1 + 2·deepest): the depth, then kernel and expansion of each block in turn."""
        return rows[:, 1 : self._end].reshape(len(rows), self.stages, self._stage)
