"""nasbench101: the options that the contract tests try."""

from __future__ import annotations

from typing import Any

SMALL_CELLS = {
    "max_vertices": 4,
    "resolution": 8,
    "channels": 6,
    "stacks": 2,
    "cells": 2,
    "classes": 3,
    "in_channels": 2,
}

DEFAULT = True
VARIANTS: dict[str, dict[str, Any]] = {"tiny": SMALL_CELLS, "tiny-row": SMALL_CELLS | {"identity": "row"}}
PINNED: dict[str, tuple[str, str, str]] = {}
