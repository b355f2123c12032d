"""Rows of residual networks whose stages differ in depth and width, and their blocks in what is between.

A row is the resolution of the images; whether the stem has its residual convolution; the widths of the stem's first and
last convolution; then, stage by stage, the depth, the width, and the expansion of each block that the stage has at full
depth. All blocks in order, present or not, are the *places* of a row.

Widths and expansions are rounded to channels, and several may come to the same number: then the first of them stands
for all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from search_spaces import ofa
from search_spaces.networks.layout import divisible
from search_spaces.space import Bools, Choice, Genes, Identity, InvalidSpace

STEM_RESIDUAL, STEM_FIRST, STEM_LAST = 1, 2, 3
"""Columns of the stem's choices."""
_HEAD = 4
"""Choices before the first stage."""


@final
class Rows:
    """Arithmetic of the rows of one space.

    ``options`` has the lists ``resolutions``, ``depths`` (blocks beyond ``stage_depths``), ``expansions``,
    ``width_mults``, and ``stem_width``, ``stage_widths``, ``stage_depths``.
    """

    def __init__(self, options: Mapping[str, Any], identity: Identity) -> None:
        self.options = options
        self._unites = identity == "function"
        extra, mults = options["depths"], options["width_mults"]
        self.depths = np.array([[base + more for more in extra] for base in options["stage_depths"]])
        """(stages, options): blocks."""
        self.stem = np.array([divisible(options["stem_width"] * mult) for mult in mults])
        """(widths,): channels behind the stem."""
        self.stem_middle = np.array([divisible(int(width) // 2) for width in self.stem])
        """(widths,): channels inside the stem."""
        self.widths = np.array([[divisible(width * mult) for mult in mults] for width in options["stage_widths"]])
        """(stages, widths): channels between blocks."""
        self.middles = np.array(
            [
                [[divisible(round(int(width) * ratio)) for ratio in options["expansions"]] for width in widths]
                for widths in self.widths
            ]
        )
        """(stages, widths, expansions): channels inside blocks."""
        self._deepest = self.depths.max(axis=1)
        self.stages, self.places = len(self.depths), int(self._deepest.sum())
        self._starts = _HEAD + np.cumsum([0, *(2 + self._deepest[:-1])])
        """The column of each stage's depth; that of its width is the next."""
        self.stage = np.repeat(np.arange(self.stages), self._deepest)
        """(places,)"""
        self.block = np.concatenate([np.arange(deepest) for deepest in self._deepest])
        """(places,): from 0, within the stage."""
        self._expand = self._starts[self.stage] + 2 + self.block
        """(places,): columns of the expansions."""
        # Which option stands for each.
        self._same_stem = {STEM_FIRST: _first(self.stem_middle), STEM_LAST: _first(self.stem)}
        self._same_width = np.stack([_first(widths) for widths in self.widths])
        self._same_middle = np.stack([np.stack([_first(row) for row in rows]) for rows in self.middles])

    def choices(self) -> list[Choice]:
        """``resolution``, ``stem.depth``, ``stem.first.width``, ``stem.last.width``; then ``stageS.depth``, ``.width``
        and ``stageS.blockB.expand``, counted from 1.
        """
        get = self.options
        mults, ratios = tuple(get["width_mults"]), tuple(get["expansions"])
        choices = [Choice("resolution", tuple(get["resolutions"])), Choice("stem.depth", (0, 1))]
        choices += [Choice("stem.first.width", mults), Choice("stem.last.width", mults)]
        for stage, depths in enumerate(self.depths.tolist(), 1):
            choices += [Choice(f"stage{stage}.depth", tuple(depths)), Choice(f"stage{stage}.width", mults)]
            choices += [Choice(f"stage{stage}.block{block}.expand", ratios) for block in range(1, max(depths) + 1)]
        return choices

    def stage_depths(self, genes: Genes) -> NDArray[np.integer[Any]]:
        """(n, stages): indices of options."""
        return genes[:, self._starts]

    def stage_widths(self, genes: Genes) -> NDArray[np.integer[Any]]:
        """(n, stages): indices of options."""
        return genes[:, self._starts + 1]

    def expansions(self, genes: Genes) -> NDArray[np.integer[Any]]:
        """(n, places): indices of options."""
        return genes[:, self._expand]

    def present(self, genes: Genes) -> Bools:
        """(n, places): which blocks the depths leave."""
        depths = self.depths[np.arange(self.stages), self.stage_depths(genes)]
        return np.asarray(depths[:, self.stage] > self.block)

    def active(self, genes: Genes) -> Bools:
        """(n, d): all but the expansions of blocks that the depths cut off."""
        result = np.ones(genes.shape, dtype=bool)
        result[:, self._expand] = self.present(genes)
        return result

    def merge(self, genes: Genes) -> Genes:
        """Rows with the option that stands for each width and expansion. What is inactive is 0, and stays."""
        result = genes.copy()
        for column, same in self._same_stem.items():
            result[:, column] = same[genes[:, column]]
        widths = self.stage_widths(genes)
        result[:, self._starts + 1] = self._same_width[np.arange(self.stages), widths]
        expansions = self.expansions(genes)
        result[:, self._expand] = self._same_middle[self.stage, widths[:, self.stage], expansions]
        return result

    # ------------------------------------------------------------------ how many there are

    def cardinality(self, allowed: Bools) -> int:
        """Architectures that the restriction leaves; rows under identity="row"."""
        free = int(allowed[0].sum()) * int(allowed[STEM_RESIDUAL].sum())
        for column in self._same_stem:
            free *= len(self.stem_options(allowed, column))
        return free * math.prod(sum(map(sum, ways)) for ways in self._ways(allowed))

    def stem_options(self, allowed: Bools, column: int) -> NDArray[np.intp]:
        """The options of a width of the stem that a restriction leaves and that stand for an architecture."""
        same = self._same_stem[column]
        return np.flatnonzero(self._stands(same) & allowed[column, : len(same)])

    def usable(self, allowed: Bools) -> tuple[Bools, Bools, Bools]:
        """Depths (stages, options), widths (stages, widths) and expansions (places, widths, expansions) that are left.

        That is, allowed and standing for an architecture; an expansion may do so at some widths of its stage only.
        """
        _, widths, ratios = self.middles.shape
        depths = allowed[self._starts, : self.depths.shape[1]]
        wide = allowed[self._starts + 1, :widths] & self._stands(self._same_width)
        inside = allowed[self._expand, :ratios][:, None, :] & self._stands(self._same_middle)[self.stage]
        return depths, wide, inside

    def draw(self, genes: Genes, allowed: Bools, rng: np.random.Generator) -> Genes:
        """Turns rows that are uniform choice by choice into rows uniform over architectures (or rows), in place.

        A depth and a width are as likely as the number of networks they have.
        """
        count, (_, _, inside) = len(genes), self.usable(allowed)
        for column in self._same_stem:
            options = self.stem_options(allowed, column)
            if len(options):
                genes[:, column] = rng.choice(options, size=count)
        for start, ways in zip(self._starts, self._ways(allowed), strict=True):
            weight = np.array(ways, dtype=np.float64).ravel()
            edges = np.cumsum(weight)[:-1] / max(weight.sum(), 1.0)
            chosen = np.searchsorted(edges, rng.random(count), side="right")
            genes[:, start], genes[:, start + 1] = chosen % self.depths.shape[1], chosen // self.depths.shape[1]
        widths = self.stage_widths(genes)[:, self.stage]
        places = np.arange(self.places)
        ranks = (rng.random((count, self.places)) * inside.sum(axis=2)[places, widths]).astype(np.int64)
        chosen = np.argsort(~inside, axis=2, kind="stable")[places, widths, ranks]
        if not self._unites:
            free = (rng.random(chosen.shape) * inside.shape[2]).astype(np.int64)
            chosen = np.where(self.present(genes), chosen, free)
        genes[:, self._expand] = chosen
        return genes

    def _ways(self, allowed: Bools) -> list[list[list[int]]]:
        """For each stage, width and depth, how many architectures (or rows, under identity="row") have them."""
        depths, widths, inside = self.usable(allowed)
        counts = inside.sum(axis=2).tolist()
        free = 1 if self._unites else inside.shape[2]
        result = []
        for stage, deepest in enumerate(self._deepest.tolist()):
            places = [counts[place] for place in np.flatnonzero(self.stage == stage)]
            result.append(
                [
                    [
                        keep * many * math.prod(place[width] for place in places[:depth]) * free ** (deepest - depth)
                        for depth, many in zip(self.depths[stage].tolist(), depths[stage].tolist(), strict=True)
                    ]
                    for width, keep in enumerate(widths[stage].tolist())
                ]
            )
        return result

    def _stands(self, same: NDArray[np.int8]) -> Bools:
        """Which options stand for an architecture."""
        return np.asarray((same == np.arange(same.shape[-1])) | (not self._unites))

    def cheapest(self, allowed: Bools, prices: Callable[[int], NDArray[np.integer[Any]]]) -> Genes:
        """The row (d,) of the least price, its resolution left at 0. Raises `InvalidSpace` if the rules leave none.

        ``prices`` gives those of the settings of a part: the stem (0), of (residual, first width, last width); a block
        (1 + its place), of (width before, width, expansion) if it is the first of its stage, else (width, expansion);
        the classifier, of the last width.
        """
        depths, wide, inside = self.usable(allowed)
        _, widths, ratios = self.middles.shape
        row = np.zeros(len(allowed), dtype=np.int8)

        def priced(part: int, usable: Bools) -> NDArray[np.float64]:
            return np.where(usable, prices(part).reshape(-1, *usable.shape), np.inf)

        stems = np.zeros((2, widths, widths), dtype=bool)
        first, last = (self.stem_options(allowed, column) for column in (STEM_FIRST, STEM_LAST))
        stems[np.ix_(np.flatnonzero(allowed[STEM_RESIDUAL]), first, last)] = True
        begun = priced(0, stems).reshape(-1, widths)
        steps, total = [], begun.min(axis=0)
        for stage in range(self.stages):
            head, *others = np.flatnonzero(self.stage == stage).tolist()
            # For each width: the best of (width before, expansion of the first block), and of each block behind it.
            start = (total[:, None, None] + priced(1 + head, inside[head])).transpose(1, 0, 2).reshape(widths, -1)
            rest = np.concatenate([np.zeros((1, widths, ratios)), *(priced(1 + each, inside[each]) for each in others)])
            longer = np.where(depths[stage][:, None], rest.min(axis=2).cumsum(axis=0)[self.depths[stage] - 1], np.inf)
            total = np.where(wide[stage], start.min(axis=1) + longer.min(axis=0), np.inf)
            steps.append((start.argmin(axis=1), longer.argmin(axis=0), rest[1:].argmin(axis=2)))
        total = total + prices(1 + self.places)
        if not np.isfinite(total).any():
            raise InvalidSpace("the rules leave no architecture: no canonical row keeps to them")
        width = int(total.argmin())
        for column, (start, depth, rest) in zip(self._starts[::-1].tolist(), steps[::-1], strict=True):
            row[column : column + 2] = depth[width], width
            row[column + 2] = start[width] % ratios
            row[column + 3 : column + 3 + len(rest)] = rest[:, width]
            width = int(start[width]) // ratios
        row[STEM_RESIDUAL], row[STEM_FIRST] = divmod(int(begun[:, width].argmin()), widths)
        row[STEM_LAST] = width
        return row

    # ------------------------------------------------------------------ as text

    def write(self, genes: Genes) -> list[str]:
        """In Once-for-All's notation: ``d`` (of the stem, then blocks beyond the least per stage), ``e``, and ``w``,
        the ranks of the widths; blocks that are cut off are written as they stand.
        """
        get = self.options
        ranks = np.argsort(np.argsort(get["width_mults"]))
        extra, ratios = np.array(get["depths"]), np.array(get["expansions"])
        stem = np.where(genes[:, STEM_RESIDUAL] == 1, self._stem_mark, 0)
        depths = np.column_stack([stem, extra[self.stage_depths(genes)]]).tolist()
        columns = np.column_stack([genes[:, [STEM_FIRST, STEM_LAST]], self.stage_widths(genes)])
        lists = zip(depths, ratios[self.expansions(genes)].tolist(), ranks[columns].tolist(), strict=True)
        sides = [get["resolutions"][side] for side in genes[:, 0].tolist()]
        return [ofa.write(side, {"d": d, "e": e, "w": w}) for side, (d, e, w) in zip(sides, lists, strict=True)]

    def parse(self, text: str) -> list[int]:
        """The genes of one such text. Raises `InvalidArchitecture` as if it were row 0."""
        get = self.options
        size, lists = ofa.read(text, {"d": 1 + self.stages, "e": self.places, "w": 2 + self.stages})
        row = np.zeros(_HEAD + 2 * self.stages + self.places, dtype=np.int64)
        row[0] = ofa.image_size(size, get["resolutions"])
        row[STEM_RESIDUAL] = ofa.option("d[0]", lists["d"][0], [0, self._stem_mark])
        by_rank = np.argsort(get["width_mults"]).tolist()
        widths = [by_rank[ofa.option(f"w[{i}]", each, range(len(by_rank)))] for i, each in enumerate(lists["w"])]
        row[[STEM_FIRST, STEM_LAST, *(self._starts + 1)]] = widths
        row[self._starts] = [ofa.option(f"d[{i}]", d, get["depths"]) for i, d in enumerate(lists["d"][1:], 1)]
        present = self.present(row[None].astype(np.int8))[0]
        for place, value in enumerate(lists["e"]):
            if present[place] or value != 0:
                row[self._expand[place]] = ofa.option(f"e[{place}]", value, get["expansions"])
        result: list[int] = row.tolist()
        return result

    @property
    def _stem_mark(self) -> int:
        """What is written for a stem with its residual convolution."""
        return int(max(1, *self.options["depths"]))


def _first(channels: Sequence[int] | NDArray[np.integer[Any]]) -> NDArray[np.int8]:
    """For each option the first one with as many channels."""
    listed = np.asarray(channels).tolist()
    return np.array([listed.index(each) for each in listed], dtype=np.int8)
