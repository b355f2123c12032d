"""TransNAS-Bench-101's macro space (Duan et al., CVPR 2021): 3,256 chains of modules of residual blocks.

A network has four to six modules, each with a code: 1 is plain, 2 doubles the channels, 3 halves the resolution, 4 does
both. Together they halve the resolution one to four times and double the channels one to three times: 210 chains of
four modules, 750 of five and 2,296 of six.

No two of them are united: ``identity`` makes no difference here.

Notation: the codes in their order, such as ``41414``. The published string ``64-41414-basic``, where the first number
is the channels, is read as well.
"""

from __future__ import annotations

import re
from itertools import product
from typing import TYPE_CHECKING, Any, NoReturn, final

import numpy as np
from numpy.typing import NDArray

from search_spaces import options as check
from search_spaces.graphs import chain
from search_spaces.space import (
    Bools,
    Choice,
    Genes,
    Graphs,
    Identity,
    IntArray,
    InvalidArchitecture,
    InvalidSpace,
    SearchSpace,
    Unsupported,
    images,
)
from search_spaces.transnas import DOUBLING, HALVING, classifier, convolution, frame, halved, stem

if TYPE_CHECKING:
    from torch import nn

FEWEST, MOST = 4, 6
"""Modules of a network."""
HALVINGS, DOUBLINGS = (1, 4), (1, 3)
"""The fewest and the most of a network."""
KINDS = ("block", "double", "halve", "double_halve")
"""What the first block of a module is, by its code less one."""

_FIRST = np.array([1] * FEWEST + [0] * (MOST - FEWEST), dtype=np.int8)
"""(6,): the code that gene 0 stands for; modules that may be absent have the code 0 as well."""
_SIZES = tuple(5 - int(first) for first in _FIRST)
_GENES: Genes = np.array(list(product(*map(range, _SIZES))), dtype=np.int8)
"""(6400, 6): all rows, in the order of their genes."""
_PLACES = np.array([int(np.prod(_SIZES[place + 1 :])) for place in range(MOST)], dtype=np.int32)
_NOTATION = re.compile(rf"(?:(\d+)-)?([1-4]{{{FEWEST},{MOST}}})(-basic)?")


def _keeps_the_rules(genes: Genes) -> Bools:
    """(n,): rows without a gap that halve and double as often as they may."""
    codes = genes + _FIRST
    gap = (codes[:, 1:] > 0) & (codes[:, :-1] == 0)
    halvings, doublings = np.isin(codes, HALVING).sum(axis=1), np.isin(codes, DOUBLING).sum(axis=1)
    halved_enough = (halvings >= HALVINGS[0]) & (halvings <= HALVINGS[1])
    return np.asarray(~gap.any(axis=1) & halved_enough & (doublings >= DOUBLINGS[0]) & (doublings <= DOUBLINGS[1]))


_FEASIBLE = _keeps_the_rules(_GENES)


@final
class TransNasMacro(SearchSpace):
    """Choices ``module1`` to ``module6``, the code of each module; 0 where there is no fifth or sixth.

    Options, all JSON:

    - ``classes``: 100, as in the tables of costs for object classification. They have 63 for scenes; the networks were
      trained with 75 and 47.
    - ``in_channels``: of the images. ``resolution``: their side in pixels.
    - ``channels``: behind the stem. ``blocks``: in each module.

    Raises `InvalidSpace` that names the option.
    """

    def __init__(
        self,
        *,
        identity: Identity = "function",
        classes: int = 100,
        in_channels: int = 3,
        resolution: int = 256,
        channels: int = 64,
        blocks: int = 2,
        **unknown: Any,
    ) -> None:
        options = frame(classes, in_channels, resolution, channels)
        options["blocks"] = check.small("blocks", blocks)
        for field in unknown:
            raise InvalidSpace(f"no such option, options are {sorted(options)}", field)
        choices = [Choice(f"module{i + 1}", tuple(range(int(first), 5))) for i, first in enumerate(_FIRST)]
        super().__init__("transnas_macro", choices, options, identity=identity, uniform=True, why=_broken_rule)
        self._costs = _costs(options)

    # ------------------------------------------------------------------ rows

    def active(self, genes: Genes) -> Bools:
        """(n, 6), all True: an absent module is a choice as well."""
        return np.ones(self._batch(genes).shape, dtype=bool)

    def _merge(self, genes: Genes) -> Genes:
        return genes

    def _feasible(self, genes: Genes) -> Bools:
        return np.asarray(_FEASIBLE[genes @ _PLACES])

    def _left(self) -> Genes:
        """(k, 6): all rows within the restriction, in the order of their genes."""
        rows = _GENES[_FEASIBLE]
        kept: Genes = rows[self._allowed[np.arange(MOST), rows].all(axis=1)]
        return kept

    def _draw(self, count: int, rng: np.random.Generator) -> Genes:
        rows = self._left()
        return rows[rng.integers(len(rows), size=count)] if len(rows) else rows

    @property
    def cardinality(self) -> int:
        """3,256; fewer when restricted."""
        return len(self._left())

    def extremes(self) -> Genes:
        """(2, 6). Raises `InvalidSpace` if no row is left."""
        rows = self._left()
        if not len(rows):
            raise InvalidSpace("the rules leave no architecture: none halves and doubles as often as it must")
        macs = self.cost(rows)["macs"]
        return rows[[int(macs.argmin()), int(macs.argmax())]]

    def _write(self, genes: Genes) -> list[str]:
        return ["".join(str(code) for code in row if code) for row in (genes + _FIRST).tolist()]

    def _parse(self, text: str) -> list[int]:
        found = _NOTATION.fullmatch(text.strip())
        if found is None or (found[1] is None) != (found[3] is None):
            message = f"must read as 41414 or {self.options['channels']}-41414-basic: {FEWEST} to {MOST} digits 1 to 4"
            raise InvalidArchitecture(f"{message}, is {text[:200]!r}", row=0, field="notation")
        if found[1] not in (None, str(self.options["channels"])):
            message = f"is of networks of {found[1]} channels, this space has {self.options['channels']}"
            raise InvalidArchitecture(message, row=0, field="notation")
        codes = [int(code) for code in found[2].ljust(MOST, "0")]
        return [code - int(first) for code, first in zip(codes, _FIRST, strict=True)]

    # ------------------------------------------------------------------ what it costs, and how it is built

    def cost(self, genes: Genes) -> dict[str, IntArray]:
        """``params`` and ``macs`` (of convolutions and the classifier), (n,) each."""
        params, macs = self._costs[self._batch(genes) @ _PLACES].T
        return {"params": params, "macs": macs}

    def input_shape(self, row: Genes) -> tuple[int, ...]:
        """(channels, height, width) of one image."""
        self.check(np.asarray(row)[None])
        return (self.options["in_channels"], self.options["resolution"], self.options["resolution"])

    def inputs(self, row: Genes, batch: int, rng: np.random.Generator) -> tuple[NDArray[Any], ...]:
        """(batch, channels, height, width) images."""
        return images(self.input_shape(row), batch, rng)

    def build(self, row: Genes) -> nn.Module:
        """The network of one row, with the same weights each time; `initialise` draws others."""
        from search_spaces.networks.initialise import initialise
        from search_spaces.networks.transnas import of_blocks

        codes = [code for code in (self.check(np.asarray(row)[None])[0] + _FIRST).tolist() if code]
        sizes = {name: self.options[name] for name in ("in_channels", "classes", "channels", "blocks")}
        network = of_blocks(codes, "meta", **sizes)
        return initialise(network.to_empty(device="cpu"), np.random.default_rng(0))

    def supernet(self) -> NoReturn:
        """Raises `Unsupported`."""
        raise Unsupported(
            "transnas_macro has no super-network: train its networks alone, or import the published table"
        )

    # ------------------------------------------------------------------ as graphs

    @property
    def most_nodes(self) -> int:
        """The blocks of six modules, input, stem and output."""
        return int(MOST * self.options["blocks"] + 3)

    def graphs(self, genes: Genes) -> Graphs:
        """Nodes ``input``, ``stem``, the blocks, ``output``. A block is named by what it does to the shape.

        A node reads the sum of the nodes that feed it, so a shortcut without weights is an edge past its block.
        """
        genes = self._batch(genes)
        labels = ("input", "stem", *KINDS, "output")
        n, blocks = len(genes), self.options["blocks"]
        plain = labels.index(KINDS[0])
        operations = np.full((n, self.most_nodes), plain, dtype=np.int16)
        operations[:, :2] = (0, 1)
        # An absent module looks like another stem, and is left out.
        operations[:, 2:-1:blocks] = genes + (_FIRST + np.int8(plain - 1))
        operations[:, -1] = len(labels) - 1
        present = np.ones(operations.shape, dtype=bool)
        present[:, 2:-1] = np.repeat(genes + _FIRST > 0, blocks, axis=1)
        return chain(present, operations == plain, operations, labels)


def _broken_rule(row: Genes) -> tuple[str, str]:
    """(field, message) of a row (6,) that is no network of this space."""
    codes = row + _FIRST
    gap = np.flatnonzero((codes[1:] > 0) & (codes[:-1] == 0))
    if len(gap):
        last = int(gap[0]) + 2
        return f"module{last}", f"is {int(codes[last - 1])}, but there is no module{last - 1} before it: it is 0"
    halvings, doublings = int(np.isin(codes, HALVING).sum()), int(np.isin(codes, DOUBLING).sum())
    if not HALVINGS[0] <= halvings <= HALVINGS[1]:
        return "modules", f"halves the resolution {halvings} times, allowed are {HALVINGS[0]} to {HALVINGS[1]}"
    return "modules", f"doubles the channels {doublings} times, allowed are {DOUBLINGS[0]} to {DOUBLINGS[1]}"


def _costs(options: dict[str, Any]) -> IntArray:
    """(6400, 2): parameters and MACs of all rows, 0 of those that are not in the space."""
    codes = _GENES[_FEASIBLE] + _FIRST
    fixed, side = stem(options)
    widths = [options["channels"] << doublings for doublings in range(DOUBLINGS[1] + 1)]
    sides = [side]
    for _ in range(HALVINGS[1]):
        sides.append(halved(sides[-1]))
    # By what came before (doublings, halvings) and code; what would lead too far does not come up.
    modules = np.zeros((len(widths), len(sides), 5, 2), dtype=np.int64)
    for doublings, halvings, code in product(range(len(widths)), range(len(sides)), range(1, 5)):
        after = (doublings + (code in DOUBLING), halvings + (code in HALVING))
        if after[0] < len(widths) and after[1] < len(sides):
            modules[doublings, halvings, code] = _module(
                code, widths[doublings], widths[after[0]], sides[after[1]], options["blocks"]
            )
    doubles, halves = np.isin(codes, DOUBLING), np.isin(codes, HALVING)
    before = (np.cumsum(doubles, axis=1) - doubles, np.cumsum(halves, axis=1) - halves)
    heads = np.array([classifier(options, width) for width in widths])
    result = np.zeros((len(_GENES), 2), dtype=np.int64)
    result[_FEASIBLE] = fixed + modules[*before, codes].sum(axis=1) + heads[doubles.sum(axis=1)]
    return result


def _module(code: int, inputs: int, outputs: int, side: int, blocks: int) -> IntArray:
    """(2,): residual blocks of two 3×3 convolutions, the first with a 1×1 convolution if it changes the shape."""
    inside = convolution(9, outputs, outputs, side)
    total = convolution(9, inputs, outputs, side) + inside + 2 * (blocks - 1) * inside
    return total + convolution(1, inputs, outputs, side) if code > 1 else total
