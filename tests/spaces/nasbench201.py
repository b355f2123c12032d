"""nasbench201: the options that the contract tests try."""

from __future__ import annotations

from typing import Any

SMALL_CELLS = {"resolution": 8, "channels": 2, "cells": 1, "classes": 3, "in_channels": 2}

DEFAULT = True
VARIANTS: dict[str, dict[str, Any]] = {"tiny": SMALL_CELLS, "tiny-row": SMALL_CELLS | {"identity": "row"}}
PINNED = {
    "default": (
        "972313f7ec7e89e85da043686dcb67e3",
        "728af4d8ef1165bce12a467cd984be9b",
        "0a41e93a9cde7246750a67999ac2ec61",
    ),
    "tiny-row": (
        "c86ce42b5a79fbabb4bfbf5dc1ebea4a",
        "728af4d8ef1165bce12a467cd984be9b",
        "0a41e93a9cde7246750a67999ac2ec61",
    ),
}
