"""nasbench_macro: the options that the contract tests try."""

from __future__ import annotations

from typing import Any

TINY = {"resolution": 9, "channels": 2, "feature_width": 6, "classes": 3, "in_channels": 2, "stage_depths": [1, 3, 2]}

DEFAULT = False
VARIANTS: dict[str, dict[str, Any]] = {"tiny": TINY, "tiny-row": TINY | {"identity": "row"}}
PINNED: dict[str, tuple[str, str, str]] = {}
