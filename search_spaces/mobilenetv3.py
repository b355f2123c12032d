"""Once-for-All's elastic MobileNetV3 (Cai et al., ICLR 2020; Howard et al., ICCV 2019).

A chain of stages of mobile inverted bottlenecks. Elastic are the resolution of the images, the depth of each stage,
and the kernel and expansion of each block. The defaults are the published space at width 1.0: 7·10^19 networks at each
of 25 resolutions.

Equivalences united under ``identity="function"``: choices of blocks that the depth cuts off. Not united: kernels that
differ only where they read padding (a map smaller than half the kernel); they differ in parameters and MACs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING, Any, final

import numpy as np
from numpy.typing import NDArray

from search_spaces import options as check
from search_spaces.graphs import chain
from search_spaces.networks.layout import Block, CostTables, Layout, divisible
from search_spaces.space import (
    MAX_OPTIONS,
    Bools,
    Choice,
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

ACTIVATIONS = ("relu", "h_swish")
MAX_CLASSES = 100_000
_CHUNK = 8192
"""Rows whose costs are looked up at once: their indices stay in the cache."""


@final
class MobileNetV3(SearchSpace):
    """Choices ``resolution``, then per stage ``stageS.depth`` and per block ``stageS.blockB.kernel`` and ``.expand``.

    Options, all JSON; the defaults are the published full-size space:

    - ``in_channels``, ``classes``: of the data set.
    - ``resolutions``: sides of the square input, in pixels.
    - ``kernels`` (odd), ``expansions``, ``depths``: what each block, or stage, chooses from.
    - ``stage_widths``, ``stage_strides``, ``stage_se``, ``stage_activations`` ("relu", "h_swish"): one item per stage.
    - ``stem_width``, ``stem_stride``: the first 3×3 convolution. ``first_width``: the fixed block behind it.
    - ``final_width``, ``feature_width``: the 1×1 convolutions before and after the global average pool.
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
        stage_widths: Any = (24, 40, 80, 112, 160),
        stage_strides: Any = (2, 2, 2, 1, 2),
        stage_se: Any = (False, True, False, True, True),
        stage_activations: Any = ("relu", "relu", "h_swish", "h_swish", "h_swish"),
        stem_width: int = 16,
        stem_stride: int = 2,
        first_width: int = 16,
        final_width: int = 960,
        feature_width: int = 1280,
        width_mult: float = 1.0,
        **unknown: Any,
    ) -> None:
        widths = check.many("stage_widths", stage_widths, check.integer)
        stages = len(widths)
        options: dict[str, Any] = {
            "in_channels": check.integer("in_channels", in_channels),
            "classes": check.integer("classes", classes, most=MAX_CLASSES),
            "resolutions": check.many("resolutions", resolutions, check.integer, most=MAX_OPTIONS, distinct=True),
            "kernels": check.many("kernels", kernels, check.odd, distinct=True),
            "expansions": check.many("expansions", expansions, check.small, distinct=True),
            "depths": check.many("depths", depths, check.small, distinct=True),
            "stage_widths": widths,
            "stage_strides": check.many("stage_strides", stage_strides, check.integer, length=stages),
            "stage_se": check.many("stage_se", stage_se, check.boolean, length=stages),
            "stage_activations": check.many(
                "stage_activations", stage_activations, check.one_of(*ACTIVATIONS), length=stages
            ),
            "stem_width": check.integer("stem_width", stem_width),
            "stem_stride": check.integer("stem_stride", stem_stride),
            "first_width": check.integer("first_width", first_width),
            "final_width": check.integer("final_width", final_width),
            "feature_width": check.integer("feature_width", feature_width),
            "width_mult": check.number("width_mult", width_mult),
        }
        for field in unknown:
            raise InvalidSpace(f"no such option, options are {sorted(options)}", field)
        deepest = max(options["depths"])
        choices = [Choice("resolution", tuple(options["resolutions"]))]
        for stage in range(1, stages + 1):
            choices.append(Choice(f"stage{stage}.depth", tuple(options["depths"])))
            for block in range(1, deepest + 1):
                choices.append(Choice(f"stage{stage}.block{block}.kernel", tuple(options["kernels"])))
                choices.append(Choice(f"stage{stage}.block{block}.expand", tuple(options["expansions"])))
        super().__init__("mobilenetv3", choices, options, identity=identity, uniform=True)
        self._stages, self._deepest = stages, deepest
        self._depths = np.array(options["depths"], dtype=np.int16)
        pairs = list(product(range(len(options["kernels"])), range(len(options["expansions"]))))
        places = product(range(stages), range(deepest))
        blocks = [[self.block(stage, depth, *pair) for pair in pairs] for stage, depth in places]
        self._tables = CostTables(self.full, options["resolutions"], blocks)

    # ------------------------------------------------------------------ the shape of a row

    def _by_stage(self, rows: NDArray[Any]) -> NDArray[Any]:
        """A view (n, stages, 1 + 2·deepest): the depth, then kernel and expansion of each block in turn."""
        return rows[:, 1:].reshape(len(rows), self._stages, 1 + 2 * self._deepest)

    def _present(self, genes: Genes) -> Bools:
        """(n, stages, deepest): which blocks the depths leave."""
        depths = self._depths[self._by_stage(genes)[:, :, 0]]
        return np.asarray(depths[:, :, None] > np.arange(self._deepest, dtype=np.int16))

    def active(self, genes: Genes) -> Bools:
        """(n, d): the resolution, the depths, and the choices of blocks that the depths leave."""
        genes = self._batch(genes)
        result = np.ones(genes.shape, dtype=bool)
        by_stage, present = self._by_stage(result), self._present(genes)
        by_stage[:, :, 1::2] = present
        by_stage[:, :, 2::2] = present
        return result

    def _merge(self, genes: Genes) -> Genes:
        return genes

    def _feasible(self, genes: Genes) -> Bools:
        return np.ones(len(genes), dtype=bool)

    def _draw(self, count: int, rng: np.random.Generator) -> Genes:
        # Uniform over architectures: a depth is as likely as the number of networks it has.
        genes = self._draw_rows(count, rng)
        rows = self._by_stage(genes)
        for stage, ways in enumerate(self._ways()):
            weight = np.array(ways, dtype=np.float64)
            edges = np.cumsum(weight / weight.sum())[:-1]
            rows[:, stage, 0] = np.searchsorted(edges, rng.random(count), side="right")
        if self.identity == "row":
            free = (rng.random(genes.shape) * self._sizes).astype(np.int8)
            genes = np.where(self.active(genes), genes, free).astype(np.int8)
        return genes

    @property
    def cardinality(self) -> int:
        """Resolutions times the settings of each stage, summed over its depths: rows under identity="row"."""
        return int(self._allowed[0].sum()) * math.prod(map(sum, self._ways()))

    def _ways(self) -> list[list[int]]:
        """For each stage and each of its depths, how many architectures (or rows, under identity="row") have it."""
        left, everything = self._allowed.sum(axis=1).tolist(), self._sizes.tolist()
        result = []
        for first in range(1, len(self.choices), 1 + 2 * self._deepest):
            kernels = range(first + 1, first + 1 + 2 * self._deepest, 2)
            inside = [left[kernel] * left[kernel + 1] for kernel in kernels]
            # Under identity="row" the choices beyond the depth tell rows apart, and no restriction binds them.
            outside = [everything[kernel] * everything[kernel + 1] for kernel in kernels]
            free = outside if self.identity == "row" else [1] * self._deepest
            depths = zip(self._depths.tolist(), self._allowed[first].tolist(), strict=False)
            result.append([keep * math.prod(inside[:depth] + free[depth:]) for depth, keep in depths])
        return result

    def _write(self, genes: Genes) -> list[str]:
        raise self.no_notation()

    def _parse(self, text: str) -> Sequence[int]:
        raise self.no_notation()

    def extremes(self) -> Genes:
        """(2, d) canonical rows: cost grows with every option's value, so each choice takes its least or largest."""
        values = np.full(self._allowed.shape, np.nan)
        for column, choice in enumerate(self.choices):
            values[column, : len(choice.options)] = [float(option) for option in choice.options]
        values[~self._allowed] = np.nan
        both = np.stack([np.nanargmin(values, axis=1), np.nanargmax(values, axis=1)]).astype(np.int8)
        return self.canonical(both)

    # ------------------------------------------------------------------ what it costs

    def cost(self, genes: Genes) -> dict[str, IntArray]:
        """``params`` and ``macs`` (of convolutions, squeeze-and-excitation included, and the classifier), (n,) each."""
        genes = self._batch(genes)
        params, macs = np.empty(len(genes), dtype=np.int64), np.empty(len(genes), dtype=np.int64)
        for start in range(0, len(genes), _CHUNK):
            chunk = slice(start, start + _CHUNK)
            setting = np.where(self._present(genes[chunk]), self._settings(genes[chunk]), self._tables.absent)
            setting = setting.reshape(len(setting), -1)
            params[chunk], macs[chunk] = self._tables.look_up(genes[chunk, 0], setting)
        return {"params": params, "macs": macs}

    def _settings(self, genes: Genes) -> NDArray[np.int32]:
        """(n, stages, deepest): kernel and expansion of each block as one number."""
        rows = self._by_stage(genes).astype(np.int32)
        return np.asarray(rows[:, :, 1::2] * len(self.options["expansions"]) + rows[:, :, 2::2])

    # ------------------------------------------------------------------ what it is built from

    def layout(self, row: Genes) -> Layout:
        """The layers of the network of one row (d,). Raises `InvalidArchitecture`."""
        checked = self.check(np.asarray(row)[None])
        genes, present = self._by_stage(checked)[0].tolist(), self._present(checked)[0].tolist()
        blocks = [self.first_block]
        for stage, stage_genes in enumerate(genes):
            for depth, keep in enumerate(present[stage]):
                if keep:
                    kernel, expansion = stage_genes[1 + 2 * depth], stage_genes[2 + 2 * depth]
                    blocks.append(self.block(stage, depth, kernel, expansion))
        return self._network(self.options["resolutions"][int(checked[0, 0])], tuple(blocks))

    def _network(self, resolution: int, blocks: tuple[Block, ...]) -> Layout:
        get = self.options
        return Layout(
            in_channels=get["in_channels"],
            resolution=resolution,
            stem=self._width(get["stem_width"]),
            stem_stride=get["stem_stride"],
            blocks=blocks,
            final=self._width(get["final_width"]),
            features=self._width(get["feature_width"]),
            classes=get["classes"],
        )

    @property
    def full(self) -> Layout:
        """All blocks at the widest expansion and the largest kernel: what a super-network holds."""
        kernel = int(np.argmax(self.options["kernels"]))
        expansion = int(np.argmax(self.options["expansions"]))
        places = product(range(self._stages), range(self._deepest))
        blocks = [self.block(stage, depth, kernel, expansion) for stage, depth in places]
        return self._network(max(self.options["resolutions"]), (self.first_block, *blocks))

    @property
    def first_block(self) -> Block:
        """The fixed block behind the stem: no expansion, kernel 3, stride 1."""
        inputs = self._width(self.options["stem_width"])
        outputs = self._width(self.options["first_width"])
        return Block(0, inputs, inputs, outputs, 3, 1, 0, "relu", expands=False)

    def block(self, stage: int, depth: int, kernel: int, expansion: int) -> Block:
        """Block ``depth`` of ``stage``, both from 0, with these option indices."""
        get, first = self.options, depth == 0
        outputs = self._width(get["stage_widths"][stage])
        before = get["stage_widths"][stage - 1] if stage else get["first_width"]
        inputs = self._width(before) if first else outputs
        middle = divisible(inputs * get["expansions"][expansion])
        return Block(
            place=1 + stage * self._deepest + depth,
            inputs=inputs,
            middle=middle,
            outputs=outputs,
            kernel=get["kernels"][kernel],
            stride=get["stage_strides"][stage] if first else 1,
            squeezed=divisible(middle // 4) if get["stage_se"][stage] else 0,
            activation=get["stage_activations"][stage],
        )

    def _width(self, base: int) -> int:
        return divisible(base * self.options["width_mult"])

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
        from search_spaces.networks.mobilenetv3 import Network

        network = Network(self.layout(row), device="meta").to_empty(device="cpu")
        return initialise(network, np.random.default_rng(0))

    def supernet(self) -> Supernet:
        """The super-network under Once-for-All's names, with the same weights each time; `initialise` draws others."""
        from search_spaces.networks.initialise import initialise
        from search_spaces.supernets.mobilenetv3 import MobileNetV3Supernet

        return initialise(MobileNetV3Supernet(self, device="meta").to_empty(device="cpu"), np.random.default_rng(0))

    # ------------------------------------------------------------------ as graphs

    @property
    def most_nodes(self) -> int:
        """All blocks at full depth, input, stem, first block and output."""
        return int(self._stages * self._deepest + 4)

    def graphs(self, genes: Genes) -> Graphs:
        """Nodes ``input_RESOLUTION``, ``stem``, ``first``, a ``mbEXPANSION_kKERNEL`` per block, ``output``.

        A node reads the sum of the nodes that feed it, so a skip connection is an edge past the block it skips.
        """
        genes = self._batch(genes)
        get, total = self.options, self._stages * self._deepest
        inputs = [f"input_{side}" for side in get["resolutions"]]
        kinds = [f"mb{expansion}_k{kernel}" for kernel, expansion in product(get["kernels"], get["expansions"])]
        labels = (*inputs, "stem", "first", *kinds, "output")
        setting = self._settings(genes).reshape(len(genes), total)
        n, base = len(genes), len(inputs)
        fixed = [np.full((n, 1), base, np.int16), np.full((n, 1), base + 1, np.int16)]
        last = np.full((n, 1), len(labels) - 1, np.int16)
        operations = np.concatenate([genes[:, :1], *fixed, base + 2 + setting, last], axis=1, dtype=np.int16)
        ends = np.ones((n, 3), dtype=bool)
        present = np.concatenate([ends, self._present(genes).reshape(n, total), ends[:, :1]], axis=1)
        passes = np.array([False, False, *(block.residual for block in self.full.blocks), False])
        return chain(present, passes, operations, labels)


def scaled(shape: tuple[int, int, int], classes: int) -> dict[str, Any]:
    """Options of `MobileNetV3` for images of a data set, ``shape`` (channels, height, width) in pixels.

    Resolutions lie around the images' own; the smaller the images, the fewer strides and the narrower the stages, such
    that the last map is never so small that two kernels would do the same. 8×8 pixels train on a CPU in under a
    minute, 32×32 want a GPU, from 193 pixels on the space is the published one. Raises `InvalidSpace`.
    """
    fields = ("channels", "height", "width")
    channels, *sides = (check.integer(field, value) for field, value in zip(fields, shape, strict=True))
    side = max(sides)
    options: dict[str, Any] = {"in_channels": channels, "classes": check.integer("classes", classes, most=MAX_CLASSES)}
    if side > 192:
        return options | {"resolutions": list(range(128, 225, 16))}
    options["resolutions"] = sorted({max(1, round(side * eighths / 8)) for eighths in (5, 6, 7, 8)})
    if side > 96:
        return options | {"stage_strides": [2, 2, 2, 1, 1]}
    if side > 40:
        return options | {
            "stage_widths": [24, 40, 64, 96],
            "stage_strides": [1, 2, 1, 2],
            "stage_se": [False, True, False, True],
            "stage_activations": ["relu", "relu", "h_swish", "h_swish"],
            "final_width": 576,
            "feature_width": 768,
        }
    if side > 12:
        return options | {
            "kernels": [3, 5],
            "expansions": [2, 3, 4],
            "depths": [1, 2, 3],
            "stem_stride": 1,
            "stage_widths": [16, 32, 64],
            "stage_strides": [2, 1, 2],
            "stage_se": [False, True, True],
            "stage_activations": ["relu", "relu", "h_swish"],
            "final_width": 192,
            "feature_width": 256,
        }
    return options | {
        "kernels": [3, 5],
        "expansions": [1, 2, 4],
        "depths": [1, 2, 3],
        "stem_width": 8,
        "stem_stride": 1,
        "first_width": 8,
        "stage_widths": [8, 24],
        "stage_strides": [1, 2],
        "stage_se": [False, True],
        "stage_activations": ["relu", "h_swish"],
        "final_width": 48,
        "feature_width": 64,
    }
