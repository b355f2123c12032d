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
PINNED = {
    "digits": (
        "4a48512bcffea60a5e74f77bc0511afb",
        "d8137e27c3ff130fd78d6c2e29a9fa1b",
        "14c2a41fe43dbaea4eb89fea48e8ba6b",
    ),
    "tiny": (
        "7d2f0ef878a0df9759296e3ab002f4c8",
        "91b8d3d510e455a0e90300742cb8518f",
        "437c416376e2f169afe8664f7bbcb24f",
    ),
    "tiny-row": (
        "f80607dd238b5efce11568a62e698718",
        "d0355b00c39042706f879309948ca507",
        "437c416376e2f169afe8664f7bbcb24f",
    ),
}
