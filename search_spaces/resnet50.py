"""Once-for-All's elastic ResNet50 (Cai et al., ICLR 2020; He et al., CVPR 2016; its model D, He et al., CVPR 2019).

A stem of 3×3 convolutions, a max pool, and four stages of bottlenecks. Elastic are the resolution of the images, the
residual convolution of the stem (there or not), the widths of the stem's first and last convolution and of each stage,
the depth of each stage, and the expansion of each block: the channels of its 3×3 convolution as a share of the stage's.
The defaults are the published super-network: 2·10^12 networks at each of 25 resolutions.

Equivalences united under ``identity="function"``: expansions of blocks that the depth cuts off; widths, and expansions
at the width of their stage, that are rounded to the same number of channels (the first stands for all; in the published
space 0.65 and 0.8 in the stem's first convolution). Complete: two different canonical rows differ in the size of their
images or in the shapes of their layers.

Notation: Once-for-All's, see `search_spaces.ofa`: ``d``, of the stem (0 without its residual convolution) and of each
stage, counted beyond its least depth; ``e``, of all blocks; ``w``, the ranks of the widths of the stem's first and last
convolution and of each stage.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING, Any, final

import numpy as np
from numpy.typing import NDArray

from search_spaces import options as check
from search_spaces.costs import CostTables, Part
from search_spaces.graphs import chain
from search_spaces.mobile import MAX_CLASSES
from search_spaces.networks.residual_layout import Bottleneck, Classifier, Layout, Stem
from search_spaces.residual_rows import STEM_FIRST, STEM_LAST, STEM_RESIDUAL, Rows
from search_spaces.space import (
    MAX_OPTIONS,
    Bools,
    Genes,
    Graphs,
    Identity,
    IntArray,
    InvalidSpace,
    SearchSpace,
    images,
)

if TYPE_CHECKING:
    from torch import nn

    from search_spaces.supernets.supernet import Supernet

_MOST = 8
"""Expansions, and widths: what the first block of a stage costs is listed for each two widths and expansion."""


@final
class ResNet50(SearchSpace):
    """Choices ``resolution``; ``stem.depth`` (1 with its residual convolution), ``stem.first.width``,
    ``stem.last.width``; per stage ``stageS.depth`` (its blocks) and ``stageS.width``, per block
    ``stageS.blockB.expand``. Widths are multipliers.

    Options, all JSON; the defaults are the published space:

    - ``in_channels``, ``classes``: of the data set.
    - ``resolutions``: sides of the square input, in pixels.
    - ``depths``: what each stage chooses from, blocks beyond its least depth.
    - ``expansions``, ``width_mults``: what each block, and each stage and the stem, chooses from.
    - ``stage_widths``, ``stage_strides``, ``stage_depths`` (the least): one item per stage.
    - ``stem_width``, ``stem_stride``: the convolutions before the max pool; the first ones are half as wide.
    - ``pool_stride``: of the max pool.

    All widths are rounded to multiples of 8. Raises `InvalidSpace` that names the option.
    """

    def __init__(
        self,
        *,
        identity: Identity = "function",
        in_channels: int = 3,
        classes: int = 1000,
        resolutions: Any = tuple(range(128, 225, 4)),
        depths: Any = (0, 1, 2),
        expansions: Any = (0.2, 0.25, 0.35),
        width_mults: Any = (0.65, 0.8, 1.0),
        stage_widths: Any = (256, 512, 1024, 2048),
        stage_strides: Any = (1, 2, 2, 2),
        stage_depths: Any = (2, 2, 4, 2),
        stem_width: int = 64,
        stem_stride: int = 2,
        pool_stride: int = 2,
        **unknown: Any,
    ) -> None:
        widths = check.many("stage_widths", stage_widths, check.integer)
        options: dict[str, Any] = {
            "in_channels": check.integer("in_channels", in_channels),
            "classes": check.integer("classes", classes, most=MAX_CLASSES),
            "resolutions": check.many("resolutions", resolutions, check.integer, most=MAX_OPTIONS, distinct=True),
            "depths": check.many("depths", depths, _extra, distinct=True),
            "expansions": check.many("expansions", expansions, check.number, most=_MOST, distinct=True),
            "width_mults": check.many("width_mults", width_mults, check.number, most=_MOST, distinct=True),
            "stage_widths": widths,
            "stage_strides": check.many("stage_strides", stage_strides, check.integer, length=len(widths)),
            "stage_depths": check.many("stage_depths", stage_depths, check.small, length=len(widths)),
            "stem_width": check.integer("stem_width", stem_width),
            "stem_stride": check.integer("stem_stride", stem_stride),
            "pool_stride": check.integer("pool_stride", pool_stride),
        }
        for field in unknown:
            raise InvalidSpace(f"no such option, options are {sorted(options)}", field)
        self._rows = Rows(options, identity)
        super().__init__("resnet50", self._rows.choices(), options, identity=identity, uniform=True)
        self._tables = CostTables(self._parts())

    def active(self, genes: Genes) -> Bools:
        """(n, d): all but the expansions of blocks that the depths cut off."""
        return self._rows.active(self._batch(genes))

    def _merge(self, genes: Genes) -> Genes:
        return self._rows.merge(genes)

    def _feasible(self, genes: Genes) -> Bools:
        return np.ones(len(genes), dtype=bool)

    def _draw(self, count: int, rng: np.random.Generator) -> Genes:
        return self._rows.draw(self._draw_rows(count, rng), self._allowed, rng)

    @property
    def cardinality(self) -> int:
        """Settings of the stem times those of each stage, summed over widths and depths: rows under identity="row"."""
        return self._rows.cardinality(self._allowed)

    def _write(self, genes: Genes) -> list[str]:
        return self._rows.write(genes)

    def _parse(self, text: str) -> Sequence[int]:
        return self._rows.parse(text)

    # ------------------------------------------------------------------ what it costs

    def cost(self, genes: Genes) -> dict[str, IntArray]:
        """``params`` and ``macs`` (of convolutions and the classifier), (n,) each."""
        return self._tables.cost(self._batch(genes), self._settings)

    def _parts(self) -> list[tuple[Sequence[Part], IntArray]]:
        """What may stand at each place, the stem first and the classifier last, and the sides of their inputs.

        Settings run over (residual, first width, last width) of the stem; (width before, width, expansion) of the first
        block of a stage; (width, expansion) of others; the width of the last stage.
        """
        get, rows = self.options, self._rows
        widths, ratios = range(len(get["width_mults"])), range(len(get["expansions"]))
        sides = np.array(get["resolutions"], dtype=np.int64)
        stems = [self._stem(*setting) for setting in product((0, 1), widths, widths)]
        places: list[tuple[Sequence[Part], IntArray]] = [(stems, sides)]
        sides = -(-sides // get["stem_stride"])
        sides = -(-sides // get["pool_stride"])
        for place, block in enumerate(rows.block.tolist()):
            if block:
                places.append(([self._bottleneck(place, w, w, e) for w, e in product(widths, ratios)], sides))
            else:
                firsts = [self._bottleneck(place, *setting) for setting in product(widths, widths, ratios)]
                places.append((firsts, sides))
                sides = -(-sides // firsts[0].stride)
        places.append(([self._classifier(width) for width in widths], sides))
        return places

    def _settings(self, genes: Genes) -> NDArray[np.int32]:
        """(n, 2 + places): the stem's, each block's and the classifier's, in the order of `_parts`."""
        rows = self._rows
        _, widths, ratios = (np.int32(size) for size in rows.middles.shape)
        wide = rows.stage_widths(genes).astype(np.int32)
        stem = genes[:, [STEM_RESIDUAL, STEM_FIRST, STEM_LAST]].astype(np.int32)
        before = np.column_stack([stem[:, 2], wide[:, :-1]])
        blocks = wide[:, rows.stage] * ratios + rows.expansions(genes)
        blocks[:, rows.block == 0] += before * (widths * ratios)
        # Only blocks behind a stage's first can be missing.
        blocks = np.where(rows.present(genes), blocks, widths * ratios)
        stems = (stem[:, 0] * widths + stem[:, 1]) * widths + stem[:, 2]
        return np.column_stack([stems, blocks, wide[:, -1]])

    def extremes(self) -> Genes:
        """(2, d) canonical rows, found stage by stage for each width: exact under any restriction."""
        return self.canonical(np.stack([self._extreme(1), self._extreme(-1)]))

    def _extreme(self, sign: int) -> Genes:
        """The row with the least of ``sign`` times the MACs."""
        sides = np.where(self._allowed[0, : self.sizes[0]], sign * np.array(self.options["resolutions"]), np.inf)
        side = int(sides.argmin())
        row = self._rows.cheapest(self._allowed, lambda place: sign * self._tables.macs_at(place)[side])
        row[0] = side
        return row

    # ------------------------------------------------------------------ as graphs

    @property
    def most_nodes(self) -> int:
        """All blocks at full depth, input, three convolutions of the stem, and output."""
        return self._rows.places + 5

    def graphs(self, genes: Genes) -> Graphs:
        """Nodes ``input_RESOLUTION``; ``conv3x3_wWIDTH``, perhaps ``residual_conv3x3``, and ``conv3x3_wWIDTH`` of the
        stem; per stage a ``projected_k3_eEXPANSION_wWIDTH`` and a ``bottleneck_k3_…`` for each block behind it;
        ``output``. Widths and expansions are those of the canonical row.

        A node reads the sum of the nodes that feed it, so the shortcut of the stem is an edge past its convolution. The
        shortcut of a block is part of its node: a ReLU stands behind the sum.
        """
        genes = self.canonical(genes)
        get, rows, n = self.options, self._rows, len(genes)
        inputs = [f"input_{side}" for side in get["resolutions"]]
        convs = [f"conv3x3_w{width:g}" for width in get["width_mults"]]
        pairs = list(product(get["width_mults"], get["expansions"]))
        kinds = [f"{kind}_k3_e{e:g}_w{w:g}" for kind in ("projected", "bottleneck") for w, e in pairs]
        labels = (*inputs, *convs, "residual_conv3x3", *kinds, "output")
        conv, block = len(inputs), len(inputs) + len(convs) + 1
        wide = rows.stage_widths(genes)[:, rows.stage].astype(np.int16)
        blocks = wide * len(get["expansions"]) + rows.expansions(genes) + len(pairs) * (rows.block > 0)
        stem = [conv + genes[:, STEM_FIRST].astype(np.int16), np.full(n, block - 1), conv + genes[:, STEM_LAST]]
        operations = np.column_stack([genes[:, 0], *stem, block + blocks, np.full(n, len(labels) - 1)])
        present = np.ones(operations.shape, dtype=bool)
        present[:, 2] = genes[:, STEM_RESIDUAL] == 1
        present[:, 4:-1] = rows.present(genes)
        return chain(present, np.arange(operations.shape[1]) == 2, operations, labels)

    # ------------------------------------------------------------------ what it is built from

    def layout(self, row: Genes) -> Layout:
        """The layers of the network of one row (d,). Raises `InvalidArchitecture`."""
        genes = self.check(np.asarray(row)[None])
        rows, one = self._rows, genes[0].tolist()
        widths, expansions = rows.stage_widths(genes)[0].tolist(), rows.expansions(genes)[0].tolist()
        before = [one[STEM_LAST], *widths[:-1]]
        blocks = []
        for place in np.flatnonzero(rows.present(genes)[0]).tolist():
            stage, block = int(rows.stage[place]), int(rows.block[place])
            inputs = widths[stage] if block else before[stage]
            blocks.append(self._bottleneck(place, inputs, widths[stage], expansions[place]))
        return Layout(
            resolution=self.options["resolutions"][one[0]],
            stem=self._stem(one[STEM_RESIDUAL], one[STEM_FIRST], one[STEM_LAST]),
            pool_stride=self.options["pool_stride"],
            blocks=tuple(blocks),
            classifier=self._classifier(widths[-1]),
        )

    @property
    def full(self) -> Layout:
        """All blocks, and all layers at their widest: what a super-network holds."""
        rows = self._rows
        widest = int(np.argmax(self.options["width_mults"]))
        ratio = int(np.argmax(self.options["expansions"]))
        return Layout(
            resolution=max(self.options["resolutions"]),
            stem=self._stem(1, widest, widest),
            pool_stride=self.options["pool_stride"],
            blocks=tuple(self._bottleneck(place, widest, widest, ratio) for place in range(rows.places)),
            classifier=self._classifier(widest),
        )

    def _stem(self, residual: int, middle: int, outputs: int) -> Stem:
        get, rows = self.options, self._rows
        return Stem(
            in_channels=get["in_channels"],
            middle=int(rows.stem_middle[middle]),
            outputs=int(rows.stem[outputs]),
            stride=get["stem_stride"],
            residual=bool(residual),
        )

    def _bottleneck(self, place: int, before: int, width: int, ratio: int) -> Bottleneck:
        """The block at a place, with these option indices of the width of its input, its own, and the expansion."""
        rows = self._rows
        stage, block = int(rows.stage[place]), int(rows.block[place])
        inputs = rows.widths[stage] if block else rows.widths[stage - 1] if stage else rows.stem
        return Bottleneck(
            place=place,
            inputs=int(inputs[before]),
            middle=int(rows.middles[stage, width, ratio]),
            outputs=int(rows.widths[stage, width]),
            stride=1 if block else self.options["stage_strides"][stage],
            projects=block == 0,
        )

    def _classifier(self, width: int) -> Classifier:
        return Classifier(int(self._rows.widths[-1, width]), self.options["classes"])

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
        from search_spaces.networks.resnet50 import Network

        network = Network(self.layout(row), device="meta").to_empty(device="cpu")
        return initialise(network, np.random.default_rng(0))

    def supernet(self) -> Supernet:
        """The super-network under Once-for-All's names, with the same weights each time; `initialise` draws others."""
        from search_spaces.networks.initialise import initialise
        from search_spaces.supernets.resnet50 import ResNet50Supernet

        return initialise(ResNet50Supernet(self, device="meta").to_empty(device="cpu"), np.random.default_rng(0))


def _extra(field: str, value: Any) -> int:
    return check.integer(field, value, least=0, most=14)
