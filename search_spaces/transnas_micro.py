"""TransNAS-Bench-101's micro space (Duan et al., CVPR 2021): 4,096 cells in a fixed chain of five modules.

A cell has four nodes and one of four operations on each of the six edges between them, as in NAS-Bench-201, without its
pooling (`search_spaces.cells`). The first cell of a module that doubles the channels or halves the resolution does that
on the edges from its first node: there a skip is a pair of 1×1 convolutions of half of the channels each.

Equivalences united under ``identity="function"``, 1,376 classes: cells that compute the same for all weights, once the
weights of the operations that matter are matched one to one. Dead operations are dropped and inner nodes have no names;
skips are contracted except those from the first node, which have weights in the cells that change the shape. (In cells
that keep it all skips could be contracted: 1,011 classes, but some of them differ in the other cells.) It is sound for
the networks that `TransNasMicro.build` makes.

A class is built, counted and timed as its row of fewest weights, among those the first in the order of genes. Nothing
in it is dead. Published tables measured all rows as they are, dead operations included: ``identity="row"`` is for them.

Notation: ``a-b-c-d-e-f``, the digits of the published string ``64-41414-a_bc_def`` in its order, where the first number
is the channels, the second the codes of the modules, and the digits are 0 no connection, 1 skip, 2 and 3 convolutions
1×1 and 3×3. Both are read. Node by node, the digits are of the edges from the nodes before it: ``a`` leads into the
second node, ``b`` and ``c`` from the first and the second into the third.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, final

import numpy as np

from search_spaces import options as check
from search_spaces.cells import EDGES, SKIP, Cells, CellSpace
from search_spaces.space import Genes, Identity, IntArray, InvalidArchitecture, InvalidSpace
from search_spaces.transnas import DOUBLING, HALVING, classifier, convolution, frame, halved, stem

if TYPE_CHECKING:
    from torch import nn

OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3")
CONV_1X1, CONV_3X3 = 2, 3

_CELLS = Cells(OPERATIONS, taps=(0, 0, 1, 9), reduces=True)
_SHORT = re.compile("([0-3])" + "-([0-3])" * 5)
_LONG = re.compile(r"(\d+)-([1-4]+)-([0-3])_([0-3])([0-3])_([0-3])([0-3])([0-3])")


@final
class TransNasMicro(CellSpace):
    """Choices ``e01 e02 e12 e03 e13 e23``, the operation on the edge from one node to another.

    The equivalences of ``identity="function"`` are those of the module: 1,376 classes, found soundly.

    Options, all JSON:

    - ``classes``: 100, as in the tables of costs for object classification. They have 63 for scenes; the networks were
      trained with 75 and 47.
    - ``in_channels``: of the images. ``resolution``: their side in pixels.
    - ``channels``: behind the stem. ``skeleton``: the code of each module. ``cells``: in each module.

    Raises `InvalidSpace` that names the option.
    """

    def __init__(
        self,
        *,
        identity: Identity = "function",
        classes: int = 100,
        in_channels: int = 3,
        resolution: int = 256,
        channels: int = 64,
        skeleton: str = "41414",
        cells: int = 2,
        **unknown: Any,
    ) -> None:
        options = frame(classes, in_channels, resolution, channels)
        options |= {"skeleton": _skeleton(skeleton, channels), "cells": check.small("cells", cells)}
        for field in unknown:
            raise InvalidSpace(f"no such option, options are {sorted(options)}", field)
        super().__init__("transnas_micro", _CELLS, options, identity=identity)
        fixed, by_edge = _costs(options)
        self._costs = fixed + by_edge[np.arange(len(EDGES)), _CELLS.rows].sum(axis=1)

    # ------------------------------------------------------------------ notation

    def _write(self, genes: Genes) -> list[str]:
        return ["-".join(map(str, row)) for row in genes.tolist()]

    def _parse(self, text: str) -> list[int]:
        short = _SHORT.fullmatch(text.strip())
        if short is not None:
            return [int(digit) for digit in short.groups()]
        here = f"{self.options['channels']}-{self.options['skeleton']}"
        long = _LONG.fullmatch(text.strip())
        if long is None:
            message = f"must read a-b-c-d-e-f or {here}-a_bc_def with digits 0 to 3, is {text[:200]!r}"
            raise InvalidArchitecture(message, row=0, field="notation")
        channels, skeleton, *digits = long.groups()
        if f"{channels}-{skeleton}" != here:
            message = f"is of networks {channels}-{skeleton}, this space has {here}"
            raise InvalidArchitecture(message, row=0, field="notation")
        return [int(digit) for digit in digits]

    # ------------------------------------------------------------------ what it costs, and how it is built

    def cost(self, genes: Genes) -> dict[str, IntArray]:
        """``params`` and ``macs`` (of convolutions and the classifier), (n,) each, dead operations included."""
        params, macs = self._costs[_CELLS.number(self._batch(genes))].T
        return {"params": params, "macs": macs}

    def build(self, row: Genes) -> nn.Module:
        """The network of one row, with the same weights each time; `initialise` draws others."""
        from search_spaces.networks.initialise import initialise
        from search_spaces.networks.transnas import of_cells

        get = self.options
        operations = [OPERATIONS[gene] for gene in self.check(np.asarray(row)[None])[0]]
        sizes = {name: get[name] for name in ("in_channels", "classes", "channels")}
        network = of_cells(operations, [*map(int, get["skeleton"])], "meta", blocks=get["cells"], **sizes)
        return initialise(network.to_empty(device="cpu"), np.random.default_rng(0))


def _skeleton(codes: Any, channels: int) -> str:
    """The codes of up to 16 modules, checked."""
    if not isinstance(codes, str) or not re.fullmatch("[1-4]{1,16}", codes):
        raise InvalidSpace(f"must be 1 to 16 digits, each 1 to 4, the codes of modules; got {codes!r}", "skeleton")
    widest = channels << sum(int(code) in DOUBLING for code in codes)
    if widest > check.LARGEST:
        raise InvalidSpace(f"{codes} doubles {channels} channels to {widest}, beyond {check.LARGEST}", "skeleton")
    return codes


def _costs(options: dict[str, Any]) -> tuple[IntArray, IntArray]:
    """(2,) parameters and MACs of everything but the cells, and (6, 4, 2) of each operation on each edge."""
    fixed, side = stem(options)
    width = options["channels"]
    by_edge = np.zeros((len(EDGES), len(OPERATIONS), 2), dtype=np.int64)
    for code in map(int, options["skeleton"]):
        before, width = width, width * (2 if code in DOUBLING else 1)
        side = halved(side) if code in HALVING else side
        for cell in range(options["cells"]):
            changes = cell == 0 and code > 1
            for edge, (start, _) in enumerate(EDGES):
                inputs = before if cell == 0 and start == 0 else width
                by_edge[edge, CONV_1X1] += convolution(1, inputs, width, side)
                by_edge[edge, CONV_3X3] += convolution(9, inputs, width, side)
                if changes and start == 0:
                    by_edge[edge, SKIP] += convolution(1, inputs, width, side)
    return fixed + classifier(options, width), by_edge
