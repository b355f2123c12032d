"""What the two spaces of TransNAS-Bench-101 share (Duan et al., CVPR 2021): modules, stem and classifier.

A network is a chain of modules, each with a code: 1 is plain, 2 doubles the channels, 3 halves the resolution, 4 does
both. Costs are pairs (parameters, MACs).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from search_spaces import options as check
from search_spaces.space import IntArray

DOUBLING, HALVING = (2, 4), (3, 4)
"""The codes of modules that double the channels, and of those that halve the resolution."""


def frame(classes: Any, in_channels: Any, resolution: Any, channels: Any) -> dict[str, Any]:
    """The options of everything around the modules, checked. Raises `InvalidSpace`."""
    return {
        "classes": check.integer("classes", classes, most=100_000),
        "in_channels": check.integer("in_channels", in_channels),
        "resolution": check.integer("resolution", resolution),
        "channels": check.integer("channels", channels, least=2, most=512),
    }


def convolution(taps: int, inputs: int, outputs: int, side: int) -> IntArray:
    """(2,): a convolution of ``taps`` weights a pair of channels and its batch norm; ``side`` of the output, pixels."""
    weights = taps * inputs * outputs
    return np.array([weights + 2 * outputs, weights * side**2], dtype=np.int64)


def halved(side: int) -> int:
    """The side behind a stride of 2: kernels are odd and padded by half their size."""
    return -(-side // 2)


def stem(options: Mapping[str, Any]) -> tuple[IntArray, int]:
    """(2,) of two 3×3 convolutions of stride 2, and the side of their output."""
    half = options["channels"] // 2
    middle = halved(options["resolution"])
    side = halved(middle)
    first = convolution(9, options["in_channels"], half, middle)
    return first + convolution(9, half, options["channels"], side), side


def classifier(options: Mapping[str, Any], width: int) -> IntArray:
    """(2,) of the linear layer behind ``width`` channels."""
    return np.array([(width + 1) * options["classes"], width * options["classes"]], dtype=np.int64)
