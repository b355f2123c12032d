"""Rows of HAT's space: where the choices of encoder and decoder lie, as text, as features, and as graphs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from search_spaces import yaml_lists
from search_spaces.graphs import compact
from search_spaces.space import Choice, Genes, Graphs
from search_spaces.stacks import Stack

FEATURES = (
    "encoder_embed_dim",
    "encoder_layer_num",
    "encoder_ffn_embed_dim_avg",
    "encoder_self_attention_heads_avg",
    "decoder_embed_dim",
    "decoder_layer_num",
    "decoder_ffn_embed_dim_avg",
    "decoder_self_attention_heads_avg",
    "decoder_ende_attention_heads_avg",
    "decoder_arbitrary_ende_attn_avg",
)
"""What HAT predicts latency from, under its names: the columns of the published tables."""

_KINDS = {
    "encoder": {"encoder_ffn": "ffn", "encoder_heads": "heads"},
    "decoder": {
        "decoder_ffn": "ffn",
        "decoder_heads": "self_heads",
        "cross_heads": "cross_heads",
        "attends": "attends",
    },
}
"""Side → option → how the choice of a layer is called."""
_NOTATION = {
    "encoder_embeddings": "encoder-embed-dim-subtransformer",
    "decoder_embeddings": "decoder-embed-dim-subtransformer",
    "encoder_ffn": "encoder-ffn-embed-dim-all-subtransformer",
    "decoder_ffn": "decoder-ffn-embed-dim-all-subtransformer",
    "encoder_layers": "encoder-layer-num-subtransformer",
    "decoder_layers": "decoder-layer-num-subtransformer",
    "encoder_heads": "encoder-self-attention-heads-all-subtransformer",
    "decoder_heads": "decoder-self-attention-heads-all-subtransformer",
    "cross_heads": "decoder-ende-attention-heads-all-subtransformer",
    "attends": "decoder-arbitrary-ende-attn-all-subtransformer",
}


@final
class Side:
    """Encoder or decoder: the columns of its embedding, of its depth, and of its layers' choices.

    ``kinds`` are the options that each layer chooses from, in the order of the columns of ``stack.blocks``.
    """

    def __init__(self, name: str, start: int, options: Mapping[str, Any]) -> None:
        self.kinds = tuple(_KINDS[name])
        self.embeddings, self.layers = f"{name}_embeddings", f"{name}_layers"
        self.embedding = start
        depths, width = options[self.layers], len(self.kinds)
        firsts = range(start + 2, start + 2 + width * max(depths), width)
        self.stack = Stack(start + 1, depths, [range(first, first + width) for first in firsts])
        self.choices = [
            Choice(f"{name}.embedding", tuple(options[self.embeddings])),
            Choice(f"{name}.layers", tuple(depths)),
        ]
        for layer in range(1, max(depths) + 1):
            self.choices += [
                Choice(f"{name}.layer{layer}.{shown}", tuple(options[kind])) for kind, shown in _KINDS[name].items()
            ]


@final
class Rows:
    """What rows of the space with these options, checked, look like."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.options = options
        self.encoder = Side("encoder", 0, options)
        self.decoder = Side("decoder", len(self.encoder.choices), options)
        self.sides = (self.encoder, self.decoder)

    def choices(self) -> list[Choice]:
        """Of the encoder, then of the decoder; layers count from 1."""
        return [*self.encoder.choices, *self.decoder.choices]

    def layers(self, side: Side, row: Genes) -> list[list[int]]:
        """The values of each layer that a row (d,) has, in the order of ``side.kinds``."""
        genes, depth = row.tolist(), int(side.stack.depth(row[None])[0])
        return [
            [int(self.options[kind][genes[column]]) for kind, column in zip(side.kinds, block, strict=True)]
            for block in side.stack.blocks[:depth].tolist()
        ]

    def features(self, genes: Genes) -> NDArray[np.float64]:
        """(n, 10): `FEATURES`; means are over the layers that are there."""
        columns: list[NDArray[Any]] = []
        for side in self.sides:
            present, depth = side.stack.present(genes), side.stack.depth(genes)
            columns += [self._values(side.embeddings, genes[:, side.embedding]), depth]
            for kind, column in zip(side.kinds, side.stack.blocks.T, strict=True):
                columns.append((self._values(kind, genes[:, column]) * present).sum(axis=1) / depth)
        return np.stack(columns, axis=1).astype(np.float64)

    # ------------------------------------------------------------------ as text

    def write(self, genes: Genes) -> list[str]:
        """In HAT's notation; layers that are cut off are written as they stand."""
        texts = []
        for row in genes.tolist():
            values: dict[str, Any] = {}
            for side in self.sides:
                values[side.embeddings] = self.options[side.embeddings][row[side.embedding]]
                values[side.layers] = self.options[side.layers][row[side.stack.column]]
                for kind, columns in zip(side.kinds, side.stack.blocks.T.tolist(), strict=True):
                    values[kind] = [self._written(kind)[row[column]] for column in columns]
            texts.append(yaml_lists.write({shown: values[name] for name, shown in _NOTATION.items()}))
        return texts

    def parse(self, text: str) -> list[int]:
        """The genes of one such text. Raises `InvalidArchitecture` as if it were row 0."""
        found = yaml_lists.read(text, list(_NOTATION.values()))
        genes: list[int] = []
        for side in self.sides:
            pair = [
                yaml_lists.one(_NOTATION[name], found[_NOTATION[name]], self.options[name])
                for name in (side.embeddings, side.layers)
            ]
            least, most = self.options[side.layers][pair[1]], side.stack.deepest
            lists = [
                yaml_lists.several(shown, found[shown], self._written(kind), least=least, most=most)
                for kind, shown in ((kind, _NOTATION[kind]) for kind in side.kinds)
            ]
            genes += [*pair, *(gene for layer in zip(*lists, strict=True) for gene in layer)]
        return genes

    def _written(self, kind: str) -> list[int]:
        """The options of a kind as HAT writes them: how many layers *more* are attended to, -1 for none."""
        options: list[int] = self.options[kind]
        return [each - 1 or -1 for each in options] if kind == "attends" else options

    # ------------------------------------------------------------------ as graphs

    @property
    def most_nodes(self) -> int:
        """Two for each encoder layer, three for each decoder layer, input, two embeddings and output."""
        return 2 * self.encoder.stack.deepest + 3 * self.decoder.stack.deepest + 4

    def graphs(self, genes: Genes) -> Graphs:
        """What `search_spaces.hat.Hat.graphs` says."""
        encoder, decoder = self.encoder.stack, self.decoder.stack
        n, nodes, target = len(genes), self.most_nodes, 2 + 2 * encoder.deepest
        labels, operations = self._operations(genes)
        ones = np.ones((n, 1), dtype=bool)
        there = [side.stack.present(genes) for side in self.sides]
        present = np.concatenate(
            [ones, ones, there[0].repeat(2, axis=1), ones, there[1].repeat(3, axis=1), ones], axis=1
        )
        line = np.eye(nodes, k=1, dtype=bool)
        # The target is read beside the source, not behind it; what is last in the decoder depends on its depth.
        line[target - 1, target] = line[nodes - 2, nodes - 1] = False
        line[0, target] = True
        adjacency = np.repeat(line[None], n, axis=0)
        outputs, crossings = 3 + 2 * np.arange(encoder.deepest), target + 2 + 3 * np.arange(decoder.deepest)
        depth = encoder.depth(genes)[:, None, None]
        reach = self._values("attends", genes[:, decoder.blocks[:, 3]])[:, None, :]
        layer = np.arange(encoder.deepest)[None, :, None]
        adjacency[:, outputs[:, None], crossings] = (layer < depth) & (layer >= depth - reach)
        adjacency[:, crossings + 1, nodes - 1] = np.arange(1, decoder.deepest + 1) == decoder.depth(genes)[:, None]
        return compact(present, adjacency, operations, labels)

    def _operations(self, genes: Genes) -> tuple[tuple[str, ...], NDArray[np.int16]]:
        """The labels, and (n, nodes) indices into them."""
        labels, n = ["input"], len(genes)

        def named(prefix: str, kind: str, columns: NDArray[np.intp]) -> NDArray[np.int16]:
            """The operations that choices of one kind stand for, of the shape of ``genes[:, columns]``."""
            names = [f"{prefix}_{option}" for option in self.options[kind]]
            labels.extend(name for name in names if name not in labels)
            places = np.array([labels.index(name) for name in names], dtype=np.int16)
            return np.asarray(places[genes[:, columns]])

        parts = [np.zeros((n, 1), np.int16)]
        for side, stem, kinds in (
            (self.encoder, "source", (("attention", 1), ("ffn", 0))),
            (self.decoder, "target", (("masked", 1), ("cross", 2), ("ffn", 0))),
        ):
            parts.append(named(stem, side.embeddings, np.array([side.embedding])))
            layers = [named(prefix, side.kinds[kind], side.stack.blocks[:, kind]) for prefix, kind in kinds]
            parts.append(np.stack(layers, axis=2).reshape(n, len(kinds) * side.stack.deepest))
        labels.append("output")
        parts.append(np.full((n, 1), len(labels) - 1, np.int16))
        return tuple(labels), np.concatenate(parts, axis=1)

    def _values(self, name: str, genes: NDArray[np.int8]) -> NDArray[np.int64]:
        return np.asarray(np.array(self.options[name], dtype=np.int64)[genes])
