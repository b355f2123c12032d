"""darts: the options that the contract tests try."""

from __future__ import annotations

from typing import Any

SMALL_CELLS = {"resolution": 8, "channels": 2, "layers": 3, "classes": 3, "in_channels": 2}
TWO_OPERATIONS = SMALL_CELLS | {"nodes": 2, "operations": ["skip_connect", "sep_conv_3x3"]}

DEFAULT = True
VARIANTS: dict[str, dict[str, Any]] = {
    "tiny": TWO_OPERATIONS,
    "tiny-row": TWO_OPERATIONS | {"identity": "row"},
    "imagenet": SMALL_CELLS | {"stem": "imagenet", "resolution": 32, "nodes": 3},
}
PINNED: dict[str, tuple[str, str, str]] = {}
