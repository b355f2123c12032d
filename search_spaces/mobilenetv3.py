"""Once-for-All's elastic MobileNetV3 (Cai et al., ICLR 2020; Howard et al., ICCV 2019).

A chain of stages of mobile inverted bottlenecks. Elastic are the resolution of the images, the depth of each stage,
and the kernel and expansion of each block. The defaults are the published space at width 1.0: 7·10^19 networks at each
of 25 resolutions.

Equivalences united under ``identity="function"``: choices of blocks that the depth cuts off. Not united: kernels that
differ only where they read padding (a map smaller than half the kernel); they differ in parameters and MACs.

Notation: Once-for-All's, see `search_spaces.ofa`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

import numpy as np

from search_spaces import mobile
from search_spaces import options as check
from search_spaces.mobile import MAX_CLASSES
from search_spaces.networks.layout import Block, Layout
from search_spaces.space import Genes, Identity, InvalidSpace

if TYPE_CHECKING:
    from torch import nn

    from search_spaces.supernets.supernet import Supernet

ACTIVATIONS = ("relu", "h_swish")


@final
class MobileNetV3(mobile.MobileSpace):
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
            **mobile.checked(
                in_channels=in_channels,
                classes=classes,
                resolutions=resolutions,
                kernels=kernels,
                expansions=expansions,
                depths=depths,
            ),
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
        super().__init__("mobilenetv3", options, identity=identity)

    def _network(self, resolution: int, blocks: tuple[Block, ...]) -> Layout:
        get = self.options
        return Layout(
            in_channels=get["in_channels"],
            resolution=resolution,
            stem=self._width("stem_width"),
            stem_stride=get["stem_stride"],
            blocks=blocks,
            final=self._width("final_width"),
            features=self._width("feature_width"),
            classes=get["classes"],
        )

    @property
    def first_block(self) -> Block:
        """The fixed block behind the stem: no expansion, kernel 3, stride 1."""
        inputs = self._width("stem_width")
        outputs = self._width("first_width")
        return Block(0, inputs, inputs, outputs, 3, 1, 0, "relu", expands=False)

    def block(self, stage: int, depth: int, kernel: int, expansion: int) -> Block:
        """Block ``depth`` of ``stage``, both from 0, with these option indices."""
        return mobile.elastic_block(
            self.options,
            1 + stage * self._rows.deepest + depth,
            (stage, depth),
            (kernel, expansion),
            squeezes=self.options["stage_se"][stage],
            activation=self.options["stage_activations"][stage],
        )

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
