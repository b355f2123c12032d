"""Elastic encoder–decoder transformers for translation: HAT (Wang et al., ACL 2020).

Elastic are the embedding's dimension on either side, the number of decoder layers, and layer by layer the channels of
the hidden layer, the heads, and how many of the last encoder layers a decoder layer attends to ("arbitrary
encoder–decoder attention"). The encoder may be elastic as well; in the published spaces it has six layers. The
defaults are the published space on WMT'14 English–German, 4.2·10^14 architectures (2.4·10^15 rows; the paper counts
10^15), which the spaces on English–French and WMT'19 share but for the vocabulary. `IWSLT` are the options of the
space on IWSLT'14 German–English, `MEASURED` the wider choices that the published tables of latencies are drawn from,
for any task.

Queries, keys and values have one width, all heads together, so the number of heads changes the function, and neither
parameters nor MACs. Positions are sinusoids made for the space's largest dimension, of which the first are used.

Equivalences united under ``identity="function"``: choices of layers that a depth cuts off.

Notation: HAT's files of SubTransformers, a line ``encoder-embed-dim-subtransformer: 512`` or
``decoder-ffn-embed-dim-all-subtransformer: [2048, 3072, ...]`` per kind of choice. The lists go over all layers; those
that the depth cuts off may be left out. ``-1``, ``1`` and ``2`` stand for the last one, two and three encoder layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Any, final

import numpy as np
from numpy.typing import NDArray

from search_spaces import options as check
from search_spaces.networks.transformer_layout import DecoderLayer, EncoderLayer, TranslatorLayout
from search_spaces.space import (
    Bools,
    Genes,
    Graphs,
    Identity,
    IntArray,
    InvalidSpace,
    SearchSpace,
    Unsupported,
)
from search_spaces.stacks import Stack, extremes
from search_spaces.translators import Rows

if TYPE_CHECKING:
    from torch import nn

    from search_spaces.supernets.supernet import Supernet

IWSLT: dict[str, Any] = {
    "source_vocabulary": 8848,
    "target_vocabulary": 6632,
    "shared_embeddings": False,
    "source_length": 23,
    "target_length": 23,
    **{name: [512, 1024, 2048] for name in ("encoder_ffn", "decoder_ffn")},
    **{name: [2, 4] for name in ("encoder_heads", "decoder_heads", "cross_heads")},
}
MEASURED: dict[str, Any] = {
    **{name: [512, 1024, 2048, 3072] for name in ("encoder_ffn", "decoder_ffn")},
    **{name: [2, 4, 8] for name in ("encoder_heads", "decoder_heads", "cross_heads")},
}
MAX_VOCABULARY = 1_000_000
_CHUNK = 8192
"""Rows whose costs are looked up at once: their indices stay in the cache."""


@final
class Hat(SearchSpace):
    """Choices of the encoder, ``encoder.embedding``, ``encoder.layers``, per layer ``encoder.layerL.ffn``, ``.heads``;
    of the decoder, ``decoder.embedding``, ``decoder.layers``, per layer ``decoder.layerL.ffn``, ``.self_heads``,
    ``.cross_heads`` and ``.attends``, how many of the last encoder layers the layer attends to.

    Options, all JSON; the defaults are the published space:

    - ``source_vocabulary``, ``target_vocabulary``: numbers of tokens. Token 1 is padding.
    - ``shared_embeddings``: one table for source, target and output, or one for each.
    - ``source_length``, ``target_length``: tokens of the sentences that MACs are counted for.
    - ``qkv_dim``: of queries, keys and values, all heads together.
    - ``encoder_embeddings``, ``decoder_embeddings``, ``encoder_layers``, ``decoder_layers``, ``encoder_ffn``,
      ``decoder_ffn``, ``encoder_heads``, ``decoder_heads``, ``cross_heads``, ``attends``: what there is to choose from.
      Heads divide ``qkv_dim``; no option of ``attends`` is more than the encoder's fewest layers.

    Raises `InvalidSpace` that names the option.
    """

    def __init__(
        self,
        *,
        identity: Identity = "function",
        source_vocabulary: int = 32768,
        target_vocabulary: int = 32768,
        shared_embeddings: bool = True,
        source_length: int = 30,
        target_length: int = 30,
        qkv_dim: int = 512,
        encoder_embeddings: Any = (512, 640),
        decoder_embeddings: Any = (512, 640),
        encoder_layers: Any = (6,),
        decoder_layers: Any = (1, 2, 3, 4, 5, 6),
        encoder_ffn: Any = (1024, 2048, 3072),
        decoder_ffn: Any = (1024, 2048, 3072),
        encoder_heads: Any = (4, 8),
        decoder_heads: Any = (4, 8),
        cross_heads: Any = (4, 8),
        attends: Any = (1, 2, 3),
        **unknown: Any,
    ) -> None:
        # The first four tokens of a vocabulary are marks: begin, padding, end, unknown.
        words, few = partial(check.integer, least=5, most=MAX_VOCABULARY), partial(check.integer, most=64)
        wide = partial(check.integer, least=4)
        options: dict[str, Any] = {
            "source_vocabulary": words("source_vocabulary", source_vocabulary),
            "target_vocabulary": words("target_vocabulary", target_vocabulary),
            "shared_embeddings": check.boolean("shared_embeddings", shared_embeddings),
            "source_length": check.integer("source_length", source_length),
            "target_length": check.integer("target_length", target_length),
            "qkv_dim": check.integer("qkv_dim", qkv_dim),
            "encoder_embeddings": check.many("encoder_embeddings", encoder_embeddings, wide, distinct=True),
            "decoder_embeddings": check.many("decoder_embeddings", decoder_embeddings, wide, distinct=True),
            "encoder_layers": check.many("encoder_layers", encoder_layers, few, distinct=True),
            "decoder_layers": check.many("decoder_layers", decoder_layers, few, distinct=True),
            "encoder_ffn": check.many("encoder_ffn", encoder_ffn, check.integer, distinct=True),
            "decoder_ffn": check.many("decoder_ffn", decoder_ffn, check.integer, distinct=True),
            "encoder_heads": check.many("encoder_heads", encoder_heads, few, distinct=True),
            "decoder_heads": check.many("decoder_heads", decoder_heads, few, distinct=True),
            "cross_heads": check.many("cross_heads", cross_heads, few, distinct=True),
            "attends": check.many("attends", attends, few, distinct=True),
        }
        for field in unknown:
            raise InvalidSpace(f"no such option, options are {sorted(options)}", field)
        if options["shared_embeddings"] and options["source_vocabulary"] != options["target_vocabulary"]:
            raise InvalidSpace("one table of embeddings needs one vocabulary, two are given", "shared_embeddings")
        for field in ("encoder_heads", "decoder_heads", "cross_heads"):
            for heads in options[field]:
                if options["qkv_dim"] % heads:
                    raise InvalidSpace(f"must divide qkv_dim, {options['qkv_dim']}, got {heads}", field)
        if max(options["attends"]) > min(options["encoder_layers"]):
            raise InvalidSpace(f"the encoder may have {min(options['encoder_layers'])} layers only", "attends")
        self._rows = Rows(options)
        super().__init__("hat", self._rows.choices(), options, identity=identity, uniform=True)
        self._fixed, self._of_encoder, self._of_decoder = self._costs()

    # ------------------------------------------------------------------ the shape of a row

    def active(self, genes: Genes) -> Bools:
        """(n, d): embeddings, depths, and the choices of layers that the depths leave."""
        genes = self._batch(genes)
        result = np.ones(genes.shape, dtype=bool)
        for side in self._rows.sides:
            side.stack.cut_off(genes, result)
        return result

    def _merge(self, genes: Genes) -> Genes:
        return genes

    def _feasible(self, genes: Genes) -> Bools:
        return np.ones(len(genes), dtype=bool)

    def _draw(self, count: int, rng: np.random.Generator) -> Genes:
        # Uniform over architectures: a depth is as likely as the number of networks it has.
        genes = self._draw_rows(count, rng)
        for side in self._rows.sides:
            side.stack.draw(genes, self._ways(side.stack), rng)
        if self.identity == "row":
            free = (rng.random(genes.shape) * self._sizes).astype(np.int8)
            genes = np.where(self.active(genes), genes, free).astype(np.int8)
        return genes

    @property
    def cardinality(self) -> int:
        """Embeddings times the settings of encoder and of decoder: rows under identity="row"."""
        result = 1
        for side in self._rows.sides:
            result *= int(self._allowed[side.embedding].sum()) * sum(self._ways(side.stack))
        return result

    def _ways(self, stack: Stack) -> list[int]:
        return stack.ways(self._allowed, self._sizes, rows=self.identity == "row")

    def extremes(self) -> Genes:
        """(2, d) canonical rows: cost falls with no option's value, so each choice takes its least or largest."""
        return self.canonical(extremes(self.choices, self._allowed))

    def features(self, genes: Genes) -> NDArray[np.float64]:
        """(n, 10): what HAT predicts latency from, `search_spaces.translators.FEATURES`.

        Dimension and depth of either side, and the means over its layers of each of their choices.
        """
        return self._rows.features(self._batch(genes))

    def _write(self, genes: Genes) -> list[str]:
        return self._rows.write(genes)

    def _parse(self, text: str) -> Sequence[int]:
        return self._rows.parse(text)

    # ------------------------------------------------------------------ what it costs

    def cost(self, genes: Genes) -> dict[str, IntArray]:
        """``params``, and ``macs`` of linear layers and products of attention, for one pair of sentences, (n,) each.

        The target is read once, as in training. HAT states sizes without embeddings and output, and two FLOPs per MAC.
        """
        genes = self._batch(genes)
        get, sides = self.options, self._rows.sides
        tables = ((self._of_encoder, ("encoder_ffn",)), (self._of_decoder, ("decoder_ffn", "attends")))
        result = np.empty((2, len(genes)), dtype=np.int64)
        for start in range(0, len(genes), _CHUNK):
            chunk = genes[start : start + _CHUNK]
            first, second = (chunk[:, side.embedding].astype(np.int32) for side in sides)
            pair = first * np.int32(len(get["decoder_embeddings"])) + second
            found = self._fixed[:, pair]
            for side, (table, kinds) in zip(sides, tables, strict=True):
                setting = np.zeros((len(chunk), side.stack.deepest), dtype=np.int32)
                for kind in kinds:
                    setting *= np.int32(len(get[kind]))
                    setting += chunk[:, side.stack.blocks[:, side.kinds.index(kind)]]
                settings = np.int32(table.shape[1] // self._fixed.shape[1])
                setting[~side.stack.present(chunk)] = settings - 1
                found += table.take(setting + pair[:, None] * settings, axis=1).sum(axis=2)
            result[:, start : start + _CHUNK] = found
        return {"params": result[0], "macs": result[1]}

    def _costs(self) -> tuple[IntArray, IntArray, IntArray]:
        """Parameters and MACs: (2, pairs of embeddings) without layers; (2, pairs · settings) of encoder and decoder
        layers. The last setting of each pair is no layer.
        """
        get = self.options
        source, target, heads = get["source_length"], get["target_length"], 1
        fixed, encoder, decoder = [], [], []
        for pair in product(get["encoder_embeddings"], get["decoder_embeddings"]):
            layout = self._network(*pair, (), ())
            fixed.append(layout.fixed_cost(target))
            encoder += [layout.encoder_cost(EncoderLayer(ffn, heads), source) for ffn in get["encoder_ffn"]]
            decoder += [
                layout.decoder_cost(DecoderLayer(ffn, heads, heads, attends), source, target)
                for ffn, attends in product(get["decoder_ffn"], get["attends"])
            ]
            encoder.append((0, 0))
            decoder.append((0, 0))
        first, second, third = (np.array(costs, dtype=np.int64).T for costs in (fixed, encoder, decoder))
        return first, second, third

    # ------------------------------------------------------------------ what it is built from

    def layout(self, row: Genes) -> TranslatorLayout:
        """The layers of the network of one row (d,). Raises `InvalidArchitecture`."""
        rows, checked = self._rows, self.check(np.asarray(row)[None])[0]
        source, target = (self.options[side.embeddings][int(checked[side.embedding])] for side in rows.sides)
        encoder = [EncoderLayer(*values) for values in rows.layers(rows.encoder, checked)]
        decoder = [DecoderLayer(*values) for values in rows.layers(rows.decoder, checked)]
        return self._network(source, target, encoder, decoder)

    @property
    def full(self) -> TranslatorLayout:
        """All layers at their widest: what a super-network holds."""
        get, rows = self.options, self._rows
        encoder = [EncoderLayer(*(max(get[kind]) for kind in rows.encoder.kinds))] * rows.encoder.stack.deepest
        decoder = [DecoderLayer(*(max(get[kind]) for kind in rows.decoder.kinds))] * rows.decoder.stack.deepest
        return self._network(max(get["encoder_embeddings"]), max(get["decoder_embeddings"]), encoder, decoder)

    def _network(
        self, encoder_width: int, decoder_width: int, encoder: Sequence[EncoderLayer], decoder: Sequence[DecoderLayer]
    ) -> TranslatorLayout:
        get = self.options
        return TranslatorLayout(
            source_vocabulary=get["source_vocabulary"],
            target_vocabulary=get["target_vocabulary"],
            shared=get["shared_embeddings"],
            inner=get["qkv_dim"],
            encoder_width=encoder_width,
            decoder_width=decoder_width,
            encoder_span=max(get["encoder_embeddings"]),
            decoder_span=max(get["decoder_embeddings"]),
            encoder=tuple(encoder),
            decoder=tuple(decoder),
        )

    def input_shape(self, row: Genes) -> tuple[int, ...]:
        """Raises `Unsupported`."""
        raise Unsupported("hat reads sentences, not images: `inputs` gives what its networks read")

    def inputs(self, row: Genes, batch: int, rng: np.random.Generator) -> tuple[NDArray[Any], ...]:
        """Source (batch, source length) and target so far (batch, target length), int64 tokens without padding."""
        self.check(np.asarray(row)[None])
        get = self.options
        sides = [(get[f"{side}_vocabulary"], get[f"{side}_length"]) for side in ("source", "target")]
        return tuple(rng.integers(4, words, (batch, length)) for words, length in sides)

    def build(self, row: Genes) -> nn.Module:
        """The network of one row, with the same weights each time; `initialise` draws others."""
        from search_spaces.networks.hat import Network
        from search_spaces.networks.initialise import initialise

        network = Network(self.layout(row), device="meta").to_empty(device="cpu")
        return initialise(network, np.random.default_rng(0))

    def supernet(self) -> Supernet:
        """The super-network with HAT's slices, with the same weights each time; `initialise` draws others."""
        from search_spaces.networks.initialise import initialise
        from search_spaces.supernets.hat import HatSupernet

        return initialise(HatSupernet(self, device="meta").to_empty(device="cpu"), np.random.default_rng(0))

    # ------------------------------------------------------------------ as graphs

    @property
    def most_nodes(self) -> int:
        """Two for each encoder layer, three for each decoder layer, input, two embeddings and output."""
        return self._rows.most_nodes

    def graphs(self, genes: Genes) -> Graphs:
        """Nodes ``input``, ``source_DIMENSION``, ``attention_HEADS`` and ``ffn_CHANNELS`` of each encoder layer,
        ``target_DIMENSION``, ``masked_HEADS``, ``cross_HEADS`` and ``ffn_CHANNELS`` of each decoder layer, ``output``.

        ``input`` stands for both sentences. A node holds its residual connection and its norm. A cross-attention is
        also fed by the encoder layers that it attends to.
        """
        return self._rows.graphs(self._batch(genes))
