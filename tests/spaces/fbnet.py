"""fbnet: the options that the contract tests try. Two of the three layers keep the shape."""

from __future__ import annotations

from typing import Any

TINY: dict[str, Any] = {
    "in_channels": 2,
    "classes": 3,
    "resolution": 9,
    "stem_width": 4,
    "stem_stride": 1,
    "stage_widths": [6, 6],
    "stage_strides": [2, 1],
    "stage_depths": [2, 1],
    "feature_width": 10,
}

DEFAULT = False
VARIANTS: dict[str, dict[str, Any]] = {"tiny": TINY, "tiny-row": TINY | {"identity": "row"}}
PINNED = {
    "tiny": (
        "2612863a562c11d174673e045f4c6895",
        "7916792d22b623d1b90c9d183669e421",
        "b08a5b6893e0881d4c03bb7f1741d21c",
    ),
    "tiny-row": (
        "0391f4f8d74d830d84e36472df401547",
        "7916792d22b623d1b90c9d183669e421",
        "b08a5b6893e0881d4c03bb7f1741d21c",
    ),
}
