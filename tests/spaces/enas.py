"""enas: the options that the contract tests try; three layers have all kinds of parts."""

from __future__ import annotations

from typing import Any

DEFAULT = False
VARIANTS: dict[str, dict[str, Any]] = {
    "tiny": {"layers": 3, "resolution": 9, "channels": 4, "classes": 3, "in_channels": 2},
}
PINNED = {
    "tiny": (
        "f73a9a53cc499f13690d2019f3355360",
        "74495fbb3ea6bf2c6f7fef2bfaa3bac8",
        "ed1a21e3aa45f22beb8bf4180baac408",
    ),
}
