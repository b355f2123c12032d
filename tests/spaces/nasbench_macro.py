"""nasbench_macro: the options that the contract tests try."""

from __future__ import annotations

from typing import Any

TINY: dict[str, Any] = {
    "resolution": 9,
    "channels": 2,
    "feature_width": 6,
    "classes": 3,
    "in_channels": 2,
    "stage_depths": [1, 3, 2],
}

DEFAULT = False
VARIANTS: dict[str, dict[str, Any]] = {"tiny": TINY, "tiny-row": TINY | {"identity": "row"}}
PINNED = {
    "tiny": (
        "169d0d1203b79154940964aefe417aa0",
        "47ee6a0fc73ed479c76c97e8a878cf94",
        "632a482aa4a91c4943f989faa8f336fa",
    ),
    "tiny-row": (
        "b688193335f308054320f9438a774cb5",
        "47ee6a0fc73ed479c76c97e8a878cf94",
        "632a482aa4a91c4943f989faa8f336fa",
    ),
}
