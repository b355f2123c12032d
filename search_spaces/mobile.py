"""What spaces of mobile networks, elastic chains of inverted bottlenecks, have in common.

Their rows are those of `search_spaces.mobile_rows`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from search_spaces import options as check
from search_spaces.mobile_rows import Rows
from search_spaces.networks.layout import Block, Layout, chain_costs, divisible
from search_spaces.space import MAX_OPTIONS, Bools, Genes, Graphs, Identity, IntArray, SearchSpace, images
from search_spaces.stacks import extremes

MAX_CLASSES = 100_000


class MobileSpace(SearchSpace):
    """Choices ``resolution``, then per stage ``stageS.depth`` and per block ``stageS.blockB.kernel`` and ``.expand``.

    Final classes say what a layer is and how networks are made from layers. ``options`` has what `checked` gives, and
    ``stage_widths``, ``stage_strides``, ``first_width``, ``width_mult``. The last stage has ``tail`` blocks if that is
    not 0; all others have elastic depth.
    """

    def __init__(self, name: str, options: Mapping[str, Any], *, identity: Identity, tail: int = 0) -> None:
        self._rows = Rows(options, len(options["stage_widths"]) - bool(tail), tail)
        super().__init__(name, self._rows.choices(), options, identity=identity, uniform=True)
        variants = [[self.block(*where, *pair) for pair in self._rows.pairs()] for where in self._rows.where()]
        self._tables = chain_costs(self.full, options["resolutions"], variants)

    @abstractmethod
    def block(self, stage: int, depth: int, kernel: int, expansion: int) -> Block:
        """Block ``depth`` of ``stage``, both from 0, with these option indices."""

    @property
    @abstractmethod
    def first_block(self) -> Block:
        """The fixed block behind the stem."""

    @abstractmethod
    def _network(self, resolution: int, blocks: tuple[Block, ...]) -> Layout:
        """A network of these blocks, the fixed one among them."""

    # ------------------------------------------------------------------ rows

    @final
    def active(self, genes: Genes) -> Bools:
        """(n, d): all but the choices of blocks that the depths cut off."""
        return self._rows.active(self._batch(genes))

    @final
    def _merge(self, genes: Genes) -> Genes:
        return genes

    @final
    def _feasible(self, genes: Genes) -> Bools:
        return np.ones(len(genes), dtype=bool)

    @final
    def _draw(self, count: int, rng: np.random.Generator) -> Genes:
        return self._rows.draw(self._draw_rows(count, rng), self._allowed, self.identity, rng)

    @property
    @final
    def cardinality(self) -> int:
        """Resolutions times the settings of each stage, summed over its depths: rows under identity="row"."""
        return self._rows.cardinality(self._allowed, self.identity)

    @final
    def _write(self, genes: Genes) -> list[str]:
        return self._rows.write(genes)

    @final
    def _parse(self, text: str) -> Sequence[int]:
        return self._rows.parse(text)

    @final
    def extremes(self) -> Genes:
        """(2, d) canonical rows: cost grows with every option's value, so each choice takes its least or largest."""
        return self.canonical(extremes(self.choices, self._allowed))

    @final
    def cost(self, genes: Genes) -> dict[str, IntArray]:
        """``params`` and ``macs`` (of convolutions, squeeze-and-excitation included, and the classifier), (n,) each."""
        return self._rows.cost(self._batch(genes), self._tables)

    @property
    @final
    def most_nodes(self) -> int:
        """All blocks at full depth, input, stem, first block and output."""
        return self._rows.places + 4

    @final
    def graphs(self, genes: Genes) -> Graphs:
        """Nodes ``input_RESOLUTION``, ``stem``, ``first``, a ``mbEXPANSION_kKERNEL`` per block, ``output``.

        A node reads the sum of the nodes that feed it, so a skip connection is an edge past the block it skips.
        """
        return self._rows.graphs(self._batch(genes), [block.residual for block in self.full.blocks])

    # ------------------------------------------------------------------ what networks are built from

    @final
    def layout(self, row: Genes) -> Layout:
        """The layers of the network of one row (d,). Raises `InvalidArchitecture`."""
        checked = self.check(np.asarray(row)[None])[0]
        blocks = [self.block(*each) for each in self._rows.blocks(checked)]
        return self._network(self.options["resolutions"][int(checked[0])], (self.first_block, *blocks))

    @property
    @final
    def full(self) -> Layout:
        """All blocks at the widest expansion and the largest kernel: what a super-network holds."""
        blocks = [self.block(*where, *self._rows.widest) for where in self._rows.where()]
        return self._network(max(self.options["resolutions"]), (self.first_block, *blocks))

    @final
    def input_shape(self, row: Genes) -> tuple[int, ...]:
        """(channels, height, width) of one image."""
        side = self.options["resolutions"][int(self.check(np.asarray(row)[None])[0, 0])]
        return (self.options["in_channels"], side, side)

    @final
    def inputs(self, row: Genes, batch: int, rng: np.random.Generator) -> tuple[NDArray[Any], ...]:
        """(batch, channels, height, width) images."""
        return images(self.input_shape(row), batch, rng)

    @final
    def _width(self, name: str) -> int:
        """The channels that an option says, multiplied and rounded."""
        return width(self.options, self.options[name])


def checked(
    *, in_channels: Any, classes: Any, resolutions: Any, kernels: Any, expansions: Any, depths: Any
) -> dict[str, Any]:
    """The options that all mobile spaces have, checked. Raises `InvalidSpace` that names the option."""
    return {
        "in_channels": check.integer("in_channels", in_channels),
        "classes": check.integer("classes", classes, most=MAX_CLASSES),
        "resolutions": check.many("resolutions", resolutions, check.integer, most=MAX_OPTIONS, distinct=True),
        "kernels": check.many("kernels", kernels, check.odd, distinct=True),
        "expansions": check.many("expansions", expansions, check.small, distinct=True),
        "depths": check.many("depths", depths, check.small, distinct=True),
    }


def width(options: Mapping[str, Any], base: int) -> int:
    """Channels, multiplied and rounded."""
    return divisible(base * options["width_mult"])


def elastic_block(
    options: Mapping[str, Any],
    place: int,
    where: tuple[int, int],
    setting: tuple[int, int],
    *,
    squeezes: bool = False,
    activation: str,
) -> Block:
    """Block ``where`` (stage, block) of a chain, with these option indices of kernel and expansion.

    ``options`` has the lists ``stage_widths``, ``stage_strides``, ``kernels``, ``expansions``, and ``first_width``,
    the width before the first stage. A stage's first block has its stride and reads the width before it.
    """
    (stage, block), (kernel, expansion) = where, setting
    widths = [options["first_width"], *options["stage_widths"]]
    inputs, outputs = width(options, widths[stage + bool(block)]), width(options, widths[stage + 1])
    middle = divisible(inputs * options["expansions"][expansion])
    return Block(
        place=place,
        inputs=inputs,
        middle=middle,
        outputs=outputs,
        kernel=options["kernels"][kernel],
        stride=1 if block else options["stage_strides"][stage],
        squeezed=divisible(middle // 4) if squeezes else 0,
        activation=activation,
    )
