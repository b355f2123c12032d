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
PINNED = {
    "default": (
        "93ee5a6683be6d16b376694528a18c94",
        "29112254f747c20df3a1d271a518e9dd",
        "a995d67fa8a84f00fc6a51e464b7dcb3",
    ),
    "tiny": (
        "72a2c9f8a2b3a90a3a2b56b77d77dc18",
        "e8d1735eb835067518323b69d21dc839",
        "7e78ea6220cf6ab2ac9be475ad030406",
    ),
    "tiny-row": (
        "36613b11fa5dcb8f76bf6bf8d1d9ba18",
        "e8d1735eb835067518323b69d21dc839",
        "7e78ea6220cf6ab2ac9be475ad030406",
    ),
}
