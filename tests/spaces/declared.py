"""declared: the options that the contract tests try."""

from __future__ import annotations

from typing import Any

# Conditions that form a forest; under "crossed" they do not.
DECLARED = [
    {"name": "depth", "options": [1, 2, 3]},
    {"name": "block2.kernel", "options": [3, 5, 7], "when": {"depth": [2, 3]}},
    {"name": "block2.pool", "options": ["max", "mean"], "when": {"block2.kernel": [5, 7], "depth": [2, 3]}},
    {"name": "block3.kernel", "options": [3, 5], "when": {"depth": [3]}},
    {"name": "rate", "options": [0.1, 0.25, 1]},
    {"name": "schedule", "options": ["cosine", "step"], "when": {"rate": [0.1, 1]}},
]
CROSSED = [*DECLARED, {"name": "warm-up", "options": [0, 5, 10], "when": {"rate": [1], "depth": [3]}}]

DEFAULT = False
VARIANTS: dict[str, dict[str, Any]] = {
    "tiny": {"choices": DECLARED},
    "tiny-row": {"choices": DECLARED, "identity": "row"},
    "tiny-crossed": {"choices": CROSSED},
    "wide": {"choices": [{"name": f"c{n}", "options": [1, 2, 3]} for n in range(300)]},
}
PINNED = {
    "tiny": (
        "7aa502a12e956074fc93f1b7e0fd1330",
        "47ee6a0fc73ed479c76c97e8a878cf94",
        "e78826655226fd489cf3695bd86727d9",
    ),
}
