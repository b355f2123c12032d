"""Once-for-All's elastic ProxylessNAS (Cai et al., ICLR 2020; Cai, Zhu & Han, ICLR 2019).

A chain of stages of mobile inverted bottlenecks with ReLU6 and without squeeze-and-excitation. Elastic are the
resolution of the images, the depth of each stage but the last, which is one block, and the kernel and expansion of each
block. The defaults are the published super-network at width 1.3: 2·10^20 networks at each of 25 resolutions.

Equivalences united under ``identity="function"``: choices of blocks that the depth cuts off. Not united: kernels that
differ only where they read padding (a map smaller than half the kernel); they differ in parameters and MACs.

Notation: Once-for-All's, see `search_spaces.ofa`; the depth of the last stage is written too, and is always 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

import numpy as np

from search_spaces import mobile
from search_spaces import options as check
from search_spaces.networks.layout import Block, Layout
from search_spaces.space import Genes, Identity, InvalidSpace

if TYPE_CHECKING:
    from torch import nn

    from search_spaces.supernets.supernet import Supernet

_LAST = 1
"""Blocks of the last stage."""


@final
class ProxylessNAS(mobile.MobileSpace):
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
        super().__init__("proxylessnas", options, identity=identity, tail=_LAST)

    def _network(self, resolution: int, blocks: tuple[Block, ...]) -> Layout:
        get = self.options
        return Layout(
            in_channels=get["in_channels"],
            resolution=resolution,
            stem=self._width("stem_width"),
            stem_stride=get["stem_stride"],
            blocks=blocks,
            final=self._width("feature_width"),
            features=0,
            classes=get["classes"],
        )

    @property
    def first_block(self) -> Block:
        """The fixed block behind the stem: no expansion, kernel 3, stride 1, never a shortcut."""
        inputs = self._width("stem_width")
        outputs = self._width("first_width")
        return Block(0, inputs, inputs, outputs, 3, 1, 0, "relu6", expands=False, shortcut=False)

    def block(self, stage: int, depth: int, kernel: int, expansion: int) -> Block:
        """Block ``depth`` of ``stage``, both from 0, with these option indices."""
        place = 1 + stage * self._rows.deepest + depth
        return mobile.elastic_block(self.options, place, (stage, depth), (kernel, expansion), activation="relu6")

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
