"""transnas_micro: the options that the contract tests try. The published networks are too large to run there."""

from __future__ import annotations

from typing import Any

SMALL = {"resolution": 13, "channels": 4, "skeleton": "41", "cells": 1, "classes": 3, "in_channels": 2}

DEFAULT = False
VARIANTS: dict[str, dict[str, Any]] = {"tiny": SMALL, "tiny-row": SMALL | {"identity": "row"}}
PINNED: dict[str, tuple[str, str, str]] = {}
