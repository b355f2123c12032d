"""transnas_macro: the options that the contract tests try. The published networks are too large to run there."""

from __future__ import annotations

from typing import Any

DEFAULT = False
VARIANTS: dict[str, dict[str, Any]] = {
    "tiny": {"resolution": 21, "channels": 4, "blocks": 1, "classes": 3, "in_channels": 2},
}
PINNED: dict[str, tuple[str, str, str]] = {}
