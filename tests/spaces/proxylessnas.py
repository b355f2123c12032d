"""proxylessnas: the options that the contract tests try."""

from __future__ import annotations

from typing import Any

TINY_PROXYLESS = {
    "in_channels": 2,
    "classes": 3,
    "resolutions": [6, 5],
    "kernels": [5, 3],
    "expansions": [2],
    "depths": [2, 1],
    "stem_width": 8,
    "stem_stride": 1,
    "first_width": 8,
    "stage_widths": [8, 16, 16],
    "stage_strides": [1, 2, 1],
    "feature_width": 24,
    "width_mult": 1.0,
}

# The networks of the defaults are too large for tests of this kind: the unit tests count them, and build one.
DEFAULT = False
VARIANTS: dict[str, dict[str, Any]] = {
    "tiny": TINY_PROXYLESS,
    "tiny-row": TINY_PROXYLESS
    | {"kernels": [3], "expansions": [1, 3], "stage_widths": [16, 8], "stage_strides": [2, 1], "identity": "row"},
}
PINNED: dict[str, tuple[str, str, str]] = {}
