"""nasbench_graph: the options that the contract tests try."""

from __future__ import annotations

from typing import Any

# The operations that the benchmark has on proteins, and narrow layers.
SMALL = {"operations": ["gcn", "sage", "arma", "fc", "skip"], "features": 3, "classes": 3, "hidden": 4, "heads": 2}

DEFAULT = True
VARIANTS: dict[str, dict[str, Any]] = {
    "tiny": SMALL | {"nodes": 5},
    "tiny-row": SMALL | {"nodes": 5, "identity": "row"},
}
PINNED = {
    "default": (
        "aa255254aa87ebdae62567036088568e",
        "5bc0f3082ecaad989e99e895b0102946",
        "2c9d7fe936fc42e10b33e2924cd73b18",
    ),
    "tiny": (
        "d839f1660db116ee3ff382e9a468260a",
        "b01009c43be1ae250b3ef597ecf13141",
        "0470d6a8edcbc337a24271384145711e",
    ),
}
