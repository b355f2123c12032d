"""ENAS's macro space (Pham et al., ICML 2018): layers with one of six operations, and any skip connections.

The image, after a first convolution, is vertex 0, the layers are vertices 1, 2, …. A layer's operation reads the
vertex before. What it makes is joined with any of the vertices before that one by a 1×1 convolution. Six layers, as
D-VAE has them (Zhang et al., NeurIPS 2019), give 6^6 · 2^15 = 1,528,823,808 networks.

No two of them are united: every layer leads to the next, so nothing is dead, and ``identity`` makes no difference here.

Networks are those that the published code trains alone (the one whose weights are shared adds what is skipped, and
never widens), but for two things. There, the separable convolutions turn into ordinary ones when a network is trained
alone, so that operations 0 and 1, and 2 and 3, are the same; here they are separable, as in the paper and as in the
network whose weights are shared. And there, vertices are halved that no layer reads any more; here they are not.

Notation: a list per layer, as D-VAE's tables have it, ``[[5],[2,1],[2,1,0],…]``: the operation's number, then for each
vertex from 0 on whether it is joined. The same numbers in one line, as ENAS writes them, ``5 2 1 2 1 0 …``, are read
as well.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NoReturn, final

import numpy as np
from numpy.typing import NDArray

from search_spaces import options as check
from search_spaces.space import (
    Bools,
    Choice,
    Genes,
    Graphs,
    Identity,
    IntArray,
    InvalidArchitecture,
    InvalidSpace,
    SearchSpace,
    Unsupported,
    images,
)

if TYPE_CHECKING:
    from torch import nn

OPERATIONS = ("conv_3x3", "sep_conv_3x3", "conv_5x5", "sep_conv_5x5", "avg_pool_3x3", "max_pool_3x3")
_JOIN = "conv_1x1"
_PUNCTUATION = re.compile(r"\s*([\[\],])\s*")


@final
class Enas(SearchSpace):
    """Choices ``layer1.op``, ``layer2.op``, ``layer2.skip0``, ``layer3.op``, …: operations, and vertices joined or not.

    Options, all JSON; the defaults are the networks that D-VAE trains for CIFAR-10:

    - ``in_channels``, ``classes``: of the data set. ``resolution``: side of the images in pixels.
    - ``channels``: behind the first convolution, 3×3. They double, and the side is halved, after a third and after two
      thirds of the layers.
    - ``layers``: 3 to 16.

    Raises `InvalidSpace` that names the option.
    """

    def __init__(
        self,
        *,
        identity: Identity = "function",
        in_channels: int = 3,
        classes: int = 10,
        resolution: int = 32,
        channels: int = 96,
        layers: int = 6,
        **unknown: Any,
    ) -> None:
        options = {
            "in_channels": check.integer("in_channels", in_channels),
            "classes": check.integer("classes", classes, most=100_000),
            "resolution": check.integer("resolution", resolution),
            "channels": check.integer("channels", channels, most=1024),
            "layers": check.integer("layers", layers, least=3, most=16),
        }
        for field in unknown:
            raise InvalidSpace(f"no such option, options are {sorted(options)}", field)
        choices, self._skips = [], []
        for layer in range(1, layers + 1):
            choices.append(Choice(f"layer{layer}.op", OPERATIONS))
            for vertex in range(layer - 1):
                self._skips.append((len(choices), layer, vertex))
                choices.append(Choice(f"layer{layer}.skip{vertex}", (0, 1)))
        """(column, layer, vertex) of each skip connection."""
        super().__init__("enas", choices, options, identity=identity, uniform=True)
        self._ops = np.array([layer * (layer - 1) // 2 for layer in range(1, layers + 1)])
        """(layers,): the columns of operations."""
        self._costs = _Costs(self._skips, **options)
        self._form = self._write(np.zeros((1, len(choices)), dtype=np.int8))[0]
        """What a text looks like."""

    # ------------------------------------------------------------------ rows

    def active(self, genes: Genes) -> Bools:
        """(n, d), all True: every layer leads to the next."""
        return np.ones(self._batch(genes).shape, dtype=bool)

    def _merge(self, genes: Genes) -> Genes:
        return genes

    def _feasible(self, genes: Genes) -> Bools:
        return np.ones(len(genes), dtype=bool)

    def _draw(self, count: int, rng: np.random.Generator) -> Genes:
        return self._draw_rows(count, rng)

    @property
    def cardinality(self) -> int:
        """6^layers · 2^(layers · (layers - 1) / 2); fewer when restricted."""
        return math.prod(self._allowed.sum(axis=1).tolist())

    def extremes(self) -> Genes:
        """(2, d): a network costs what its parts cost, and any skip connection costs something."""
        macs = np.zeros(self._allowed.shape, dtype=np.int64)
        macs[self._ops] = self._costs.operations[:, :, 1]
        macs[[column for column, _, _ in self._skips], 1] = 1
        ends = [np.where(self._allowed, sign * macs, np.inf).argmin(axis=1) for sign in (1, -1)]
        return np.stack(ends).astype(np.int8)

    def _write(self, genes: Genes) -> list[str]:
        starts = [*self._ops.tolist(), len(self.choices)]
        return [json.dumps([row[a:b] for a, b in pairwise(starts)], separators=(",", ":")) for row in genes.tolist()]

    def _parse(self, text: str) -> Sequence[int]:
        stated = _PUNCTUATION.sub(r"\1", text.strip())
        given, count = re.findall(r"\d+", stated), len(self.choices)
        if re.sub(r"\d+", "0", stated) != self._form and (len(given) != count or stated.split() != given):
            message = f"must be a list per layer that reads like {self._form}, or its {count} numbers in one line"
            raise InvalidArchitecture(f"{message}, is {text[:200]!r}", row=0, field="notation")
        genes = []
        for choice, number in zip(self.choices, given, strict=True):
            known = [str(gene) for gene in range(len(choice.options))]
            if number not in known:
                message = f"no such number {number[:50]!r}, numbers are {known}"
                raise InvalidArchitecture(message, row=0, field=choice.name)
            genes.append(int(number))
        return genes

    # ------------------------------------------------------------------ what it costs, and how it is built

    def cost(self, genes: Genes) -> dict[str, IntArray]:
        """``params`` and ``macs`` (of convolutions and the classifier), (n,) each."""
        genes = self._batch(genes)
        return self._costs.cost(genes[:, self._ops], genes[:, [column for column, _, _ in self._skips]])

    def input_shape(self, row: Genes) -> tuple[int, ...]:
        """(channels, height, width) of one image."""
        self.check(np.asarray(row)[None])
        return (self.options["in_channels"], self.options["resolution"], self.options["resolution"])

    def inputs(self, row: Genes, batch: int, rng: np.random.Generator) -> tuple[NDArray[Any], ...]:
        """(batch, channels, height, width) images."""
        return images(self.input_shape(row), batch, rng)

    def build(self, row: Genes) -> nn.Module:
        """The network of one row, with the same weights each time; `initialise` draws others."""
        from search_spaces.networks.enas import Network
        from search_spaces.networks.initialise import initialise

        genes = self.check(np.asarray(row)[None])[0]
        operations = [OPERATIONS[gene] for gene in genes[self._ops]]
        skips: list[list[int]] = [[] for _ in operations]
        for column, layer, vertex in self._skips:
            if genes[column]:
                skips[layer - 1].append(vertex)
        sizes = {name: self.options[name] for name in ("in_channels", "classes", "channels")}
        network = Network(operations, skips, device="meta", **sizes).to_empty(device="cpu")
        return initialise(network, np.random.default_rng(0))

    def supernet(self) -> NoReturn:
        """Raises `Unsupported`."""
        raise Unsupported("enas has no super-network: train its networks alone, or import the published table")

    # ------------------------------------------------------------------ as graphs

    @property
    def most_nodes(self) -> int:
        """The operations, what joins them, input and output."""
        return int(2 * self.options["layers"] + 1)

    def graphs(self, genes: Genes) -> Graphs:
        """Nodes ``input``, which is vertex 0, the first operation, then of each layer the operation and the
        ``conv_1x1`` that joins, ``output``.

        D-VAE's graphs are these with the two nodes of a layer drawn as one.
        """
        genes = self._batch(genes)
        labels = ("input", *OPERATIONS, _JOIN, "output")
        operations = np.full((len(genes), self.most_nodes), labels.index(_JOIN), dtype=np.int16)
        ends = [0, 1, *range(3, self.most_nodes, 2)]
        """The node that each vertex is."""
        starts = [1, *(end - 1 for end in ends[2:])]
        operations[:, 0], operations[:, -1] = 0, len(labels) - 1
        operations[:, starts] = genes[:, self._ops] + np.int16(1)
        adjacency = np.zeros((len(genes), self.most_nodes, self.most_nodes), dtype=bool)
        adjacency[:, ends[:-1], starts] = True
        adjacency[:, starts[1:], ends[2:]] = True
        adjacency[:, ends[-1], -1] = True
        for column, layer, vertex in self._skips:
            adjacency[:, ends[vertex], ends[layer]] = genes[:, column]
        return Graphs(adjacency, operations, labels)


@final
class _Costs:
    """What the networks are put together from costs: pairs (parameters, MACs)."""

    def __init__(
        self,
        skips: Sequence[tuple[int, int, int]],
        *,
        in_channels: int,
        classes: int,
        resolution: int,
        channels: int,
        layers: int,
    ) -> None:
        third = layers // 3
        widths = [channels << stage for stage in range(3)]
        # A stride of 2 turns side n into ceil(n / 2).
        sides = [-(-resolution // (1 << stage)) for stage in range(3)]
        # From a third of the layers on they are in the second stage, whatever the remainder in the third.
        stages = [min((layer - 1) // third, 2) for layer in range(1, layers + 1)]

        def convolution(weights: int, outputs: int, side: int) -> IntArray:
            return np.array([weights + 2 * outputs, weights * side**2], dtype=np.int64)

        def operation(taps: int, dense: bool, width: int, side: int) -> IntArray:
            weights = taps * width * (width if dense else 1) + (0 if dense else width**2)
            return convolution(width**2, width, side) + convolution(weights, width, side)

        of_stages = np.zeros((3, len(OPERATIONS), 2), dtype=np.int64)
        for stage, (width, side) in enumerate(zip(widths, sides, strict=True)):
            for kind, (taps, dense) in enumerate(((9, True), (9, False), (25, True), (25, False))):
                of_stages[stage, kind] = operation(taps, dense, width, side)
        self.operations = of_stages[stages]
        """(layers, operations, 2)"""
        joins = np.array([(width**2, width**2 * side**2) for width, side in zip(widths, sides, strict=True)])
        self._per_skip: IntArray = np.stack([joins[stages[layer - 1]] for _, layer, _ in skips])
        """(skips, 2)"""
        self._fixed = convolution(9 * in_channels * channels, channels, resolution)
        self._fixed += (widths[2] * classes, widths[2] * classes)
        for stage in stages[1:]:
            self._fixed += joins[stage] + (2 * widths[stage], 0)
        # Vertices that are halved if a later layer reads them: which skip connections do.
        needs, halvings = [], []
        for stage in (1, 2):
            end = stage * third
            halving = convolution(widths[stage - 1] * widths[stage], widths[stage], sides[stage])
            self._fixed += halving
            for halved in range(end):
                needs.append([layer > end and vertex == halved for _, layer, vertex in skips])
                halvings.append(halving)
        self._needs, self._halvings = np.array(needs, dtype=np.int8).T, np.stack(halvings)

    def cost(self, operations: Genes, skips: Genes) -> dict[str, IntArray]:
        """``params`` and ``macs``, (n,) each, of operations (n, layers) and skip connections (n, skips), 0 or 1."""
        total = self.operations[np.arange(len(self.operations)), operations].sum(axis=1) + self._fixed
        total += skips @ self._per_skip
        total += ((skips @ self._needs) > 0) @ self._halvings
        params, macs = total.T
        return {"params": params, "macs": macs}
