"""resnet50: the options that the contract tests try."""

from __future__ import annotations

from typing import Any

# All expansions come to 8 channels at the first width and to 8, 16 and 16 at the second; both stems start with 8.
TINY_RESNET = {
    "in_channels": 2,
    "classes": 3,
    "resolutions": [7, 8],
    "depths": [1, 0],
    "expansions": [0.5, 0.75, 1.0],
    "width_mults": [0.5, 1.0],
    "stage_widths": [16],
    "stage_strides": [2],
    "stage_depths": [1],
    "stem_width": 16,
    "stem_stride": 1,
    "pool_stride": 2,
}

# The networks of the defaults are too large for tests of this kind: the unit tests count them.
DEFAULT = False
VARIANTS: dict[str, dict[str, Any]] = {
    "tiny": TINY_RESNET,
    "tiny-row": TINY_RESNET | {"identity": "row"},
    "tiny-stages": TINY_RESNET
    | {"expansions": [1.0, 0.5], "width_mults": [1.0, 0.5], "stem_width": 32, "resolutions": [9, 12]}
    | {"stage_widths": [32, 48], "stage_strides": [1, 2], "stage_depths": [1, 1]},
}
PINNED: dict[str, tuple[str, str, str]] = {}
