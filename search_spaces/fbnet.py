"""FBNet's networks (Wu et al., CVPR 2019): 22 layers of fixed widths and strides, each with one of nine operations.

An operation is a mobile inverted bottleneck of kernel 3 or 5 and expansion 1, 3 or 6, at expansion 1 also with 1×1
convolutions in two groups and the channels shuffled between them; or a skip. As in the paper, every layer may be
skipped; where it changes the shape, a skip is a 1×1 convolution, batch norm and ReLU, as in the published code.
Bottlenecks of expansion 1 have their first 1×1 convolution, too: with it FBNet-A has the 249,921,848 MACs that were
published with its weights in 2019. Later code leaves it out.

Equivalences united under ``identity="function"``: a skip that keeps the shape does nothing, so it may stand before or
behind the other layers between two that change the shape. The canonical row has it last. That leaves
(9 · 585)^5 · 9^2 = 3.3·10^20 of 9^22 = 9.8·10^20 rows. Not united: kernels that differ only where they read padding (a
map smaller than half the kernel); they differ in parameters and MACs.

Notation: the operations in their order with points between them, ``k5_e6.skip.k3_e1_g2.…``. A JSON list of their
numbers, ``[7, 8, 1, …]``, is read as well; HW-NAS-Bench (Li et al., ICLR 2021) and what builds on it number them in the
order of `OPERATIONS`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, final

from search_spaces import options as check
from search_spaces.chains import MAX_CLASSES, ChainSpace
from search_spaces.networks.layout import Block, Skip
from search_spaces.space import Genes, Identity, InvalidArchitecture, InvalidSpace

OPERATIONS = ("k3_e1", "k3_e1_g2", "k3_e3", "k3_e6", "k5_e1", "k5_e1_g2", "k5_e3", "k5_e6", "skip")
_BLOCKS = ((3, 1, 1), (3, 1, 2), (3, 3, 1), (3, 6, 1), (5, 1, 1), (5, 1, 2), (5, 3, 1), (5, 6, 1))
"""(kernel, expansion, groups) of the operations before the skip."""
_NUMBERS = re.compile(r"\[\s*\d+\s*(,\s*\d+\s*)*\]")


@final
class FBNet(ChainSpace):
    """Choices ``layer1`` to ``layer22``, the operation of each layer.

    The equivalences of ``identity="function"`` are those of the module.

    Options, all JSON; the defaults are the published space for ImageNet:

    - ``in_channels``, ``classes``: of the data set. ``resolution``: side of the images in pixels.
    - ``stem_width``, ``stem_stride``: the first 3×3 convolution. The width is even.
    - ``stage_widths`` (even), ``stage_strides``, ``stage_depths`` (layers): one item per stage.
    - ``feature_width``: the 1×1 convolution before the global average pool; 1,504 in FBNet-A.

    HW-NAS-Bench has, for images of 32 pixels, a ``stem_stride`` of 1, ``stage_strides`` of 1, 1, 2, 2, 1, 2, 1 and a
    ``feature_width`` of 1,504.

    Raises `InvalidSpace` that names the option.
    """

    def __init__(
        self,
        *,
        identity: Identity = "function",
        in_channels: int = 3,
        classes: int = 1000,
        resolution: int = 224,
        stem_width: int = 16,
        stem_stride: int = 2,
        stage_widths: Any = (16, 24, 32, 64, 112, 184, 352),
        stage_strides: Any = (1, 2, 2, 2, 1, 2, 1),
        stage_depths: Any = (1, 4, 4, 4, 4, 4, 1),
        feature_width: int = 1984,
        **unknown: Any,
    ) -> None:
        widths = check.many("stage_widths", stage_widths, _even)
        strides = check.many("stage_strides", stage_strides, check.integer, length=len(widths))
        depths = check.many("stage_depths", stage_depths, check.small, length=len(widths))
        options = {
            "in_channels": check.integer("in_channels", in_channels),
            "classes": check.integer("classes", classes, most=MAX_CLASSES),
            "resolution": check.integer("resolution", resolution),
            "stem_width": _even("stem_width", stem_width),
            "stem_stride": check.integer("stem_stride", stem_stride),
            "stage_widths": widths,
            "stage_strides": strides,
            "stage_depths": depths,
            "feature_width": check.integer("feature_width", feature_width),
        }
        for field in unknown:
            raise InvalidSpace(f"no such option, options are {sorted(options)}", field)
        super().__init__(
            "fbnet",
            OPERATIONS,
            _layer,
            options,
            identity=identity,
            widths=widths,
            strides=strides,
            depths=depths,
            stem=stem_width,
            stem_stride=stem_stride,
            features=feature_width,
        )

    def _write(self, genes: Genes) -> list[str]:
        return [".".join(OPERATIONS[gene] for gene in row) for row in genes.tolist()]

    def _parse(self, text: str) -> Sequence[int]:
        stated, layers = text.strip(), len(self.choices)
        numbered = _NUMBERS.fullmatch(stated)
        given = re.findall(r"\d+", stated) if numbered else stated.split(".")
        if len(given) != layers:
            message = f"must be {layers} operations with points between them, or a JSON list of their numbers"
            raise InvalidArchitecture(f"{message}, is {text[:200]!r}", row=0, field="notation")
        known = [str(number) for number in range(len(OPERATIONS))] if numbered else list(OPERATIONS)
        for layer, name in enumerate(given, 1):
            if name not in known:
                message = f"layer{layer} is {name[:50]!r}, operations are {known}"
                raise InvalidArchitecture(message, row=0, field="notation")
        return [known.index(name) for name in given]


def _even(field: str, value: Any) -> int:
    """Channels that two groups share. Raises `InvalidSpace` naming the field."""
    if check.integer(field, value) % 2:
        raise InvalidSpace(f"must be even, since two groups share the channels; got {value}", field)
    return int(value)


def _layer(place: int, inputs: int, outputs: int, stride: int) -> list[Block | Skip]:
    """What the operations are in a layer of this shape."""
    blocks = [
        Block(place, inputs, inputs * expansion, outputs, kernel, stride, 0, "relu", groups=groups)
        for kernel, expansion, groups in _BLOCKS
    ]
    return [*blocks, Skip(inputs, outputs, stride, "relu")]
