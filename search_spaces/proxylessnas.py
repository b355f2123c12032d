"""Once-for-All's elastic ProxylessNAS (Cai et al., ICLR 2020; Cai, Zhu & Han, ICLR 2019).

A chain of stages of mobile inverted bottlenecks with ReLU6 and without squeeze-and-excitation. Elastic are the
resolution of the images, the depth of each stage but the last, which is one block, and the kernel and expansion of each
block. The defaults are the published super-network at width 1.3: 2·10^20 networks at each of 25 resolutions.

Equivalences united under ``identity="function"``: choices of blocks that the depth cuts off. Not united: kernels that
differ only where they read padding (a map smaller than half the kernel); they differ in parameters and MACs.

Notation: Once-for-All's, see `search_spaces.ofa`; the depth of the last stage is written too, and is always 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, final

import numpy as np
from numpy.typing import NDArray

from search_spaces import mobile
from search_spaces import options as check
from search_spaces.networks.layout import Block, Layout, chain_costs
from search_spaces.space import (
    Bools,
    Genes,
    Graphs,
    Identity,
    IntArray,
    InvalidSpace,
    SearchSpace,
    images,
)
from search_spaces.stacks import extremes

if TYPE_CHECKING:
    from torch import nn

    from search_spaces.supernets.supernet import Supernet

_LAST = 1
"""Blocks of the last stage."""


@final
class ProxylessNAS(SearchSpace):
    """Choices ``resolution``, then per stage ``stageS.depth`` and per block ``stageS.blockB.kernel`` and ``.expand``.

    Options, all JSON; the defaults are the published space:

    - ``in_channels``, ``classes``: of the data set.
    - ``resolutions``: sides of the square input, in pixels.
    - ``kernels`` (odd), ``expansions``, ``depths``: what each block, or stage, chooses from.
    - ``stage_widths``, ``stage_strides``: one item per stage, at least two; the last stage is one block.
    - ``stem_width``, ``stem_stride``: the first 3×3 convolution. ``first_width``: the fixed block behind it.
    - ``feature_width``: the 1×1 convolution before the global average pool.
    - ``width_mult``: multiplies every width; all are then rounded to multiples of 8.

    Raises `InvalidSpace` that names the option.
    """

    def __init__(
        self,
        *,
        identity: Identity = "function",
        in_channels: int = 3,
        classes: int = 1000,
        resolutions: Any = tuple(range(128, 225, 4)),
        kernels: Any = (3, 5, 7),
        expansions: Any = (3, 4, 6),
        depths: Any = (2, 3, 4),
        stage_widths: Any = (24, 40, 80, 96, 192, 320),
        stage_strides: Any = (2, 2, 2, 1, 2, 1),
        stem_width: int = 32,
        stem_stride: int = 2,
        first_width: int = 16,
        feature_width: int = 1280,
        width_mult: float = 1.3,
        **unknown: Any,
    ) -> None:
        widths = check.many("stage_widths", stage_widths, check.integer)
        if len(widths) < 2:
            raise InvalidSpace("needs stages of elastic depth and the last one: at least 2 items", "stage_widths")
        options: dict[str, Any] = {
            **mobile.checked(
                in_channels=in_channels,
                classes=classes,
                resolutions=resolutions,
                kernels=kernels,
                expansions=expansions,
                depths=depths,
            ),
            "stage_widths": widths,
            "stage_strides": check.many("stage_strides", stage_strides, check.integer, length=len(widths)),
            "stem_width": check.integer("stem_width", stem_width),
            "stem_stride": check.integer("stem_stride", stem_stride),
            "first_width": check.integer("first_width", first_width),
            "feature_width": check.integer("feature_width", feature_width),
            "width_mult": check.number("width_mult", width_mult),
        }
        for field in unknown:
            raise InvalidSpace(f"no such option, options are {sorted(options)}", field)
        self._rows = mobile.Rows(options, len(widths) - 1, _LAST)
        super().__init__("proxylessnas", self._rows.choices(), options, identity=identity, uniform=True)
        variants = [[self.block(*where, *pair) for pair in self._rows.pairs()] for where in self._rows.where()]
        self._tables = chain_costs(self.full, options["resolutions"], variants)

    def active(self, genes: Genes) -> Bools:
        """(n, d): all but the choices of blocks that the depths cut off."""
        return self._rows.active(self._batch(genes))

    def _merge(self, genes: Genes) -> Genes:
        return genes

    def _feasible(self, genes: Genes) -> Bools:
        return np.ones(len(genes), dtype=bool)

    def _draw(self, count: int, rng: np.random.Generator) -> Genes:
        return self._rows.draw(self._draw_rows(count, rng), self._allowed, self.identity, rng)

    @property
    def cardinality(self) -> int:
        """Resolutions times the settings of each stage, summed over its depths: rows under identity="row"."""
        return self._rows.cardinality(self._allowed, self.identity)

    def _write(self, genes: Genes) -> list[str]:
        return self._rows.write(genes)

    def _parse(self, text: str) -> Sequence[int]:
        return self._rows.parse(text)

    def extremes(self) -> Genes:
        """(2, d) canonical rows: cost grows with every option's value, so each choice takes its least or largest."""
        return self.canonical(extremes(self.choices, self._allowed))

    def cost(self, genes: Genes) -> dict[str, IntArray]:
        """``params`` and ``macs`` (of convolutions and the classifier), (n,) each."""
        return self._rows.cost(self._batch(genes), self._tables)

    @property
    def most_nodes(self) -> int:
        """All blocks at full depth, input, stem, first block and output."""
        return self._rows.places + 4

    def graphs(self, genes: Genes) -> Graphs:
        """Nodes ``input_RESOLUTION``, ``stem``, ``first``, a ``mbEXPANSION_kKERNEL`` per block, ``output``.

        A node reads the sum of the nodes that feed it, so a skip connection is an edge past the block it skips.
        """
        return self._rows.graphs(self._batch(genes), [block.residual for block in self.full.blocks])

    # ------------------------------------------------------------------ what it is built from

    def layout(self, row: Genes) -> Layout:
        """The layers of the network of one row (d,). Raises `InvalidArchitecture`."""
        checked = self.check(np.asarray(row)[None])[0]
        blocks = [self.block(*each) for each in self._rows.blocks(checked)]
        return self._network(self.options["resolutions"][int(checked[0])], (self.first_block, *blocks))

    def _network(self, resolution: int, blocks: tuple[Block, ...]) -> Layout:
        get = self.options
        return Layout(
            in_channels=get["in_channels"],
            resolution=resolution,
            stem=mobile.width(get, get["stem_width"]),
            stem_stride=get["stem_stride"],
            blocks=blocks,
            final=mobile.width(get, get["feature_width"]),
            features=0,
            classes=get["classes"],
        )

    @property
    def full(self) -> Layout:
        """All blocks at the widest expansion and the largest kernel: what a super-network holds."""
        blocks = [self.block(*where, *self._rows.widest) for where in self._rows.where()]
        return self._network(max(self.options["resolutions"]), (self.first_block, *blocks))

    @property
    def first_block(self) -> Block:
        """The fixed block behind the stem: no expansion, kernel 3, stride 1, never a shortcut."""
        inputs = mobile.width(self.options, self.options["stem_width"])
        outputs = mobile.width(self.options, self.options["first_width"])
        return Block(0, inputs, inputs, outputs, 3, 1, 0, "relu6", expands=False, shortcut=False)

    def block(self, stage: int, depth: int, kernel: int, expansion: int) -> Block:
        """Block ``depth`` of ``stage``, both from 0, with these option indices."""
        place = 1 + stage * self._rows.deepest + depth
        return mobile.elastic_block(self.options, place, (stage, depth), (kernel, expansion), activation="relu6")

    def input_shape(self, row: Genes) -> tuple[int, ...]:
        """(channels, height, width) of one image."""
        side = self.options["resolutions"][int(self.check(np.asarray(row)[None])[0, 0])]
        return (self.options["in_channels"], side, side)

    def inputs(self, row: Genes, batch: int, rng: np.random.Generator) -> tuple[NDArray[Any], ...]:
        """(batch, channels, height, width) images."""
        return images(self.input_shape(row), batch, rng)

    def build(self, row: Genes) -> nn.Module:
        """The network of one row, with the same weights each time; `initialise` draws others."""
        from search_spaces.networks.initialise import initialise
        from search_spaces.networks.proxylessnas import Network

        network = Network(self.layout(row), device="meta").to_empty(device="cpu")
        return initialise(network, np.random.default_rng(0))

    def supernet(self) -> Supernet:
        """The super-network under Once-for-All's names, with the same weights each time; `initialise` draws others."""
        from search_spaces.networks.initialise import initialise
        from search_spaces.supernets.proxylessnas import ProxylessNASSupernet

        return initialise(ProxylessNASSupernet(self, device="meta").to_empty(device="cpu"), np.random.default_rng(0))
