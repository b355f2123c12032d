"""proxylessnas: the options that the contract tests try."""

from __future__ import annotations

from typing import Any

TINY_PROXYLESS: dict[str, Any] = {
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

# Unit tests look at the defaults: their networks take seconds to run.
DEFAULT = False
VARIANTS: dict[str, dict[str, Any]] = {
    "tiny": TINY_PROXYLESS,
    "tiny-row": TINY_PROXYLESS
    | {"kernels": [3], "expansions": [1, 3], "stage_widths": [16, 8], "stage_strides": [2, 1], "identity": "row"},
}
PINNED = {
    "tiny": (
        "4d2bf5a75682ce637b616bf6fbbbf1d7",
        "583777ae6859576db6fae85b2559d859",
        "7858eb6ad7b1e00c21d99056765a2cb8",
    ),
    "tiny-row": (
        "a3ad32415055cab70f997cbd4f58cb9b",
        "d1479a65d3dac37b42105fa78fec88f5",
        "bc16351d41254e7564406bf97401ceee",
    ),
}
