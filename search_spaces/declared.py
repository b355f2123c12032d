"""Spaces that a user declares: named choices, some of which exist only where others are chosen so.

Nothing is known of the networks: the user trains them, or imports what was measured. Equivalences united under
``identity="function"``: choices that are not active. Sound as far as the conditions say what has an effect.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn, final

import numpy as np

from search_spaces.space import (
    MAX_OPTIONS,
    Bools,
    Choice,
    Genes,
    Graphs,
    Identity,
    IntArray,
    InvalidSpace,
    Option,
    SearchSpace,
    Unsupported,
)

MAX_CHOICES = 16_384
MAX_DEEP = 64
"""Choices that the conditions of one choice may rest on, directly and through others."""
MAX_TOTAL = 1 << 18
"""Options of all choices together, and choices that the conditions of all choices together rest on: a space is read
while its user waits."""
MAX_TEXT = 200
"""Characters of a name, and of an option that is text."""
MAX_NODES = 512
"""Choices of a space that is still shown as a graph: a graph takes memory with their square."""
_WHOLE = 2**53
"""Whole numbers up to here are the same in every JSON reader."""

Conditions = list[tuple[int, frozenset[int]]]
"""(column of an earlier choice, indices of its options), by column: all of them must hold."""
Needs = dict[int, frozenset[int]]
"""Column → options: all that a choice's activity asks of earlier choices, also of those that its conditions rest on."""
Parents = list[tuple[int, frozenset[int]] | None]
"""For each choice the one condition that its others follow from, or None where there is no condition."""


@final
class Declared(SearchSpace):
    """The option ``choices`` is a list of at least one object ``{"name": ..., "options": [...], "when": {...}}``.

    - ``name``: text, unique.
    - ``options``: 1 to 127 different texts or numbers. 3.0 is 3; there are no truth values.
    - ``when``, left out where the choice always exists: ``{earlier choice: [some of its options], ...}``. The choice is
      active where every one of these choices is active itself and has one of the options listed.

    Sampling is uniform over architectures where the conditions form a forest, that is where each ``when`` comes down to
    the options of one earlier choice (what that one rests on may be named again); otherwise it is uniform over rows and
    the number of architectures is not known.

    Raises `InvalidSpace` that names the field, as in ``choices.1.when.depth``.
    """

    def __init__(self, *, identity: Identity = "function", choices: Any = None, **unknown: Any) -> None:
        for field in unknown:
            raise InvalidSpace("no such option, options are ['choices']", field)
        if isinstance(choices, str | bytes) or not isinstance(choices, Sequence):
            raise InvalidSpace('must be a list of objects {"name": "depth", "options": [1, 2, 3]}', "choices")
        if not 1 <= len(choices) <= MAX_CHOICES:
            raise InvalidSpace(f"must have 1 to {MAX_CHOICES} items, has {len(choices)}", "choices")
        made, conditions, needs = _read(choices)
        self._parents = _forest(conditions, needs)
        super().__init__(
            "declared",
            made,
            {"choices": [_stated(choice, when, made) for choice, when in zip(made, conditions, strict=True)]},
            identity=identity,
            uniform=self._parents is not None,
            counted=frozenset(),
        )
        self._tables = [
            (column, [(parent, np.isin(np.arange(MAX_OPTIONS), list(kept))) for parent, kept in when])
            for column, when in enumerate(conditions)
            if when
        ]

    # ------------------------------------------------------------------ rows

    def active(self, genes: Genes) -> Bools:
        """(n, d): the choices whose conditions hold."""
        genes = self._batch(genes)
        result = np.ones(genes.shape, dtype=bool)
        for column, conditions in self._tables:
            for parent, table in conditions:
                result[:, column] &= result[:, parent] & table[genes[:, parent]]
        return result

    def _merge(self, genes: Genes) -> Genes:
        return genes

    def _feasible(self, genes: Genes) -> Bools:
        return np.ones(len(genes), dtype=bool)

    def _draw(self, count: int, rng: np.random.Generator) -> Genes:
        genes = self._draw_rows(count, rng)
        if self._parents is None:
            return genes
        # An option is as likely as the number of architectures below it; what is not active is cut off afterwards.
        ways = self._ways(self._parents)
        for column in sorted({parent for parent, _ in filter(None, self._parents)}):
            total = sum(ways[column])
            edges = np.cumsum([each / total for each in ways[column]])[:-1]
            genes[:, column] = np.searchsorted(edges, rng.random(count), side="right")
        if self.identity == "row":
            # What is not active tells rows apart here, and no restriction binds it.
            free = (rng.random(genes.shape) * self._sizes).astype(np.int8)
            genes = np.where(self.active(genes), genes, free).astype(np.int8)
        return genes

    @property
    def cardinality(self) -> int | None:
        """Exact where the conditions form a forest, else None."""
        if self._parents is None:
            return None
        ways = zip(self._ways(self._parents), self._parents, strict=True)
        return math.prod(sum(each) for each, parent in ways if parent is None)

    def _ways(self, parents: Parents) -> list[list[int]]:
        """For each choice and option, how many settings it and the choices below it have, if it is active."""
        sizes = self._sizes.tolist()
        ways = [row[:size] for row, size in zip(self._allowed.astype(int).tolist(), sizes, strict=True)]
        rows = list(sizes)
        for column in reversed(range(len(sizes))):
            above = parents[column]
            if above is None:
                continue
            parent, kept = above
            inside, outside = sum(ways[column]), rows[column] if self.identity == "row" else 1
            ways[parent] = [n * (inside if option in kept else outside) for option, n in enumerate(ways[parent])]
            rows[parent] *= rows[column]
        return ways

    def extremes(self) -> Genes:
        """(2, d) canonical rows: the first option of every choice, and the last. Which costs more is not known."""
        first = self._allowed.argmax(axis=1)
        last = self._allowed.shape[1] - 1 - self._allowed[:, ::-1].argmax(axis=1)
        return self.canonical(np.stack([first, last]).astype(np.int8))

    def _write(self, genes: Genes) -> list[str]:
        raise self.no_notation()

    def _parse(self, text: str) -> Sequence[int]:
        raise self.no_notation()

    # ------------------------------------------------------------------ what is not known

    def cost(self, genes: Genes) -> dict[str, IntArray]:
        """Nothing is counted: empty."""
        self._batch(genes)
        return {}

    def input_shape(self, row: Genes) -> NoReturn:
        """Raises `Unsupported`."""
        raise _foreign("has no networks, so no input shape is known")

    def inputs(self, row: Genes, batch: int, rng: np.random.Generator) -> NoReturn:
        """Raises `Unsupported`."""
        raise _foreign("has no networks, so nothing that they read is known")

    def build(self, row: Genes) -> NoReturn:
        """Raises `Unsupported`."""
        raise _foreign("builds no networks")

    def supernet(self) -> NoReturn:
        """Raises `Unsupported`."""
        raise _foreign("has no super-network")

    @property
    def most_nodes(self) -> int:
        """All choices."""
        return len(self.choices)

    def graphs(self, genes: Genes) -> Graphs:
        """The active choices in a chain, in the order of their declaration, each labelled ``name=option``.

        Raises `Unsupported` for a space of more than 512 choices, or 32,767 options.
        """
        genes = self._batch(genes)
        if len(self.choices) > MAX_NODES:
            raise Unsupported(f"{len(self.choices)} choices are too many for a graph, at most {MAX_NODES} are shown")
        labels = tuple(f"{choice.name}={option}" for choice in self.choices for option in choice.options)
        if len(labels) > np.iinfo(np.int16).max:
            raise Unsupported(f"{len(labels)} options are too many for a graph, at most 32767 are shown")
        first = np.cumsum(self._sizes, dtype=np.int64) - self._sizes
        present = self.active(genes)
        longest = int(present.sum(axis=1).max(initial=0))
        order = np.argsort(~present, axis=1, kind="stable")[:, :longest]
        operations = np.where(present, genes + first, -1).astype(np.int16)
        operations = np.take_along_axis(operations, order, axis=1)
        chain = np.eye(longest, k=1, dtype=bool)
        there = operations >= 0
        return Graphs(chain & there[:, :, None] & there[:, None, :], operations, labels)


def _foreign(what: str) -> Unsupported:
    return Unsupported(
        f"a declared space {what}: train its architectures yourself and report the results (evaluator 'external'), "
        "or import what was measured"
    )


# ---------------------------------------------------------------------- reading a declaration


def _read(choices: Sequence[Any]) -> tuple[list[Choice], list[Conditions], list[Needs]]:
    """The choices, their conditions and their needs, or `InvalidSpace` that names the field."""
    made: list[Choice] = []
    conditions: list[Conditions] = []
    columns: dict[str, int] = {}
    later = {item["name"] for item in choices if isinstance(item, Mapping) and isinstance(item.get("name"), str)}
    needs: list[Needs] = []
    listed, followed = 0, 0
    for index, item in enumerate(choices):
        field = f"choices.{index}"
        if not isinstance(item, Mapping):
            raise InvalidSpace(f"must be an object with name and options, got {item!r:.200}", field)
        for key in item:
            if key not in ("name", "options", "when"):
                raise InvalidSpace("no such key, a choice has name, options and when", f"{field}.{key}")
        name = _text(f"{field}.name", item.get("name"))
        if name in columns:
            raise InvalidSpace(f"{name!r} is the name of choices.{columns[name]} too", f"{field}.name")
        made.append(Choice(name, _options(f"{field}.options", item.get("options"))))
        listed += len(made[-1].options)
        if listed > MAX_TOTAL:
            raise InvalidSpace(f"choices up to here have {listed:,} options, at most {MAX_TOTAL:,}", f"{field}.options")
        when, need = _when(f"{field}.when", item.get("when", {}), name, made, columns, needs, later)
        followed += len(need)
        if followed > MAX_TOTAL:
            message = f"conditions up to here rest on {followed:,} choices in all, at most {MAX_TOTAL:,} are followed"
            raise InvalidSpace(message, f"{field}.when")
        columns[name] = index
        conditions.append(when)
        needs.append(need)
    return made, conditions, needs


def _when(
    field: str,
    when: Any,
    name: str,
    made: Sequence[Choice],
    columns: Mapping[str, int],
    needs: Sequence[Needs],
    later: set[str],
) -> tuple[Conditions, Needs]:
    if not isinstance(when, Mapping):
        raise InvalidSpace(f"must be an object of earlier choices and lists of their options, got {when!r:.200}", field)
    result: Conditions = []
    need: Needs = {}
    for other, listed in when.items():
        here = f"{field}.{other}"
        if other == name:
            raise InvalidSpace("a choice cannot depend on itself", here)
        if other not in columns:
            wrong = "stands later in the list, conditions look back" if other in later else "no such choice"
            raise InvalidSpace(wrong, here)
        parent = columns[other]
        options = made[parent].options
        kept: list[int] = []
        if isinstance(listed, str | bytes) or not isinstance(listed, Sequence) or not listed:
            raise InvalidSpace(f"must be a list of at least one of its options, got {listed!r:.200}", here)
        for value in listed:
            option = _option(here, value)
            if option not in options:
                raise InvalidSpace(f"no such option {option!r}, options are {list(options)}", here)
            if options.index(option) in kept:
                raise InvalidSpace(f"option {option!r} is listed twice", here)
            kept.append(options.index(option))
        result.append((parent, frozenset(kept)))
        for column, allowed in {**needs[parent], parent: frozenset(kept)}.items():
            need[column] = need.get(column, allowed) & allowed
            if not need[column]:
                raise InvalidSpace(
                    f"can never hold: it and the other conditions leave no option of {made[column].name!r}", here
                )
    if len(need) > MAX_DEEP:
        raise InvalidSpace(f"rests on {len(need)} other choices, at most {MAX_DEEP} are followed", field)
    return sorted(result, key=lambda condition: condition[0]), need


def _text(field: str, value: Any) -> str:
    if not isinstance(value, str):
        raise InvalidSpace(f"must be text, got {value!r:.200}", field)
    if not 1 <= len(value) <= MAX_TEXT or not value.isprintable() or value != value.strip():
        raise InvalidSpace(f"must be 1 to {MAX_TEXT} printable characters, no space at either end", field)
    return value


def _option(field: str, value: Any) -> Option:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise InvalidSpace(f"an option is text or a number, got {value!r:.200}", field)
    if isinstance(value, str):
        return _text(field, value)
    if not abs(value) <= _WHOLE:
        raise InvalidSpace(f"a number must lie within ±2**53, got {value!r:.200}", field)
    return int(value) if value == int(value) else value


def _options(field: str, values: Any) -> tuple[Option, ...]:
    if isinstance(values, str | bytes) or not isinstance(values, Sequence):
        raise InvalidSpace(f"must be a list of texts or numbers, got {values!r:.200}", field)
    if not 1 <= len(values) <= MAX_OPTIONS:
        raise InvalidSpace(f"must have 1 to {MAX_OPTIONS} items, has {len(values)}", field)
    found = tuple(_option(f"{field}.{index}", value) for index, value in enumerate(values))
    # Compared as text: in a CSV file, or as a label, 3 and "3" are one.
    written: set[str] = set()
    for index, text in enumerate(map(str, found)):
        if text in written:
            raise InvalidSpace(f"{text!r} is there already", f"{field}.{index}")
        written.add(text)
    return found


def _stated(choice: Choice, when: Conditions, choices: Sequence[Choice]) -> dict[str, Any]:
    """A choice as it is stored: the same however it was written."""
    conditions = {choices[parent].name: [choices[parent].options[i] for i in sorted(kept)] for parent, kept in when}
    return {"name": choice.name, "options": list(choice.options), "when": conditions}


def _forest(conditions: Sequence[Conditions], needs: Sequence[Needs]) -> Parents | None:
    """Of each choice the condition that its others follow from; None if some choice has no such."""
    parents: Parents = []
    for when, need in zip(conditions, needs, strict=True):
        if not when:
            parents.append(None)
            continue
        # Conditions look back, so the latest choice named is the only one that may rest on all the others.
        parent, kept = when[-1]
        if need != {**needs[parent], parent: kept}:
            return None
        parents.append((parent, kept))
    return parents
