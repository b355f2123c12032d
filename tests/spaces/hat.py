"""hat: the options that the contract tests try.

Not the default: its networks are too large to be run again and again. `tests.unit.test_hat` counts them unrun.
"""

from __future__ import annotations

from typing import Any

from search_spaces.hat import Hat
from search_spaces.space import Genes

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
PINNED = {
    "tiny": (
        "789301af2256c1b48bd10faf80875775",
        "c5651c214700a445f717934655e7fef4",
        "424727fdd1a3f55b3c7207d467a44969",
    ),
    "tiny-row": (
        "7b9b56506ed60621074580a397063be7",
        "0ed1005b30992f7fea717f829dcd5ac2",
        "bbe2e5fcb68a92aa539afeca02c22a94",
    ),
}


def config_of(widths: tuple[int, int], encoder: list[Any], decoder: list[Any]) -> dict[str, Any]:
    """Encoder layers are (ffn, heads), decoder layers (ffn, self_heads, cross_heads, attends)."""
    config: dict[str, Any] = {"encoder.embedding": widths[0], "encoder.layers": len(encoder)}
    config |= {"decoder.embedding": widths[1], "decoder.layers": len(decoder)}
    for side, names, layers in (
        ("encoder", ("ffn", "heads"), encoder),
        ("decoder", ("ffn", "self_heads", "cross_heads", "attends"), decoder),
    ):
        for number, layer in enumerate(layers, 1):
            config |= {f"{side}.layer{number}.{name}": value for name, value in zip(names, layer, strict=True)}
    return config


def row_of(space: Hat, widths: tuple[int, int], encoder: list[Any], decoder: list[Any]) -> Genes:
    row: Genes = space.from_configs([config_of(widths, encoder, decoder)])[0]
    return row
