"""NAS-Bench-201's cells (Dong & Yang, ICLR 2020): 15,625 of them, in a fixed chain of three stages.

A cell has four nodes and an operation on each of the six edges between them; a node is the sum of what its edges
bring. The first node is the cell's input, the last one its output.

Equivalences united under ``identity="function"``, 5,260 classes: two cells are the same if they compute the same for
all weights, once the weights of the convolutions that matter are matched one to one. That is what is left when

- operations that read nothing but zeros, or that lead nowhere, are dropped,
- skips are contracted (a sum of sums is one sum),
- the inner nodes are given other names.

It is sound for the networks that `NasBench201.build` makes. Multiplicities are kept, since x + x is not x, and a
convolution that is used twice is not two convolutions. Not united: average pooling of a sum with the sum of average
pools, which would leave 5,044.

A class is built, counted and timed as its row of fewest MACs, among those of fewest poolings, among those the first in
the order of genes. Nothing in it is dead. Published tables measured all rows as they are, dead operations included:
``identity="row"`` is for them.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, final

import numpy as np

from search_spaces import options as check
from search_spaces.cells import Cells, CellSpace
from search_spaces.space import Genes, Identity, IntArray, InvalidArchitecture, InvalidSpace

if TYPE_CHECKING:
    from torch import nn

OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
CONV_1X1, CONV_3X3 = 2, 3
STAGES = 3

_CELLS = Cells(OPERATIONS, taps=(0, 0, 1, 9, 0))
_TEXT = "|{}~0|+|{}~0|{}~1|+|{}~0|{}~1|{}~2|"
_PATTERN = re.compile(re.escape(_TEXT).replace(r"\{\}", r"(\w+)"))


@final
class NasBench201(CellSpace):
    """Choices ``e01 e02 e12 e03 e13 e23``, the operation on the edge from one node to another.

    The equivalences of ``identity="function"`` are those of the module: 5,260 classes, found soundly.

    Options, all JSON; the defaults are the published networks for CIFAR-10:

    - ``in_channels``, ``classes``: of the data set. ``resolution``: side of the images in pixels, a multiple of 4.
    - ``channels``: of the first stage; each stage doubles them and halves the resolution.
    - ``cells``: in each stage.

    Raises `InvalidSpace` that names the option.
    """

    def __init__(
        self,
        *,
        identity: Identity = "function",
        classes: int = 10,
        in_channels: int = 3,
        resolution: int = 32,
        channels: int = 16,
        cells: int = 5,
        **unknown: Any,
    ) -> None:
        options = {
            "classes": check.integer("classes", classes, most=100_000),
            "in_channels": check.integer("in_channels", in_channels),
            "resolution": check.integer("resolution", resolution, least=4),
            "channels": check.integer("channels", channels, most=1024),
            "cells": check.integer("cells", cells, most=32),
        }
        for field in unknown:
            raise InvalidSpace(f"no such option, options are {sorted(options)}", field)
        if resolution % 4:
            raise InvalidSpace(f"must be a multiple of 4, since it is halved twice; got {resolution}", "resolution")
        super().__init__("nasbench201", _CELLS, options, identity=identity)
        self._fixed, self._per_conv = _costs(**options)

    # ------------------------------------------------------------------ notation

    def _write(self, genes: Genes) -> list[str]:
        return [_TEXT.format(*(OPERATIONS[gene] for gene in row)) for row in genes.tolist()]

    def _parse(self, text: str) -> list[int]:
        found = _PATTERN.fullmatch(text.strip())
        if found is None:
            form = _TEXT.format(*["OP"] * 6)
            raise InvalidArchitecture(f"must read {form}, is {text[:200]!r}", row=0, field="notation")
        for choice, name in zip(self.choices, found.groups(), strict=True):
            if name not in OPERATIONS:
                message = f"no such operation {name!r}, operations are {list(OPERATIONS)}"
                raise InvalidArchitecture(message, row=0, field=choice.name)
        return [OPERATIONS.index(name) for name in found.groups()]

    # ------------------------------------------------------------------ what it costs, and how it is built

    def cost(self, genes: Genes) -> dict[str, IntArray]:
        """``params`` and ``macs`` (of convolutions and the classifier), (n,) each, dead operations included."""
        genes = self._batch(genes)
        counts = np.stack([(genes == kind).sum(axis=1) for kind in (CONV_1X1, CONV_3X3)], axis=1, dtype=np.int64)
        params, macs = (counts @ self._per_conv + self._fixed).T
        return {"params": params, "macs": macs}

    def build(self, row: Genes) -> nn.Module:
        """The network of one row, with the same weights each time; `initialise` draws others."""
        from search_spaces.networks.initialise import initialise
        from search_spaces.networks.nasbench201 import Network

        operations = [OPERATIONS[gene] for gene in self.check(np.asarray(row)[None])[0]]
        sizes = {name: self.options[name] for name in ("in_channels", "classes", "channels", "cells")}
        network = Network(operations, device="meta", **sizes).to_empty(device="cpu")
        return initialise(network, np.random.default_rng(0))


def _costs(classes: int, in_channels: int, resolution: int, channels: int, cells: int) -> tuple[IntArray, IntArray]:
    """(params, macs), (2,), of everything but the cells; and (2, 2), of a 1×1 and a 3×3 convolution on one edge."""
    params = 9 * in_channels * channels + 2 * channels
    macs = 9 * in_channels * channels * resolution**2
    per_conv = np.zeros((2, 2), dtype=np.int64)
    for stage in range(STAGES):
        width, pixels = channels << stage, (resolution >> stage) ** 2
        for kind, taps in enumerate((1, 9)):
            weights = taps * width**2
            per_conv[kind] += (cells * (weights + 2 * width), cells * weights * pixels)
        if stage:
            # A residual block: two 3×3 convolutions, and a 1×1 convolution of the halved input.
            weights = 9 * (width // 2) * width + 9 * width**2 + (width // 2) * width
            params += weights + 4 * width
            macs += weights * pixels
    width = channels << (STAGES - 1)
    params += 2 * width + width * classes + classes
    return np.array([params, macs + width * classes], dtype=np.int64), per_conv
