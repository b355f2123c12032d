"""enas: the options that the contract tests try; three layers have all kinds of parts."""

from __future__ import annotations

from typing import Any

DEFAULT = False
VARIANTS: dict[str, dict[str, Any]] = {
    "tiny": {"layers": 3, "resolution": 9, "channels": 4, "classes": 3, "in_channels": 2},
    "digits": {"resolution": 8, "channels": 4, "in_channels": 1},
}
PINNED: dict[str, tuple[str, str, str]] = {}
