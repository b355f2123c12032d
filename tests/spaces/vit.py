"""vit: the options that the contract tests try.

Not the default: its networks are too large to be run again and again. `tests.unit.test_vit` counts them unrun.
"""

from __future__ import annotations

from typing import Any

from search_spaces.vit import scaled

TINY_TRANSFORMER: dict[str, Any] = {
    "in_channels": 2,
    "classes": 3,
    "side": 4,
    "patch": 2,
    "depths": [2, 1],
    "embeddings": [12, 8],
    "heads": [1, 3],
    "ratios": [2.0, 1.5],
    "head_dim": 4,
    "relative": 1,
}

DEFAULT = False
VARIANTS: dict[str, dict[str, Any]] = {
    "digits": scaled((1, 8, 8), 10),
    "tiny": TINY_TRANSFORMER,
    "tiny-row": TINY_TRANSFORMER | {"relative": 0, "pool": "class", "identity": "row"},
}
PINNED: dict[str, tuple[str, str, str]] = {}
