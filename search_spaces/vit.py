"""Elastic vision transformers: AutoFormer (Chen et al., ICCV 2021).

Elastic are the depth, the embedding's dimension, the same in all blocks, and in each block the number of heads and the
ratio of the hidden layer to the embedding. Queries, keys and values have a fixed dimension per head. The defaults are
the published space "tiny" on ImageNet; `SMALL` and `BASE` are the options of the two others. The base space has
9^17 = 1.67·10^16 rows, as many as the paper counts, and they are 6.2·10^15 architectures; of "tiny" there are 1.1·10^9.

Equivalences united under ``identity="function"``: choices of blocks that the depth cuts off.

Notation: the part ``RETRAIN`` of AutoFormer's files, ``DEPTH: 13``, ``EMBED_DIM: 192``, ``MLP_RATIO: [3.5, 4.0, ...]``
and ``NUM_HEADS: [3, 4, ...]``. The lists go over all blocks; those that the depth cuts off may be left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Any, final

import numpy as np
from numpy.typing import NDArray

from search_spaces import options as check
from search_spaces import yaml_lists
from search_spaces.graphs import chain
from search_spaces.networks.transformer_layout import VisionBlock, VisionLayout
from search_spaces.space import (
    Bools,
    Choice,
    Genes,
    Graphs,
    Identity,
    IntArray,
    InvalidSpace,
    SearchSpace,
    images,
)
from search_spaces.stacks import Stack, extremes

if TYPE_CHECKING:
    from torch import nn

    from search_spaces.supernets.supernet import Supernet

SMALL: dict[str, Any] = {"embeddings": [320, 384, 448], "heads": [5, 6, 7], "ratios": [3.0, 3.5, 4.0]}
BASE: dict[str, Any] = {
    "depths": [14, 15, 16],
    "embeddings": [528, 576, 624],
    "heads": [8, 9, 10],
    "ratios": [3.0, 3.5, 4.0],
}
MAX_CLASSES = 100_000
_NAMES = ("DEPTH", "EMBED_DIM", "MLP_RATIO", "NUM_HEADS")
_CHUNK = 8192
"""Rows whose costs are looked up at once: their indices stay in the cache."""


@final
class VisionTransformer(SearchSpace):
    """Choices ``depth``, ``embedding``, then per block ``blockB.heads`` and ``blockB.ratio``.

    Options, all JSON; the defaults are the published space:

    - ``in_channels``, ``classes``, ``side``: of the data set; images are square.
    - ``patch``: side of the square patches, in pixels; divides ``side``.
    - ``depths``, ``embeddings`` (dimensions), ``heads``, ``ratios``: what the network, or each block, chooses from. The
      hidden layer has the integer part of ratio × embedding channels.
    - ``head_dim``: of queries, keys and values, per head.
    - ``relative``: the largest distance, in patches, that relative positions tell apart; 0 leaves them out.
    - ``pool``: what the classifier reads, "mean" of the patches or the "class" token.

    Raises `InvalidSpace` that names the option.
    """

    def __init__(
        self,
        *,
        identity: Identity = "function",
        in_channels: int = 3,
        classes: int = 1000,
        side: int = 224,
        patch: int = 16,
        depths: Any = (12, 13, 14),
        embeddings: Any = (192, 216, 240),
        heads: Any = (3, 4),
        ratios: Any = (3.5, 4.0),
        head_dim: int = 64,
        relative: int = 14,
        pool: str = "mean",
        **unknown: Any,
    ) -> None:
        few = partial(check.integer, most=64)
        options: dict[str, Any] = {
            "in_channels": check.integer("in_channels", in_channels),
            "classes": check.integer("classes", classes, most=MAX_CLASSES),
            "side": check.integer("side", side),
            "patch": check.integer("patch", patch),
            "depths": check.many("depths", depths, few, distinct=True),
            "embeddings": check.many("embeddings", embeddings, partial(check.integer, least=4), distinct=True),
            "heads": check.many("heads", heads, few, distinct=True),
            "ratios": check.many("ratios", ratios, check.number, distinct=True),
            "head_dim": check.integer("head_dim", head_dim, most=1024),
            "relative": check.integer("relative", relative, least=0),
            "pool": check.one_of("mean", "class")("pool", pool),
        }
        for field in unknown:
            raise InvalidSpace(f"no such option, options are {sorted(options)}", field)
        if options["side"] % options["patch"]:
            raise InvalidSpace(f"must divide the side {options['side']}, got {options['patch']}", "patch")
        for embedding in options["embeddings"]:
            hidden = [int(embedding * ratio) for ratio in options["ratios"]]
            if 0 in hidden or len(set(hidden)) < len(hidden):
                raise InvalidSpace(f"the hidden layers of embedding {embedding} would be {hidden} wide", "ratios")
        deepest = max(options["depths"])
        choices = [Choice("depth", tuple(options["depths"])), Choice("embedding", tuple(options["embeddings"]))]
        for block in range(1, deepest + 1):
            choices.append(Choice(f"block{block}.heads", tuple(options["heads"])))
            choices.append(Choice(f"block{block}.ratio", tuple(options["ratios"])))
        super().__init__("vit", choices, options, identity=identity, uniform=True)
        self._stack = Stack(0, options["depths"], [(2 + 2 * block, 3 + 2 * block) for block in range(deepest)])
        self._fixed, self._tables = self._costs()

    # ------------------------------------------------------------------ the shape of a row

    def active(self, genes: Genes) -> Bools:
        """(n, d): the depth, the embedding, and the choices of blocks that the depth leaves."""
        genes = self._batch(genes)
        result = np.ones(genes.shape, dtype=bool)
        self._stack.cut_off(genes, result)
        return result

    def _merge(self, genes: Genes) -> Genes:
        return genes

    def _feasible(self, genes: Genes) -> Bools:
        return np.ones(len(genes), dtype=bool)

    def _draw(self, count: int, rng: np.random.Generator) -> Genes:
        # Uniform over architectures: a depth is as likely as the number of networks it has.
        genes = self._draw_rows(count, rng)
        self._stack.draw(genes, self._ways(), rng)
        if self.identity == "row":
            free = (rng.random(genes.shape) * self._sizes).astype(np.int8)
            genes = np.where(self.active(genes), genes, free).astype(np.int8)
        return genes

    @property
    def cardinality(self) -> int:
        """Embeddings times the settings of the blocks, summed over the depths: rows under identity="row"."""
        return int(self._allowed[1].sum()) * sum(self._ways())

    def _ways(self) -> list[int]:
        return self._stack.ways(self._allowed, self._sizes, rows=self.identity == "row")

    def extremes(self) -> Genes:
        """(2, d) canonical rows: cost grows with every option's value, so each choice takes its least or largest."""
        return self.canonical(extremes(self.choices, self._allowed))

    def _write(self, genes: Genes) -> list[str]:
        get, texts = self.options, []
        for row in genes.tolist():
            ratios = [get["ratios"][gene] for gene in row[3::2]]
            heads = [get["heads"][gene] for gene in row[2::2]]
            values = (get["depths"][row[0]], get["embeddings"][row[1]], ratios, heads)
            texts.append(yaml_lists.write(dict(zip(_NAMES, values, strict=True))))
        return texts

    def _parse(self, text: str) -> Sequence[int]:
        get, found = self.options, yaml_lists.read(text, _NAMES)
        depth = yaml_lists.one("DEPTH", found["DEPTH"], get["depths"])
        embedding = yaml_lists.one("EMBED_DIM", found["EMBED_DIM"], get["embeddings"])
        least, most = get["depths"][depth], self._stack.deepest
        heads = yaml_lists.several("NUM_HEADS", found["NUM_HEADS"], get["heads"], least=least, most=most)
        ratios = yaml_lists.several("MLP_RATIO", found["MLP_RATIO"], get["ratios"], least=least, most=most)
        return [depth, embedding, *(gene for pair in zip(heads, ratios, strict=True) for gene in pair)]

    # ------------------------------------------------------------------ what it costs

    def cost(self, genes: Genes) -> dict[str, IntArray]:
        """``params`` and ``macs`` (linear layers, the patches' convolution, the products of attention), (n,) each."""
        genes = self._batch(genes)
        settings = len(self.options["heads"]) * len(self.options["ratios"])
        result = np.empty((2, len(genes)), dtype=np.int64)
        for start in range(0, len(genes), _CHUNK):
            chunk = genes[start : start + _CHUNK]
            setting = np.where(self._stack.present(chunk), self._settings(chunk), np.int32(settings))
            index = setting + chunk[:, 1:2].astype(np.int32) * np.int32(settings + 1)
            blocks = self._tables.take(index, axis=1).sum(axis=2)
            result[:, start : start + _CHUNK] = blocks + self._fixed[:, chunk[:, 1]]
        return {"params": result[0], "macs": result[1]}

    def _settings(self, genes: Genes) -> NDArray[np.int32]:
        """(n, deepest): heads and ratio of each block as one number."""
        rows = genes.astype(np.int32)
        return np.asarray(rows[:, 2::2] * len(self.options["ratios"]) + rows[:, 3::2])

    def _costs(self) -> tuple[IntArray, IntArray]:
        """Parameters and MACs: (2, embeddings) without blocks, (2, embeddings · (settings + 1)) of blocks.

        The last setting of each embedding is no block.
        """
        get, fixed, blocks = self.options, [], []
        for embedding in range(len(get["embeddings"])):
            layout = self._network(embedding, ())
            fixed.append(layout.fixed_cost())
            for setting in product(range(len(get["heads"])), range(len(get["ratios"]))):
                blocks.append(layout.block_cost(self._block(embedding, *setting)))
            blocks.append((0, 0))
        # In Python's integers, which do not overflow.
        most, of_block = (max(macs for _, macs in costs) for costs in (fixed, blocks))
        if most + self._stack.deepest * of_block > np.iinfo(np.int64).max:
            raise InvalidSpace("the largest network has more MACs than can be counted", "side")
        return np.array(fixed, dtype=np.int64).T, np.array(blocks, dtype=np.int64).T

    # ------------------------------------------------------------------ what it is built from

    def layout(self, row: Genes) -> VisionLayout:
        """The blocks of the network of one row (d,). Raises `InvalidArchitecture`."""
        checked = self.check(np.asarray(row)[None])
        depth, (_, embedding, *genes) = int(self._stack.depth(checked)[0]), checked[0].tolist()
        pairs = list(zip(genes[::2], genes[1::2], strict=True))[:depth]
        return self._network(embedding, tuple(self._block(embedding, *pair) for pair in pairs))

    @property
    def full(self) -> VisionLayout:
        """All blocks at their widest: what a super-network holds."""
        get = self.options
        embedding, *pair = (int(np.argmax(get[name])) for name in ("embeddings", "heads", "ratios"))
        return self._network(embedding, (self._block(embedding, *pair),) * self._stack.deepest)

    def _block(self, embedding: int, heads: int, ratio: int) -> VisionBlock:
        get = self.options
        return VisionBlock(get["heads"][heads], int(get["embeddings"][embedding] * get["ratios"][ratio]))

    def _network(self, embedding: int, blocks: tuple[VisionBlock, ...]) -> VisionLayout:
        get = self.options
        names = ("side", "patch", "in_channels", "classes", "head_dim", "relative", "pool")
        return VisionLayout(**{name: get[name] for name in names}, width=get["embeddings"][embedding], blocks=blocks)

    def input_shape(self, row: Genes) -> tuple[int, ...]:
        """(channels, height, width) of one image: the same for all rows."""
        self.check(np.asarray(row)[None])
        return (self.options["in_channels"], self.options["side"], self.options["side"])

    def inputs(self, row: Genes, batch: int, rng: np.random.Generator) -> tuple[NDArray[Any], ...]:
        """(batch, channels, height, width) images."""
        return images(self.input_shape(row), batch, rng)

    def build(self, row: Genes) -> nn.Module:
        """The network of one row, with the same weights each time; `initialise` draws others."""
        from search_spaces.networks.initialise import initialise
        from search_spaces.networks.vit import Network

        network = Network(self.layout(row), device="meta").to_empty(device="cpu")
        return initialise(network, np.random.default_rng(0))

    def supernet(self) -> Supernet:
        """The super-network with AutoFormer's slices, with the same weights each time; `initialise` draws others."""
        from search_spaces.networks.initialise import initialise
        from search_spaces.supernets.vit import VisionSupernet

        return initialise(VisionSupernet(self, device="meta").to_empty(device="cpu"), np.random.default_rng(0))

    # ------------------------------------------------------------------ as graphs

    @property
    def most_nodes(self) -> int:
        """Two for each block at full depth, input, embedding and output."""
        return 2 * self._stack.deepest + 3

    def graphs(self, genes: Genes) -> Graphs:
        """Nodes ``input``, ``embed_DIMENSION``, ``attention_HEADS`` and ``mlp_RATIO`` of each block, ``output``.

        A node reads the sum of the nodes that feed it: the embedding and all that blocks have added to it.
        """
        genes = self._batch(genes)
        get, n = self.options, len(genes)
        kinds = [("embed", "embeddings"), ("attention", "heads"), ("mlp", "ratios")]
        names = [[f"{kind}_{option}" for option in get[field]] for kind, field in kinds]
        labels = ("input", *(name for group in names for name in group), "output")
        blocks = genes[:, 2:].astype(np.int16)
        blocks[:, 0::2] += 1 + len(names[0])
        blocks[:, 1::2] += 1 + len(names[0]) + len(names[1])
        first, last = np.zeros((n, 1), np.int16), np.full((n, 1), len(labels) - 1, np.int16)
        operations = np.concatenate([first, 1 + genes[:, 1:2].astype(np.int16), blocks, last], axis=1)
        ends = np.ones((n, 2), dtype=bool)
        present = np.concatenate([ends, self._stack.present(genes).repeat(2, axis=1), ends[:, :1]], axis=1)
        passes = np.array([False, False, *[True] * (2 * self._stack.deepest), False])
        return chain(present, passes, operations, labels)


def scaled(shape: tuple[int, int, int], classes: int) -> dict[str, Any]:
    """Options of `VisionTransformer` for images of a data set, ``shape`` (channels, height, width) in pixels.

    Smaller images get smaller patches and narrower, shallower networks: 8×8 pixels train on a CPU in a minute or two,
    32×32 want a GPU, from 193 pixels on the space is the published one. Raises `InvalidSpace`.
    """
    fields = ("channels", "height", "width")
    channels, *sides = (check.integer(field, value) for field, value in zip(fields, shape, strict=True))
    side = max(sides)
    options: dict[str, Any] = {"in_channels": channels, "classes": check.integer("classes", classes, most=MAX_CLASSES)}
    if side > 192:
        return options
    patch = 2 if side <= 12 else 4 if side <= 40 else 8 if side <= 96 else 16
    grid = math.ceil(side / patch)
    options |= {"side": grid * patch, "patch": patch, "relative": grid}
    if side > 96:
        return options
    if side > 40:
        return options | {"depths": [8, 9, 10], "embeddings": [144, 168, 192], "heads": [2, 3]}
    if side > 12:
        return options | {"depths": [6, 7, 8], "embeddings": [96, 120, 144], "heads": [2, 3, 4], "head_dim": 32}
    return options | {
        "depths": [2, 3, 4],
        "embeddings": [24, 32, 40],
        "heads": [2, 3, 4],
        "ratios": [2.0, 3.0, 4.0],
        "head_dim": 8,
    }
