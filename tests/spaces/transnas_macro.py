"""transnas_macro: the options that the contract tests try. The published networks are too large to run there."""

from __future__ import annotations

from typing import Any

DEFAULT = False
VARIANTS: dict[str, dict[str, Any]] = {
    "tiny": {"resolution": 21, "channels": 4, "blocks": 1, "classes": 3, "in_channels": 2},
}
PINNED = {
    "tiny": (
        "51e2a63f9de826bb3c881a5dd026fa6f",
        "8cb2abb182bc4bcfaab9e7981db1503b",
        "4d1e1987f578245ea112202710cfc517",
    ),
}
