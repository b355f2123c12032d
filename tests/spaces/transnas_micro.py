"""transnas_micro: the options that the contract tests try. The published networks are too large to run there."""

from __future__ import annotations

from typing import Any

SMALL = {"resolution": 13, "channels": 4, "skeleton": "41", "cells": 1, "classes": 3, "in_channels": 2}

DEFAULT = False
VARIANTS: dict[str, dict[str, Any]] = {"tiny": SMALL, "tiny-row": SMALL | {"identity": "row"}}
PINNED = {
    "tiny": (
        "61f34d12b8be76ed5f6c3f200ffe9af0",
        "47ee6a0fc73ed479c76c97e8a878cf94",
        "0a41e93a9cde7246750a67999ac2ec61",
    ),
    "tiny-row": (
        "508b3dbc48a9d01ea26d3a6fe26da112",
        "47ee6a0fc73ed479c76c97e8a878cf94",
        "0a41e93a9cde7246750a67999ac2ec61",
    ),
}
