"""fbnet: the options that the contract tests try. Three of the four layers keep the shape."""

from __future__ import annotations

from typing import Any

TINY = {
    "in_channels": 2,
    "classes": 3,
    "resolution": 9,
    "stem_width": 4,
    "stem_stride": 1,
    "stage_widths": [4, 6, 6],
    "stage_strides": [1, 2, 1],
    "stage_depths": [1, 2, 1],
    "feature_width": 10,
}

DEFAULT = False
VARIANTS: dict[str, dict[str, Any]] = {"tiny": TINY, "tiny-row": TINY | {"identity": "row"}}
PINNED: dict[str, tuple[str, str, str]] = {}
