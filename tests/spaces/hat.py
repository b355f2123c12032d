"""hat: the options that the contract tests try.

Not the default: its networks are too large to be run again and again. `tests.unit.test_hat` counts them unrun.
"""

from __future__ import annotations

from typing import Any

TINY_TRANSLATOR: dict[str, Any] = {
    "source_vocabulary": 9,
    "target_vocabulary": 9,
    "source_length": 3,
    "target_length": 2,
    "qkv_dim": 4,
    "encoder_embeddings": [6, 8],
    "decoder_embeddings": [8, 4],
    "encoder_layers": [3, 2],
    "decoder_layers": [1, 2],
    "encoder_ffn": [5, 7],
    "decoder_ffn": [3],
    "encoder_heads": [2],
    "decoder_heads": [1, 4],
    "cross_heads": [2],
    "attends": [2, 1],
}

DEFAULT = False
VARIANTS: dict[str, dict[str, Any]] = {
    "tiny": TINY_TRANSLATOR,
    "tiny-row": TINY_TRANSLATOR
    | {"target_vocabulary": 7, "shared_embeddings": False, "encoder_layers": [2], "encoder_heads": [1, 2]}
    | {"decoder_heads": [2], "identity": "row"},
}
PINNED: dict[str, tuple[str, str, str]] = {}
