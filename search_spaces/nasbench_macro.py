"""NAS-Bench-Macro's networks (Su et al., CVPR 2021): eight layers, each with one of three operations.

Three stages of two, three and three layers; the first layer of a stage halves the resolution and doubles the channels.
A layer is a mobile inverted bottleneck (Sandler et al., CVPR 2018) of kernel 3 and expansion 3, or of kernel 5 and
expansion 6, or the identity. Where it changes the shape, an identity is a 1×1 convolution and batch norm.

Equivalences united under ``identity="function"``, 3,969 classes of 6,561 rows: an identity that keeps the shape does
nothing, so it may stand before or behind the other layers of its stage. The canonical row has it last. The benchmark
trained these 3,969 networks and no others: its rows of one class have the same three accuracies.

Notation: a digit per layer, such as ``11201220``: 0 identity, 1 ``mb3_k3``, 2 ``mb6_k5``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

from search_spaces import options as check
from search_spaces.chains import MAX_CLASSES, ChainSpace
from search_spaces.networks.layout import Block, Skip
from search_spaces.space import Genes, Identity, InvalidArchitecture, InvalidSpace

OPERATIONS = ("identity", "mb3_k3", "mb6_k5")
_BLOCKS = ((3, 3), (6, 5))
"""(expansion, kernel) of the operations behind the identity."""


@final
class NasBenchMacro(ChainSpace):
    """Choices ``layer1`` to ``layer8``, the operation of each layer.

    The equivalences of ``identity="function"`` are those of the module.

    Options, all JSON; the defaults are the published networks for CIFAR-10:

    - ``in_channels``, ``classes``: of the data set. ``resolution``: side of the images in pixels.
    - ``channels``: behind the first convolution, 3×3; each stage doubles them and halves the resolution.
    - ``stage_depths``: layers of each stage.
    - ``feature_width``: the 1×1 convolution before the global average pool.

    Raises `InvalidSpace` that names the option.
    """

    def __init__(
        self,
        *,
        identity: Identity = "function",
        in_channels: int = 3,
        classes: int = 10,
        resolution: int = 32,
        channels: int = 32,
        stage_depths: Any = (2, 3, 3),
        feature_width: int = 1280,
        **unknown: Any,
    ) -> None:
        depths = check.many("stage_depths", stage_depths, check.small, most=6)
        options = {
            "in_channels": check.integer("in_channels", in_channels),
            "classes": check.integer("classes", classes, most=MAX_CLASSES),
            "resolution": check.integer("resolution", resolution),
            "channels": check.integer("channels", channels, most=512),
            "stage_depths": depths,
            "feature_width": check.integer("feature_width", feature_width),
        }
        for field in unknown:
            raise InvalidSpace(f"no such option, options are {sorted(options)}", field)
        super().__init__(
            "nasbench_macro",
            OPERATIONS,
            _layer,
            options,
            identity=identity,
            widths=[channels << stage for stage in range(1, len(depths) + 1)],
            strides=[2] * len(depths),
            depths=depths,
            stem=channels,
            stem_stride=1,
            features=feature_width,
        )

    def _write(self, genes: Genes) -> list[str]:
        return ["".join(map(str, row)) for row in genes.tolist()]

    def _parse(self, text: str) -> Sequence[int]:
        digits, layers = text.strip(), len(self.choices)
        if len(digits) != layers or not set(digits) <= set("012"):
            message = f"must be {layers} digits 0 to 2, is {text[:200]!r}"
            raise InvalidArchitecture(message, row=0, field="notation")
        return [int(digit) for digit in digits]


def _layer(place: int, inputs: int, outputs: int, stride: int) -> list[Block | Skip]:
    """What the operations are in a layer of this shape."""
    blocks = [
        Block(place, inputs, inputs * expansion, outputs, kernel, stride, 0, "relu") for expansion, kernel in _BLOCKS
    ]
    return [Skip(inputs, outputs, stride), *blocks]
