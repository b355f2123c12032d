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
PINNED = {
    "default": (
        "c45f6536bd9e1b8be4a68027b47591c6",
        "80bdb4a5a626ad5bab76c4cce880a3b9",
        "ed0bc28818d83cbfbdeeb3f73cbeed0e",
    ),
    "tiny": (
        "35ee5600bd84d7f69148559557def2c6",
        "075934013c475b619609dda1c3babccd",
        "bf364291fd7bcf0d3cc7c4a797ebab50",
    ),
    "tiny-row": (
        "bb67f5bab5e20270fb5c1bdf75ff2eec",
        "075934013c475b619609dda1c3babccd",
        "bf364291fd7bcf0d3cc7c4a797ebab50",
    ),
}
