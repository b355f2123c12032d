"""Chains of layers that may be skipped: what the spaces of NAS-Bench-Macro and of FBNet have in common.

A row has one choice per layer, with the same options in all of them: mobile inverted bottlenecks (Sandler et al., CVPR
2018), and a skip. Where a layer keeps the shape, a skip does nothing. Where it changes the shape, a skip is a 1×1
convolution with weights of its own.

A *run* is what stands between two layers that change the shape: of its layers, only those that are not skipped matter,
in their order. The canonical row has them first and the skips behind them. A layer that changes the shape is a run of
its own, and so is every layer where rows are not united.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, final

import numpy as np
from numpy.typing import NDArray

from search_spaces.costs import CostTables
from search_spaces.graphs import chain
from search_spaces.networks.layout import Block, Skip
from search_spaces.space import (
    Bools,
    Choice,
    Genes,
    Graphs,
    Identity,
    IntArray,
    InvalidSpace,
    SearchSpace,
    Unsupported,
    images,
)

if TYPE_CHECKING:
    from torch import nn

MAX_CLASSES = 100_000


class Maker(Protocol):
    """What the operations are in one layer, in their order."""

    def __call__(self, place: int, inputs: int, outputs: int, stride: int) -> Sequence[Block | Skip]:
        """``place`` counts layers from 0."""


class ChainSpace(SearchSpace):
    """Choices ``layer1``, ``layer2``, …; final classes say how rows are written.

    ``operations`` are the options of each choice; ``make`` says what they are in a layer, always the same one of them
    is a `Skip`. ``widths``, ``strides`` and ``depths`` have an item per stage: its first layer changes to the width and
    has the stride. ``stem`` (channels), ``stem_stride`` and ``features`` are of the convolutions before and behind the
    layers. ``options`` has ``in_channels``, ``classes`` and ``resolution``, the side of the images, among others.
    """

    def __init__(
        self,
        name: str,
        operations: Sequence[str],
        make: Maker,
        options: Mapping[str, Any],
        *,
        identity: Identity,
        widths: Sequence[int],
        strides: Sequence[int],
        depths: Sequence[int],
        stem: int,
        stem_stride: int,
        features: int,
    ) -> None:
        choices = [Choice(f"layer{layer}", tuple(operations)) for layer in range(1, sum(depths) + 1)]
        super().__init__(name, choices, options, identity=identity, uniform=True)
        shapes: list[tuple[int, int, int]] = []
        for (before, width), stride, depth in zip(pairwise([stem, *widths]), strides, depths, strict=True):
            shapes += [(before, width, stride), *[(width, width, 1)] * (depth - 1)]
        self._layers = layers = [make(place, *shape) for place, shape in enumerate(shapes)]
        skips = [layer for each in layers for layer in each if isinstance(layer, Skip)]
        self._skip = list(layers[0]).index(skips[0])
        self._changes = np.array([skip.convolves for skip in skips])
        """(places,): which layers change the shape."""
        alone = self._changes if identity == "function" else np.ones_like(self._changes)
        self._runs = np.split(np.arange(len(layers)), np.flatnonzero(alone[1:] | alone[:-1]) + 1)
        """The places of each run."""
        self._frame = {"in_channels": options["in_channels"], "classes": options["classes"]}
        self._frame |= {"stem": stem, "stem_stride": stem_stride, "features": features}
        self._tables = _tables(layers, skips, options["resolution"], **self._frame)

    # ------------------------------------------------------------------ rows

    @final
    def active(self, genes: Genes) -> Bools:
        """(n, d), all True: a skip is a choice as well."""
        return np.ones(self._batch(genes).shape, dtype=bool)

    @final
    def _merge(self, genes: Genes) -> Genes:
        result = genes.copy()
        for run in self._runs:
            if len(run) > 1:
                part = genes[:, run]
                order = np.argsort(part == self._skip, axis=1, kind="stable")
                result[:, run] = np.take_along_axis(part, order, axis=1)
        return result

    @final
    def _feasible(self, genes: Genes) -> Bools:
        return np.ones(len(genes), dtype=bool)

    @property
    @final
    def cardinality(self) -> int:
        """Canonical rows that the restriction leaves: the product, over runs, of the ways to fill each."""
        return math.prod(map(sum, self._ways()))

    @final
    def _draw(self, count: int, rng: np.random.Generator) -> Genes:
        places = len(self._layers)
        if not self.cardinality:
            return np.empty((0, places), dtype=np.int8)
        blocks = self._blocks()
        ranks = (rng.random((count, places), dtype=np.float32) * blocks.sum(axis=1, dtype=np.float32)).astype(np.int8)
        nth = np.argsort(~blocks, axis=1, kind="stable").astype(np.int8)
        rows: Genes = nth[np.arange(places), ranks]
        for run, ways in zip(self._runs, self._ways(), strict=True):
            edges = np.cumsum(np.array(ways, dtype=np.float64))
            kept = np.searchsorted(edges[:-1] / edges[-1], rng.random(count), side="right")
            skipped = np.arange(len(run)) >= kept[:, None]
            rows[:, run] = np.where(skipped, np.int8(self._skip), rows[:, run])
        return rows

    @final
    def extremes(self) -> Genes:
        """(2, d). Raises `InvalidSpace` if no row is left."""
        if not self.cardinality:
            raise InvalidSpace("the rules leave no architecture: no canonical row keeps to them")
        macs = np.stack([self._tables.macs_at(place)[0] for place in range(len(self._layers))])
        rows = np.full((2, len(macs)), self._skip, dtype=np.int8)
        for row, sign in zip(rows, (1, -1), strict=True):
            weights = np.where(self._blocks(), sign * macs, np.inf)
            best, least = weights.argmin(axis=1), weights.min(axis=1)
            skip = np.where(self._allowed[:, self._skip], sign * macs[:, self._skip], np.inf)
            for run in self._runs:
                totals = [least[run[:kept]].sum() + skip[run[kept:]].sum() for kept in range(len(run) + 1)]
                kept = run[: int(np.argmin(totals))]
                row[kept] = best[kept]
        return rows

    def _blocks(self) -> Bools:
        """(places, options): those that the restriction leaves and that are no skips."""
        result = self._allowed.copy()
        result[:, self._skip] = False
        return result

    def _ways(self) -> list[list[int]]:
        """For each run, how many of its canonical settings have 0, 1, 2, … layers that are not skipped."""
        blocks, skips = self._blocks().sum(axis=1).tolist(), self._allowed[:, self._skip].tolist()
        return [
            [
                math.prod(blocks[p] for p in run[:kept]) * all(skips[p] for p in run[kept:])
                for kept in range(len(run) + 1)
            ]
            for run in (each.tolist() for each in self._runs)
        ]

    # ------------------------------------------------------------------ what it costs, and how it is built

    @final
    def cost(self, genes: Genes) -> dict[str, IntArray]:
        """``params`` and ``macs`` (of convolutions and the classifier), (n,) each."""
        # All rows have the one resolution there is.
        rows = np.pad(self._batch(genes), ((0, 0), (1, 0)))
        return self._tables.cost(rows, lambda some: some[:, 1:].astype(np.int32))

    @final
    def input_shape(self, row: Genes) -> tuple[int, ...]:
        """(channels, height, width) of one image."""
        self.check(np.asarray(row)[None])
        return (self.options["in_channels"], self.options["resolution"], self.options["resolution"])

    @final
    def inputs(self, row: Genes, batch: int, rng: np.random.Generator) -> tuple[NDArray[Any], ...]:
        """(batch, channels, height, width) images."""
        return images(self.input_shape(row), batch, rng)

    @final
    def build(self, row: Genes) -> nn.Module:
        """The network of one row, with the same weights each time; `initialise` draws others."""
        from search_spaces.networks.chain import Network
        from search_spaces.networks.initialise import initialise

        genes = self.check(np.asarray(row)[None])[0].tolist()
        chosen = [options[gene] for options, gene in zip(self._layers, genes, strict=True)]
        network = Network(chosen, **self._frame, device="meta")
        return initialise(network.to_empty(device="cpu"), np.random.default_rng(0))

    @final
    def supernet(self) -> NoReturn:
        """Raises `Unsupported`."""
        raise Unsupported(
            f"{self.name} has no super-network: train its networks alone, or import published measurements of them"
        )

    # ------------------------------------------------------------------ as graphs

    @property
    @final
    def most_nodes(self) -> int:
        """All layers, input, stem and output."""
        return len(self._layers) + 3

    @final
    def graphs(self, genes: Genes) -> Graphs:
        """Nodes ``input``, ``stem``, the layers that are not left out, ``output``.

        A node reads the sum of the nodes that feed it, so a skip connection is an edge past the block it skips. A skip
        that changes the shape is a ``conv_1x1``.
        """
        genes = self._batch(genes)
        names = [str(name) for name in self.choices[0].options]
        names[self._skip] = "conv_1x1"
        labels = ("input", "stem", *names, "output")
        operations = np.empty((len(genes), self.most_nodes), dtype=np.int16)
        operations[:, :2], operations[:, -1] = (0, 1), len(labels) - 1
        operations[:, 2:-1] = genes + np.int16(2)
        present = np.ones(operations.shape, dtype=bool)
        present[:, 2:-1] = (genes != self._skip) | self._changes
        return chain(present, np.array([False, False, *~self._changes, False]), operations, labels)


def _tables(
    layers: Sequence[Sequence[Block | Skip]],
    skips: Sequence[Skip],
    resolution: int,
    *,
    in_channels: int,
    classes: int,
    stem: int,
    stem_stride: int,
    features: int,
) -> CostTables:
    """What each option costs in each layer; ``skips`` are those of the layers."""
    # A stride of s turns side n into ceil(n / s): kernels are odd and padded by half their size.
    side = np.array([-(-resolution // stem_stride)], dtype=np.int64)
    first, last, linear = 9 * in_channels * stem, skips[-1].outputs * features, features * classes
    macs, places = side**2 * first, []
    for options, skip in zip(layers, skips, strict=True):
        places.append((options, side))
        side = -(-side // skip.stride)
    params = first + 2 * stem + last + 2 * features + linear + classes
    return CostTables(places, params, macs + side**2 * last + linear)
