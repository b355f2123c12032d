"""resnet50: the options that the contract tests try."""

from __future__ import annotations

from typing import Any

# All expansions come to 8 channels at the first width and to 8, 16 and 16 at the second; both stems start with 8.
TINY_RESNET: dict[str, Any] = {
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

# Unit tests look at the defaults: their networks take seconds to run.
DEFAULT = False
VARIANTS: dict[str, dict[str, Any]] = {
    "tiny": TINY_RESNET,
    "tiny-row": TINY_RESNET | {"identity": "row"},
    "tiny-stages": TINY_RESNET
    | {"expansions": [1.0, 0.5], "width_mults": [1.0, 0.5], "stem_width": 32, "resolutions": [9, 12]}
    | {"stage_widths": [32, 48], "stage_strides": [1, 2], "stage_depths": [1, 1]},
}
PINNED = {
    "tiny": (
        "6c04b7a3289a164d23adb97f8a03424f",
        "a8b2f5ace066b0ffd5f2150532e06618",
        "86730b346d039ab0e20ec6d0b2679358",
    ),
    "tiny-row": (
        "2aa7ef295c8c992ddb59ed7a1fc7c261",
        "a8b2f5ace066b0ffd5f2150532e06618",
        "86730b346d039ab0e20ec6d0b2679358",
    ),
    "tiny-stages": (
        "49b6e030c6c3f8a99d54046d135aca34",
        "5ca0db3357c30bcff44ff938177fa015",
        "4f47c7c08b969527287054a765455512",
    ),
}
