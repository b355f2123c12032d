"""What a search space is: named categorical choices, and everything that follows from a row of them.

A batch of architectures is an ``int8`` array ``(n, d)`` of option indices, called *genes*. All methods take and
return such arrays; none loops over architectures in Python except where text is made.

A space states which rows are the same architecture (``identity``):

``"function"``
    Rows that compute the same function when trained alone share one canonical row.
``"row"``
    Only equal rows are the same; ``canonical`` is the identity map.

Errors::

    ValueError
    ├── InvalidSpace           the space itself is wrong (options, restriction); carries `field`
    ├── InvalidArchitecture    a row of genes or a config is wrong; carries `row` and `field`
    └── Unsupported            this space cannot do what was asked (for example: it has no super-network)
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias, final

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import nn

    from search_spaces.supernets.supernet import Supernet

Genes: TypeAlias = NDArray[np.int8]
Bools: TypeAlias = NDArray[np.bool_]
IntArray: TypeAlias = NDArray[np.int64]
FloatArray: TypeAlias = NDArray[np.floating[Any]]
Option: TypeAlias = str | int | float
Identity: TypeAlias = Literal["function", "row"]

MAX_OPTIONS = 127
COSTS = frozenset({"params", "macs"})
"""What can be counted without building a network."""

KEY_VERSION = 1
"""Raised whenever canonical rows or their bytes change: keys of two versions never meet."""

_LISTED = 50
"""Names and options in one message."""

_ROUNDS = 64
"""Bound of every rejection loop: a space that yields too little returns fewer rows instead of spinning."""

_SMALL = 1 << 16
"""Architectures of a space that may be drawn whole at once."""


class InvalidSpace(ValueError):
    """The definition or the restriction of a space is wrong; ``field`` names the option or choice."""

    def __init__(self, message: str, field: str = "") -> None:
        super().__init__(f"{field}: {message}" if field else message)
        self.message = message
        self.field = field


class InvalidArchitecture(ValueError):
    """Row ``row`` of a batch is not in the space; ``field`` names the offending choice."""

    def __init__(self, message: str, *, row: int, field: str) -> None:
        super().__init__(f"row {row}: {field}: {message}" if field else f"row {row}: {message}")
        self.message = message
        self.row = row
        self.field = field


class Unsupported(ValueError):
    """The space has no such thing as what was asked for; the message says why."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One categorical decision. ``options`` are JSON scalars and append-only between releases."""

    name: str
    options: tuple[Option, ...]

    def __post_init__(self) -> None:
        if not self.name:
            raise InvalidSpace("a choice needs a name", "name")
        if not 1 <= len(self.options) <= MAX_OPTIONS:
            raise InvalidSpace(f"needs 1 to {MAX_OPTIONS} options, has {len(self.options)}", self.name)
        if len(set(self.options)) != len(self.options):
            raise InvalidSpace(f"options repeat: {list(self.options)}", self.name)


@dataclass(frozen=True, slots=True)
class Graphs:
    """Operations on nodes, padded to the largest graph of the batch.

    ``adjacency`` (n, v, v) bool, ``[i, a, b]`` says that node a feeds node b and nodes are in topological order;
    ``operations`` (n, v) int16 indices into ``labels``, -1 where padded.
    """

    adjacency: Bools
    operations: NDArray[np.int16]
    labels: tuple[str, ...]


class SearchSpace(ABC):
    """A finite set of architectures. Final classes implement the abstract methods and nothing else."""

    name: str
    choices: tuple[Choice, ...]
    options: Mapping[str, Any]
    identity: Identity
    uniform: bool
    """Whether `sample` is uniform over architectures (canonical rows); if not, it is uniform over rows."""
    counted: frozenset[str]
    """The names of the costs that `cost` gives: params and macs, or none where nothing is known of the networks."""

    def __init__(
        self,
        name: str,
        choices: Iterable[Choice],
        options: Mapping[str, Any],
        *,
        identity: Identity = "function",
        uniform: bool,
        counted: frozenset[str] = COSTS,
        why: Callable[[Genes], tuple[str, str]] | None = None,
    ) -> None:
        """``why`` tells for a row (d,), options in range, that is not feasible: (field, message). `check` asks it."""
        self.name = name
        self.choices = tuple(choices)
        self.options = dict(options)
        self.identity = identity
        self.uniform = uniform
        self.counted = counted
        self._why = why
        if identity not in ("function", "row"):
            raise InvalidSpace(f"is {identity!r}, must be 'function' or 'row'", "identity")
        names = [choice.name for choice in self.choices]
        if not names:
            raise InvalidSpace("a space needs at least one choice", "choices")
        if len(set(names)) != len(names):
            raise InvalidSpace(f"choice names repeat: {sorted({n for n in names if names.count(n) > 1})}", "choices")
        self._sizes: NDArray[np.int16] = np.array([len(choice.options) for choice in self.choices], dtype=np.int16)
        # (d, widest) — which options a restriction has left.
        self._allowed: Bools = np.arange(self._sizes.max())[None, :] < self._sizes[:, None]
        self._restricted = False

    # ------------------------------------------------------------------ what a space must say

    @abstractmethod
    def active(self, genes: Genes) -> Bools:
        """(n, d): which choices have any effect in each row. Depends on active choices only."""

    @abstractmethod
    def cost(self, genes: Genes) -> dict[str, IntArray]:
        """The `counted` costs, (n,) each, of the network as built from these very rows, counted analytically.

        ``params`` are weights and biases; ``macs`` are multiply–accumulate operations of convolutions, linear layers
        and products of activations (attention, messages along a graph) for one input.
        """

    @property
    @abstractmethod
    def cardinality(self) -> int | None:
        """How many architectures (canonical rows) the restriction leaves, exactly; None where it is not known."""

    @abstractmethod
    def graphs(self, genes: Genes) -> Graphs:
        """The computation graphs, operations on nodes."""

    @property
    @abstractmethod
    def most_nodes(self) -> int:
        """Nodes of the largest graph that `graphs` gives for any row: how wide an encoding of graphs must be."""

    @abstractmethod
    def extremes(self) -> Genes:
        """(2, d) canonical rows: the network with the fewest and the one with the most MACs, restrictions respected.

        Two valid rows that lie far apart where MACs are not `counted`.
        """

    @abstractmethod
    def input_shape(self, row: Genes) -> tuple[int, ...]:
        """The shape of one image that the network of ``row`` (d,) reads: (channels, height, width).

        Raises `Unsupported` where networks read something else than images; `inputs` serves all.
        """

    @abstractmethod
    def inputs(self, row: Genes, batch: int, rng: np.random.Generator) -> tuple[NDArray[Any], ...]:
        """Random inputs that fit the network of ``row`` (d,): it is called with them in this order, as tensors.

        The first axis of each is ``batch``. Images and features are float32, tokens int64. `images` serves spaces of
        image networks. Raises `Unsupported` where a space builds no networks.
        """

    @abstractmethod
    def build(self, row: Genes) -> nn.Module:
        """A freshly initialised network for one row ``(d,)``. Raises `Unsupported` where a space builds none."""

    @abstractmethod
    def supernet(self) -> Supernet:
        """The weight-sharing super-network. Raises `Unsupported` where a space has none."""

    @abstractmethod
    def _draw(self, count: int, rng: np.random.Generator) -> Genes:
        """``count`` rows, repeats allowed, uniform over architectures if ``uniform`` else over rows.

        Keeps to the restriction (`allowed`); `sample` drops what is invalid. `_draw_rows` serves spaces without
        structure.
        """

    @abstractmethod
    def _merge(self, genes: Genes) -> Genes:
        """Maps rows (inactive choices already 0) to their class's canonical row; idempotent."""

    @abstractmethod
    def _feasible(self, genes: Genes) -> Bools:
        """(n,): rows, all options in range, that can be built."""

    @abstractmethod
    def _write(self, genes: Genes) -> list[str]:
        """Each row in the notation of the field. Raises `Unsupported` where there is none; `no_notation` says so."""

    @abstractmethod
    def _parse(self, text: str) -> Sequence[int]:
        """The genes of one such text. Raises `InvalidArchitecture` as if it were row 0, or `Unsupported`."""

    # ------------------------------------------------------------------ what follows

    @property
    @final
    def digest(self) -> str:
        """Identifies (plug-in, options, identity, key version): keys are unique within it. Hex, 32 digits."""
        stated = [self.name, self.options, self.identity, KEY_VERSION]
        text = json.dumps(stated, sort_keys=True, separators=(",", ":"))
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    @property
    @final
    def sizes(self) -> NDArray[np.int16]:
        """(d,): how many options each choice has, restricted or not."""
        return self._sizes

    @property
    @final
    def allowed(self) -> Bools:
        """(d, widest): options that the restriction leaves, False where a choice has no such option."""
        return self._allowed

    @final
    def valid(self, genes: Genes) -> Bools:
        """(n,): rows of this space, restrictions included.

        A restriction binds the canonical row, which is the one that is built; an inactive choice is never restricted.
        """
        genes = self._batch(genes)
        # As unsigned bytes, negative genes are too large as well.
        inside = (genes.view(np.uint8) < self._sizes.astype(np.uint8)).all(axis=1)
        rows = genes if inside.all() else genes[inside]
        result = np.zeros(len(genes), dtype=bool)
        if len(rows):
            result[inside] = self._feasible(rows)
            if self._restricted:
                result[inside] &= ~self._masked(rows).any(axis=1)
        return result

    @final
    def check(self, genes: Any) -> Genes:
        """The same genes as an int8 array, or `InvalidArchitecture` that names the first bad row and choice."""
        width = len(self.choices)
        try:
            array = np.asarray(genes)
        except ValueError:  # rows of different lengths
            row = [_is_row(each, width) for each in genes].index(False)
            raise InvalidArchitecture(
                f"a row has {width} genes, got {genes[row]!r:.200}", row=row, field="genes"
            ) from None
        if array.ndim != 2 or array.shape[1] != width:
            shape = "x".join(map(str, array.shape))
            raise InvalidArchitecture(f"a row has {width} genes, got an array of {shape}", row=0, field="genes")
        if not np.issubdtype(array.dtype, np.integer):
            raise InvalidArchitecture(f"genes are integers, got {array.dtype}", row=0, field="genes")
        outside = (array < 0) | (array >= self._sizes)
        if outside.any():
            row, column = (int(i) for i in np.argwhere(outside)[0])
            choice = self.choices[column]
            raise InvalidArchitecture(
                f"gene {int(array[row, column])} is out of range, allowed are 0 to {len(choice.options) - 1} "
                f"for {_few(choice.options)}",
                row=row,
                field=choice.name,
            )
        checked = array.astype(np.int8)
        bad = ~self.valid(checked)
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            one = checked[row : row + 1]
            if self._feasible(one)[0]:
                column = int(np.flatnonzero(self._masked(one)[0])[0])
                choice = self.choices[column]
                left = [o for o, keep in zip(choice.options, self._allowed[column], strict=False) if keep]
                built = choice.options[int(self.canonical(one)[0, column])]
                message = f"option {built!r} is restricted, allowed are {_few(left)}"
                if built != choice.options[int(one[0, column])]:
                    message += " (in the canonical row, which is the one that is built)"
                raise InvalidArchitecture(message, row=row, field=choice.name)
            field, message = self._why(one[0]) if self._why else ("", "cannot be built in this space")
            raise InvalidArchitecture(message, row=row, field=field)
        return checked

    @final
    def canonical(self, genes: Genes) -> Genes:
        """The row that stands for each row's architecture; idempotent, the identity map under identity='row'."""
        genes = self._batch(genes)
        if self.identity == "row":
            return genes.copy()
        return self._merge(np.where(self.active(genes), genes, np.int8(0)).astype(np.int8))

    @final
    def keys(self, genes: Genes) -> list[str]:
        """128-bit BLAKE2b of each canonical row, hex; unique within `digest`, stable across releases."""
        rows = np.ascontiguousarray(self.canonical(genes))
        blake, width, data = hashlib.blake2b, rows.shape[1], rows.tobytes()
        return [blake(data[i : i + width], digest_size=16).hexdigest() for i in range(0, len(data), width)]

    @final
    def sample(self, count: int, rng: np.random.Generator) -> Genes:
        """At most ``count`` distinct valid canonical rows: fewer when the space is (nearly) exhausted."""
        found = np.empty((0, len(self.choices)), dtype=np.int8)
        everything = self.cardinality
        for attempt in range(_ROUNDS):
            missing = count - len(found)
            if missing <= 0 or len(found) == everything:
                break
            # A large space yields nearly all at once; a small one needs many draws for its last rows.
            draws = max(missing * min(1 + attempt, 2), 16 << min(attempt, 6))
            if everything is not None and everything <= _SMALL:
                draws = max(draws, _draws(len(found), count, everything))
            drawn = self._draw(draws, rng)
            fresh = self.canonical(drawn[self.valid(drawn)])
            found = distinct(np.concatenate([found, fresh]))
        return found[:count]

    @final
    def mutate(self, genes: Genes, rng: np.random.Generator, rate: float | None = None) -> Genes:
        """Each row with every choice redrawn with probability ``rate`` (default 1/d), at least one active choice.

        A redrawn choice gets another allowed option, and choices that become active are drawn at random. Rows whose
        mutants stay outside the space, or the same architecture, after a bounded number of tries come back unchanged.
        The result is canonical.
        """
        genes = self._batch(genes)
        result = self.canonical(genes)
        todo = np.arange(len(genes))
        probability = 1.0 / len(self.choices) if rate is None else rate
        for _ in range(_ROUNDS):
            if not len(todo):
                break
            parents = genes[todo]
            active = self.active(parents)
            parents = np.where(active, parents, self._draw_rows(len(parents), rng)).astype(np.int8)
            hit = rng.random(parents.shape) < probability
            # Force one change among the choices that matter and that have an alternative.
            movable = active & (self._allowed.sum(axis=1) > 1)
            weight = rng.random(parents.shape) * movable
            forced = weight.argmax(axis=1)
            hit[np.arange(len(parents)), forced] |= movable.any(axis=1)
            children = np.where(hit, self._other_options(parents, rng), parents).astype(np.int8)
            mutants = self.canonical(children)
            moved = (mutants != result[todo]).any(axis=1) | ~movable.any(axis=1)
            good = moved & self.valid(children)
            result[todo[good]] = mutants[good]
            todo = todo[~good]
        return result

    @final
    def crossover(self, left: Genes, right: Genes, rng: np.random.Generator) -> Genes:
        """Uniform crossover, row by row; a choice active in one parent alone comes from that parent.

        Pairs whose children stay outside the space after a bounded number of tries give back ``left``.
        """
        left, right = self._batch(left), self._batch(right)
        if left.shape != right.shape:
            raise ValueError(f"left has shape {left.shape}, right {right.shape}: they must be equal")
        result = self.canonical(left)
        in_left, in_right = self.active(left), self.active(right)
        todo = np.arange(len(left))
        for _ in range(_ROUNDS):
            if not len(todo):
                break
            coin = rng.random((len(todo), left.shape[1])) < 0.5
            take = np.where(in_left[todo] == in_right[todo], coin, in_left[todo])
            children = np.where(take, left[todo], right[todo]).astype(np.int8)
            good = self.valid(children)
            result[todo[good]] = self.canonical(children[good])
            todo = todo[~good]
        return result

    @final
    def neighbours(self, row: Genes) -> Genes:
        """(k, d): the architectures at distance one of ``row`` (d,), canonical, distinct, valid, without its own.

        Distance one is another allowed option in one active choice of the canonical row; choices that become active by
        it take the first option that is allowed. The order is that of the choices.
        """
        own = self.canonical(np.asarray(row)[None])
        first = self._allowed.argmax(axis=1).astype(np.int8)
        start = np.where(self.active(own), own, first).astype(np.int8)
        column, option = np.nonzero(self._allowed & self.active(own)[0][:, None])
        changed = np.repeat(start, len(column), axis=0)
        changed[np.arange(len(column)), column] = option
        changed = self.canonical(changed[self.valid(changed)])
        return distinct(changed[(changed != own).any(axis=1)])

    @final
    def restrict(self, rules: Mapping[str, Sequence[Option]]) -> Self:
        """The same space with only the named options left per choice. Nothing is renumbered, so keys stay equal.

        Raises `InvalidSpace` for an unknown choice, an unknown option, or a choice left without any.
        """
        narrowed = copy.copy(self)
        allowed = self._allowed.copy()
        columns = {choice.name: column for column, choice in enumerate(self.choices)}
        for name, kept in rules.items():
            if name not in columns:
                raise InvalidSpace(f"no such choice, choices are {_few(columns)}", name)
            column, options = columns[name], self.choices[columns[name]].options
            unknown = [option for option in kept if option not in options]
            if unknown:
                raise InvalidSpace(f"no such option {unknown}, options are {_few(options)}", name)
            allowed[column, : len(options)] &= np.array([option in kept for option in options])
            if not allowed[column].any():
                raise InvalidSpace("the rules leave no option", name)
        narrowed._allowed = allowed
        narrowed._restricted = int(allowed.sum()) < int(self._sizes.sum())
        return narrowed

    @final
    def to_configs(self, genes: Genes) -> list[dict[str, Option]]:
        """Readable JSON: choice name → option, inactive choices left out (kept under identity='row')."""
        genes = self._batch(genes)
        shown = self.active(genes) if self.identity == "function" else np.ones(genes.shape, dtype=bool)
        return [
            {c.name: c.options[g] for c, g, keep in zip(self.choices, row, mask, strict=True) if keep}
            for row, mask in zip(genes.tolist(), shown.tolist(), strict=True)
        ]

    @final
    def from_configs(self, configs: Sequence[Mapping[str, Any] | str]) -> Genes:
        """The inverse of `to_configs`; choices left out are option 0 and must be inactive.

        A text is read as `from_notation` reads it. Raises `InvalidArchitecture` with the row and the field: unknown
        choice, unknown option, missing choice, text where the space has no notation.
        """
        genes = np.zeros((len(configs), len(self.choices)), dtype=np.int8)
        given = np.zeros(genes.shape, dtype=bool)
        columns = {choice.name: column for column, choice in enumerate(self.choices)}
        indices = [{option: i for i, option in enumerate(choice.options)} for choice in self.choices]
        for row, config in enumerate(configs):
            if isinstance(config, str):
                try:
                    genes[row], given[row] = self._read(config, row), True
                except Unsupported as error:
                    raise InvalidArchitecture(str(error), row=row, field="config") from None
                continue
            if not isinstance(config, Mapping):
                raise InvalidArchitecture("a config is an object of choices", row=row, field="config")
            for name, option in config.items():
                column = columns.get(name)
                if column is None:
                    raise InvalidArchitecture(f"no such choice, choices are {_few(columns)}", row=row, field=str(name))
                known = isinstance(option, str | int | float) and not isinstance(option, bool)
                index = indices[column].get(option) if known else None
                if index is None:
                    allowed = _few(self.choices[column].options)
                    raise InvalidArchitecture(f"no such option {option!r}, options are {allowed}", row=row, field=name)
                genes[row, column] = index
                given[row, column] = True
        missing = self.active(genes) & ~given
        if missing.any():
            row, column = (int(i) for i in np.argwhere(missing)[0])
            choice = self.choices[column]
            raise InvalidArchitecture(f"is missing, options are {_few(choice.options)}", row=row, field=choice.name)
        return self.check(genes)

    @final
    def notation(self, genes: Genes) -> list[str]:
        """Each row as the field writes it, as given, canonical or not. Raises `Unsupported` where there is no such."""
        return self._write(self._batch(genes))

    @final
    def from_notation(self, texts: Sequence[str]) -> Genes:
        """The inverse of `notation`. Raises `InvalidArchitecture` with the row, `Unsupported` as `notation` does."""
        rows = [self._read(text, row) for row, text in enumerate(texts)]
        return self.check(np.array(rows, dtype=np.int8).reshape(len(rows), len(self.choices)))

    # ------------------------------------------------------------------ for implementers

    @final
    def _draw_rows(self, count: int, rng: np.random.Generator) -> Genes:
        """Rows with each choice uniform over its allowed options."""
        # 24 random bits a gene: no option of at most 127 is favoured by more than 8e-6 of its share.
        counts = self._allowed.sum(axis=1).astype(np.float32)
        return self._nth_allowed((rng.random((count, len(counts)), dtype=np.float32) * counts).astype(np.int8))

    @final
    def _other_options(self, genes: Genes, rng: np.random.Generator) -> Genes:
        """For every gene another allowed option of the same choice, uniform; the same gene where there is none."""
        counts = self._allowed.sum(axis=1)
        columns = np.arange(len(self.choices))
        current = np.cumsum(self._allowed, axis=1)[columns, genes] - 1
        here = self._allowed[columns, genes]
        # Step 1..count-1 places round the ring of allowed options; a gene that is itself masked takes any.
        steps = 1 + np.floor(rng.random(genes.shape) * np.maximum(counts - 1, 1)).astype(np.int64)
        ranks = np.where(here, (current + steps) % counts, np.floor(rng.random(genes.shape) * counts).astype(np.int64))
        return np.where(counts > 1, self._nth_allowed(ranks), genes).astype(np.int8)

    @final
    def _nth_allowed(self, ranks: NDArray[np.integer[Any]]) -> Genes:
        if not self._restricted:
            return ranks.astype(np.int8)
        order = np.argsort(~self._allowed, axis=1, kind="stable").astype(np.int8)
        return np.asarray(order[np.arange(len(self.choices)), ranks])

    @final
    def no_notation(self) -> Unsupported:
        """What `_write` and `_parse` raise where the field has no notation."""
        return Unsupported(f"{self.name} has no notation: give a config, an object of choices and their options")

    @final
    def _read(self, text: Any, row: int) -> Sequence[int]:
        """The genes of one text; refusals name ``row``."""
        if not isinstance(text, str):
            raise InvalidArchitecture(f"must be text, got {text!r}", row=row, field="notation")
        try:
            return self._parse(text)
        except InvalidArchitecture as error:
            raise InvalidArchitecture(error.message, row=row, field=error.field) from None

    @final
    def _masked(self, genes: Genes) -> Bools:
        """(n, d): active choices of the canonical rows whose option the restriction has taken away."""
        rows = self.canonical(genes)
        return ~self._allowed[np.arange(len(self.choices)), rows] & self.active(rows)

    @final
    def _batch(self, genes: Genes) -> Genes:
        array = np.asarray(genes, dtype=np.int8)
        if array.ndim != 2 or array.shape[1] != len(self.choices):
            raise ValueError(f"{self.name}: genes must be (n, {len(self.choices)}), got {array.shape}")
        return array


def _is_row(genes: Any, width: int) -> bool:
    """Whether these are so many single values."""
    try:
        shape: tuple[int, ...] = np.shape(genes)
    except ValueError:
        return False
    return shape == (width,)


def _few(values: Iterable[Any]) -> str:
    """A list for a message, cut short where it is long."""
    listed = list(values)
    return str(listed) if len(listed) <= _LISTED else f"{listed[:_LISTED]} and {len(listed) - _LISTED} more"


def _draws(found: int, wanted: int, everything: int) -> int:
    """How many uniform draws give about ``wanted`` different ones of ``everything``, of which ``found`` are there.

    The collector of coupons needs everything / left draws for each further one.
    """
    left = everything - min(wanted, everything) + 0.5
    return math.ceil(everything * math.log((everything - found + 0.5) / left))


def images(shape: Sequence[int], batch: int, rng: np.random.Generator) -> tuple[NDArray[Any], ...]:
    """What `SearchSpace.inputs` gives for networks that read images of this shape: (batch, *shape), normal."""
    return (rng.standard_normal((batch, *shape), dtype=np.float32),)


def distinct(genes: Genes) -> Genes:
    """The rows without repeats, in order of first appearance."""
    if not len(genes):
        return genes
    width = -(-genes.shape[1] // 8)
    padded = np.zeros((len(genes), 8 * width), dtype=np.int8)
    padded[:, : genes.shape[1]] = genes
    # Sorting 64-bit hashes is many times faster than sorting rows.
    multipliers = np.random.default_rng(0).integers(2**64 - 1, size=width, dtype=np.uint64) | np.uint64(1)
    hashes = (padded.view(np.uint64) * multipliers).sum(axis=1, dtype=np.uint64)
    hashes = (hashes ^ (hashes >> np.uint64(32))) * multipliers[0]
    order = np.argsort(hashes, kind="stable")
    same = hashes[order[1:]] == hashes[order[:-1]]
    twins = np.flatnonzero(same)
    if not np.array_equal(padded[order[twins]], padded[order[twins + 1]]):
        # Two different rows share a hash: sort the rows themselves.
        first = np.unique(np.ascontiguousarray(genes).view(f"V{genes.shape[1]}").ravel(), return_index=True)[1]
        return genes[np.sort(first)]
    keep = np.ones(len(genes), dtype=bool)
    keep[order[1:][same]] = False
    return genes[keep]
