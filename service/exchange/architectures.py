"""From the columns of a batch to rows of genes, vectorised; what is wrong is then looked at row by row."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import chain, compress, repeat
from operator import ne
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from search_spaces.space import Bools, Genes, InvalidArchitecture, Option, SearchSpace, Unsupported
from service.exchange import cells
from service.exchange.cells import Bad, loaded
from service.exchange.layout import CONFIG
from service.exchange.readers import Batch

Note = Callable[[int, str, str], None]
"""(index in the batch, target, message)"""


def option_text(option: Option) -> str:
    """An option as a cell of a CSV: texts that could be taken for something else, and numbers, as JSON."""
    if isinstance(option, str):
        try:
            json.loads(option)
        except ValueError:
            return option if option else '""'
    return json.dumps(option)


@final
class Architectures:
    """Reads architectures of one space, by ``config``, ``config.CHOICE``, ``genes`` or ``arch``."""

    def __init__(self, space: SearchSpace) -> None:
        self._space = space
        self._width = len(space.choices)
        self._places = {choice.name: place for place, choice in enumerate(space.choices)}
        self._codes = {
            (choice.name, option): (place << 7) | index
            for place, choice in enumerate(space.choices)
            for index, option in enumerate(choice.options)
        }
        self._options = [{option: index for index, option in enumerate(choice.options)} for choice in space.choices]
        self._texts = [_by_text(choice.options) for choice in space.choices]

    def genes(self, batch: Batch, good: Bools, note: Note) -> Genes:
        """(n, d) canonical genes. Rows that name no architecture, or two, are noted; only ``good`` ones are read."""
        genes = np.zeros((batch.count, self._width), dtype=np.int8)
        said = np.zeros(batch.count, dtype=bool)
        sources: list[tuple[str, Callable[[Batch, Bools, Note], tuple[Genes, Bools, Bools]]]] = []
        columns = batch.columns
        if "config" in columns:
            sources.append(("config", self._by_config))
        if any(target.startswith(CONFIG) for target in columns):
            sources.append((CONFIG + "*", self._by_choice))
        if "genes" in columns:
            sources.append(("genes", self._by_genes))
        if "arch" in columns:
            sources.append(("arch", self._by_notation))
        wrong = np.zeros(batch.count, dtype=bool)
        for target, source in sources:
            found, there, bad = source(batch, good, note)
            wrong |= bad
            found = self._space.canonical(found)
            differs = said & there & ~bad & ~wrong & (found != genes).any(axis=1)
            for index in np.flatnonzero(differs).tolist():
                note(index, target.removesuffix(".*"), "names another architecture than the row's other columns")
            wrong |= differs
            fresh = there & ~said
            genes[fresh] = found[fresh]
            said |= there
        for index in np.flatnonzero(good & ~said & ~wrong).tolist():
            note(index, "config", "the row names no architecture: config, genes or arch")
        return genes

    # ------------------------------------------------------------------ each returns genes, said, wrong

    def _by_config(self, batch: Batch, good: Bools, note: Note) -> tuple[Genes, Bools, Bools]:
        values = batch.columns["config"] if good.all() else _masked(batch.columns["config"], good)
        begins = _begins(values)
        first, places = list(compress(values, begins.tolist())), np.cumsum(begins) - 1
        if str in set(map(type, first)):
            first = [loaded(value, dict, "an object of choices") if type(value) is str else value for value in first]
        read, wrong = self._read(first)
        genes, wrong = read[places], wrong[places]
        for index in np.flatnonzero(wrong).tolist():
            value = values[index] if type(values[index]) is dict else first[places[index]]
            if isinstance(value, Bad):
                note(index, "config", value.message)
            elif type(value) is not dict:
                note(index, "config", f"must be an object of choices, is {value!r:.80}")
            else:
                wrong[index] = not self._exactly(genes, index, value, "config", note)
        return genes, cells.said(values), wrong

    def _read(self, configs: Sequence[Any]) -> tuple[Genes, Bools]:
        """Genes (n, d), and which configs have to be looked at one by one (n,). None is neither."""
        genes, wrong = np.zeros((len(configs), self._width), dtype=np.int8), cells.said(configs)
        there = np.fromiter((type(config) is dict for config in configs), bool, len(configs))
        objects = _objects(configs)
        lengths = np.fromiter(map(len, objects), np.int64, len(objects))
        rows = np.repeat(np.flatnonzero(there), lengths)
        try:
            if bool in set(map(type, chain.from_iterable(map(dict.values, objects)))):
                raise TypeError  # True is found as 1
            items = chain.from_iterable(map(dict.items, objects))
            codes = np.fromiter(map(self._codes.get, items, repeat(-1)), np.int64, len(rows))
        except TypeError:
            codes = np.full(len(rows), -1)  # lists and objects are no options: each row is looked at
        given = np.zeros(genes.shape, dtype=bool)
        known = codes >= 0
        genes[rows[known], codes[known] >> 7] = codes[known] & 127
        given[rows[known], codes[known] >> 7] = True
        incomplete = self._incomplete(genes, given)
        incomplete[rows[~known]] = True
        wrong[there] = incomplete[there]
        return genes, wrong

    def _by_choice(self, batch: Batch, good: Bools, note: Note) -> tuple[Genes, Bools, Bools]:
        genes = np.zeros((batch.count, self._width), dtype=np.int8)
        given, wrong = np.zeros(genes.shape, dtype=bool), np.zeros(batch.count, dtype=bool)
        for target, values in batch.columns.items():
            place = self._places.get(target.removeprefix(CONFIG)) if target.startswith(CONFIG) else None
            if place is None:
                continue
            codes = self._column(values, self._texts[place] if batch.texts else self._options[place])
            given[:, place] = codes >= 0
            genes[:, place] = np.where(codes >= 0, codes, 0)
            unknown = (codes == _UNKNOWN) & good
            for index in np.flatnonzero(unknown).tolist():
                options = list(self._space.choices[place].options)
                listed = ", ".join(repr(option) for option in options[:12]) + (", …" if len(options) > 12 else "")
                note(index, target, f"no such option {values[index]!r:.80}, options are {listed}")
            wrong |= unknown
        said = (given.any(axis=1) | wrong) & good
        incomplete = said & ~wrong & self._incomplete(genes, given)
        for index in np.flatnonzero(incomplete).tolist():
            config = {
                c.name: c.options[g]
                for c, g, on in zip(self._space.choices, genes[index].tolist(), given[index].tolist(), strict=True)
                if on
            }
            incomplete[index] = not self._exactly(genes, index, config, "config", note)
        return genes, said, wrong | incomplete

    def _by_genes(self, batch: Batch, good: Bools, note: Note) -> tuple[Genes, Bools, Bools]:
        values = _masked(batch.columns["genes"], good)
        if any(type(value) is str for value in values):
            values = [value if value is None else loaded(value, list, "a list of integers") for value in values]
        said = np.fromiter((value is not None for value in values), bool, len(values))
        genes, wrong = np.zeros((len(values), self._width), dtype=np.int8), said.copy()
        lists = [(i, v) for i, v in enumerate(values) if type(v) is list and len(v) == self._width]
        rows = np.fromiter((index for index, _ in lists), np.int64, len(lists))
        if set(map(type, chain.from_iterable(v for _, v in lists))) <= {int}:
            flat = chain.from_iterable(value for _, value in lists)
            # What no gene can be becomes -1: huge integers fit no array.
            table = np.fromiter((g if 0 <= g <= 127 else -1 for g in flat), np.int8, len(lists) * self._width)
            table = table.reshape(len(lists), self._width)
            fits = self._space.valid(table)
            genes[rows[fits]] = table[fits]
            wrong[rows[fits]] = False
        for index in np.flatnonzero(wrong).tolist():
            value = values[index]
            if isinstance(value, Bad):
                note(index, "genes", value.message)
            elif type(value) is not list or any(type(gene) is not int for gene in value):
                note(index, "genes", f"must be a list of {self._width} integers, is {value!r:.80}")
            else:
                try:
                    genes[index] = self._space.check([value])[0]
                    wrong[index] = False
                except (InvalidArchitecture, OverflowError) as error:
                    note(index, "genes", _said(error))
        return genes, said, wrong

    def _by_notation(self, batch: Batch, good: Bools, note: Note) -> tuple[Genes, Bools, Bools]:
        values = _masked(batch.columns["arch"], good)
        said = np.fromiter((value is not None for value in values), bool, len(values))
        genes, wrong = np.zeros((len(values), self._width), dtype=np.int8), said.copy()
        known: dict[str, Genes | str] = {}
        for index, value in enumerate(values):
            if value is None:
                continue
            if type(value) is not str:
                note(index, "arch", f"must be a text in the notation of the space, is {value!r:.80}")
                continue
            if value not in known:
                try:
                    known[value] = self._space.from_notation([value])[0]
                except (InvalidArchitecture, Unsupported) as error:
                    known[value] = _said(error)
            found = known[value]
            if isinstance(found, str):
                note(index, "arch", found)
            else:
                genes[index], wrong[index] = found, False
        return genes, said, wrong

    # ------------------------------------------------------------------ shared

    def _column(self, values: Sequence[Any], options: Mapping[Any, int]) -> NDArray[np.int64]:
        """(n,): option indices, `_ABSENT` for None, `_UNKNOWN` for what is no option."""
        try:
            codes = np.fromiter((options.get(value, _UNKNOWN) for value in values), np.int64, len(values))
        except TypeError:
            codes = np.array([_lookup(options, value) for value in values], dtype=np.int64)
        if None in values:
            codes[[value is None for value in values]] = _ABSENT
        if bool in set(map(type, values)):
            codes[[type(value) is bool for value in values]] = _UNKNOWN
        return codes

    def _incomplete(self, genes: Genes, given: Bools) -> Bools:
        """(n,): rows that leave out a choice that matters, or that are not in the space."""
        return np.asarray((self._space.active(genes) & ~given).any(axis=1) | ~self._space.valid(genes))

    def _exactly(self, genes: Genes, index: int, config: Mapping[str, Any], target: str, note: Note) -> bool:
        """Reads one config as the space does; notes what the space says if it refuses."""
        try:
            genes[index] = self._space.from_configs([config])[0]
        except InvalidArchitecture as error:
            field = f"{target}.{error.field}" if error.field and error.field != target else target
            note(index, field, error.message)
            return False
        return True


_ABSENT, _UNKNOWN = -1, -2


def _masked(values: Sequence[Any], good: Bools) -> list[Any]:
    return [value if ok else None for value, ok in zip(values, good.tolist(), strict=True)]


def _objects(configs: Sequence[Any]) -> Sequence[dict[str, Any]]:
    if set(map(type, configs)) == {dict}:
        return configs
    return [config for config in configs if type(config) is dict]


def _begins(configs: Sequence[Any]) -> Bools:
    """(n,): where a config is another one than before. Tables hold many values of each architecture, one by one."""
    begins = np.ones(len(configs), dtype=bool)
    objects = _objects(configs)
    if bool in set(map(type, chain.from_iterable(map(dict.values, objects)))):
        return begins  # True and 1 are equal
    # What is nested deeply cannot be compared, and is no config either.
    with suppress(RecursionError):
        begins[1:] = np.fromiter(map(ne, configs[1:], configs), bool, len(configs) - 1)
    return begins


def _by_text(options: Sequence[Option]) -> dict[str, int]:
    """Cell → option index: as `option_text` writes them, and plain where no other option is written so."""
    exact = {option_text(option): index for index, option in enumerate(options)}
    plain = {str(option): index for index, option in enumerate(options) if option != ""}
    return {**plain, **exact}


def _lookup(options: Mapping[Any, int], value: Any) -> int:
    try:
        return options.get(value, _UNKNOWN)
    except TypeError:
        return _UNKNOWN


def _said(error: Exception) -> str:
    if isinstance(error, InvalidArchitecture):
        return f"{error.field}: {error.message}" if error.field and error.field != "genes" else error.message
    return "holds an integer that is too large" if isinstance(error, OverflowError) else str(error)
