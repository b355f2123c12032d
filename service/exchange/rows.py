"""Batches checked and turned into records."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from typing import Any, TypeAlias, final

import numpy as np
from numpy.typing import NDArray

from search_spaces.space import Genes, SearchSpace
from service.core.errors import Invalid
from service.core.metrics import Circumstances, Scope, metric
from service.exchange import cells
from service.exchange.architectures import Architectures
from service.exchange.cells import Bad
from service.exchange.layout import METRIC_NAME, METRICS, Layout
from service.exchange.readers import Batch
from service.exchange.report import Errors
from service.exchange.spool import Records, record_type, split_keys

MOST_DISTINCT = 100_000
"""Different metrics, contexts and workers in one file: they are kept in memory."""

ContextOf: TypeAlias = Callable[[Circumstances, str], dict[str, Any]]
Column: TypeAlias = NDArray[Any]


@final
class Rows:
    """Checks the rows of one file, and keeps what their records refer to.

    Args:
        space: The space of the architectures.
        layout: Names the columns in errors.
        circumstances: Those of the study; a row's own split, seed, fidelity and device take their places.
        context_of: (circumstances, metric) → the context of a measurement.
        errors: Gets what is wrong.

    Attributes:
        metrics, contexts, workers: What numbers in records stand for.
        count, bad: Rows seen, and those of them with an error.
    """

    def __init__(
        self, space: SearchSpace, layout: Layout, circumstances: Circumstances, context_of: ContextOf, errors: Errors
    ) -> None:
        self._space = space
        self._layout = layout
        self._circumstances = circumstances
        self._context_of = context_of
        self._errors = errors
        self._architectures = Architectures(space)
        self._metrics, self._workers = _Numbered("metrics"), _Numbered("workers")
        self._ways, self._contexts = _Numbered("contexts"), _Numbered("contexts")
        self._resolved: dict[tuple[int, int], int | Bad] = {}
        self._batch = Batch(1, 0, {})
        self._good = np.ones(0, dtype=bool)
        self.count = 0
        self.bad = 0

    @property
    def metrics(self) -> list[str]:
        """Names of metrics."""
        return self._metrics.items

    @property
    def workers(self) -> list[str]:
        """Names of workers."""
        return self._workers.items

    @property
    def contexts(self) -> list[dict[str, Any]]:
        """Contexts."""
        return [json.loads(text) for text in self._contexts.items]

    def take(self, batch: Batch) -> Records:
        """The measurements of a batch's good rows; its bad rows are noted."""
        self._batch, self._good = batch, np.ones(batch.count, dtype=bool)
        for index, (field, message) in batch.broken.items():
            self._note(index, field, message)
        genes = self._architectures.genes(batch, self._good.copy(), self._note)
        hi, lo = self._keys(genes)
        row, names, value, shared = self._values()
        attempt = self._column("attempt", cells.attempt, -1)
        seconds = self._column("seconds", cells.seconds, 0.0)
        created = self._column("created_at", cells.time, -1)
        worker = self._column("worker", self._worker, -1)
        context = self._contexts_of(row, names)
        attempt = self._check_counted(genes, row, names, value, attempt)
        self.count += batch.count
        self.bad += int((~self._good).sum())
        kept = self._good[row]
        row, names = row[kept], names[kept]
        records = np.empty(len(row), dtype=record_type(genes.shape[1]))
        records["hi"], records["lo"], records["genes"] = hi[row], lo[row], genes[row]
        records["row"], records["metric"], records["context"] = batch.first + row, names, context[kept]
        records["value"], records["seconds"] = value[kept], seconds[row] * shared[kept]
        records["attempt"], records["worker"], records["created"] = attempt[kept], worker[row], created[row]
        return records

    # ------------------------------------------------------------------ values

    def _values(self) -> tuple[Column, Column, Column, Column]:
        """Per measurement: index of the row, number of the metric, value, share of the row's seconds."""
        columns = self._batch.columns
        rows: list[Column] = []
        names: list[Column] = []
        values: list[Column] = []
        if "metric" in columns or "value" in columns:
            self._long(rows, names, values)
        wide = [target for target in columns if target.startswith(METRICS)]
        for target in wide:
            self._wide(target, columns[target], rows, names, values)
        if "metrics" in columns:
            self._objects(columns["metrics"], rows, names, values)
        row = np.concatenate(rows) if rows else np.zeros(0, np.int64)
        name = np.concatenate(names) if names else np.zeros(0, np.int64)
        value = np.concatenate(values) if values else np.zeros(0)
        held = np.bincount(row, minlength=self._batch.count)
        for index in np.flatnonzero(self._good & (held == 0)).tolist():
            self._note(index, "value", "the row holds no value: metric and value, or metrics")
        # Seconds were paid for all measured values of a row together; what follows from the genes costs nothing.
        free = np.array([metric(each).scope is Scope.ANALYTIC for each in self.metrics], dtype=bool)
        paid = ~free[name] if len(name) else np.zeros(0, dtype=bool)
        paying = np.bincount(row[paid], minlength=self._batch.count)
        shared = np.where(paid, 1.0 / np.maximum(paying[row], 1), 0.0)
        return row, name, value, shared

    def _long(self, rows: list[Column], names: list[Column], values: list[Column]) -> None:
        batch = self._batch
        nothing: Sequence[Any] = [None] * batch.count
        given = batch.columns.get("metric", nothing)
        found = cells.parsed(given, batch.texts, self._metric, -1)
        value, there, bad = cells.numbers(batch.columns.get("value", nothing), batch.texts)
        for index, message in bad.items():
            self._note(index, "value", message)
        name = self._checked("metric", found, -1)
        named = cells.said(given)
        for index in np.flatnonzero(named & ~there).tolist():
            self._note(index, "value", "is missing: the row names a metric")
        for index in np.flatnonzero(there & ~named).tolist():
            self._note(index, "metric", "is missing: the row holds a value")
        held = np.flatnonzero((name >= 0) & there)
        rows.append(held)
        names.append(name[held])
        values.append(value[held])

    def _wide(
        self, target: str, given: Sequence[Any], rows: list[Column], names: list[Column], values: list[Column]
    ) -> None:
        value, there, bad = cells.numbers(given, self._batch.texts)
        for index, message in bad.items():
            self._note(index, target, message)
        held = np.flatnonzero(there)
        rows.append(held)
        names.append(np.full(len(held), self._metrics.number(target[len(METRICS) :]), dtype=np.int64))
        values.append(value[held])

    def _objects(self, given: Sequence[Any], rows: list[Column], names: list[Column], values: list[Column]) -> None:
        by_name: dict[str, tuple[list[int], list[Any]]] = {}
        for index, found in enumerate(given):
            if found is None:
                continue
            each = cells.loaded(found, dict, "an object of metrics")
            if isinstance(each, Bad):
                self._note(index, "metrics", each.message)
                continue
            for name, value in each.items():
                if METRIC_NAME.fullmatch(name) is None:
                    self._note(index, METRICS + name, "is no name of a metric: `name` or `name@device`")
                elif value is not None:
                    indices, some = by_name.setdefault(name, ([], []))
                    indices.append(index)
                    some.append(value)
        for name, (indices, some) in by_name.items():
            value, _, bad = cells.numbers(some, False)
            for place, message in bad.items():
                self._note(indices[place], METRICS + name, message)
            rows.append(np.array(indices, dtype=np.int64))
            names.append(np.full(len(indices), self._metrics.number(name), dtype=np.int64))
            values.append(value)

    # ------------------------------------------------------------------ contexts

    def _contexts_of(self, row: Column, names: Column) -> Column:
        """(m,): numbers of the measurements' contexts."""
        way = self._ways_of()
        pairs, places = np.unique(names * MOST_DISTINCT + way[row], return_inverse=True)
        found = [self._resolve(*divmod(pair, MOST_DISTINCT)) for pair in pairs.tolist()]
        contexts = cells.Parsed(found, places)
        for place, message in contexts.bad():
            index = int(row[place])
            self._note(index, "device" if self._is_own(way[index]) else "context", message)
        return np.array(contexts.good(0), dtype=np.int64)[places]

    def _resolve(self, name: int, way: int) -> int | Bad:
        found = self._resolved.get((name, way))
        if found is None:
            if len(self._resolved) == MOST_DISTINCT:
                raise Invalid("file", f"has more than {MOST_DISTINCT} different pairs of metric and context")
            found = self._resolved[name, way] = self._context(name, way)
        return found

    def _ways_of(self) -> Column:
        """(n,): numbers of how the rows were measured: circumstances, or a context that the row gives."""
        batch = self._batch
        columns: dict[str, cells.Parsed] = {}
        code = np.zeros(batch.count, dtype=np.int64)
        for target, parse in {**_CIRCUMSTANCES, "context": cells.context}.items():
            given = batch.columns.get(target)
            if given is None:
                continue
            found = columns[target] = cells.parsed(given, batch.texts, parse)
            for index, message in found.bad():
                self._note(index, target, message)
            # Together with the columns before, numbered anew: no product of their lengths gets too large.
            code = np.unique(code * max(len(found.items), 1) + found.places, return_inverse=True)[1]
        _, first, places = np.unique(code, return_index=True, return_inverse=True)
        good = {target: found.good(None) for target, found in columns.items()}
        numbers = np.zeros(len(first), dtype=np.int64)
        for each in range(len(first)):
            said = {target: good[target][found.places[first[each]]] for target, found in columns.items()}
            text = said.pop("context", None)
            if text is not None and any(value is not None for value in said.values()):
                for index in np.flatnonzero(places == each).tolist():
                    self._note(index, "context", "says it all: leave out split, seed, fidelity and device")
            own = tuple(said.get(target) for target in _CIRCUMSTANCES)
            numbers[each] = self._ways.number(own if text is None else text)
        return numbers[places]

    def _is_own(self, way: int) -> bool:
        return isinstance(self._ways.items[way], tuple)

    def _context(self, name: int, way: int) -> int | Bad:
        named, given = self.metrics[name], self._ways.items[way]
        if isinstance(given, tuple):
            chosen = dict(zip(_CIRCUMSTANCES, given, strict=True))
            own = replace(self._circumstances, **{each: v for each, v in chosen.items() if v is not None})
            context = self._context_of(own, named)
            if "device" in context and context["device"] is None:
                return Bad(f"{named} belongs to a device: name it here, or measure {named}@DEVICE")
        else:
            context = json.loads(given)
            wanted = self._context_of(self._circumstances, named)
            if context.keys() != wanted.keys():
                return Bad(f"a context of {named} says {', '.join(sorted(wanted)) or 'nothing'}, as it was exported")
            if "@" in named and context["device"] != wanted["device"]:
                return Bad(f"names another device than {named}")
        text = json.dumps(context, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return self._contexts.number(text)

    # ------------------------------------------------------------------ checks

    def _keys(self, genes: Genes) -> tuple[Column, Column]:
        """(n,) each: the halves of the rows' keys. Keys that the rows say are compared with them."""
        begins = np.ones(len(genes), dtype=bool)
        begins[1:] = (genes[1:] != genes[:-1]).any(axis=1)
        keys, places = self._space.keys(genes[begins]), np.cumsum(begins) - 1
        if "key" in self._batch.columns:
            found = cells.parsed(self._batch.columns["key"], self._batch.texts, cells.key)
            for index, message in found.bad():
                self._note(index, "key", message)
            given, own = found.good(None), zip(found.places.tolist(), places.tolist(), strict=True)
            for index, (said, right) in enumerate(own):
                if given[said] is not None and given[said] != keys[right] and self._good[index]:
                    message = f"is not the architecture's, which has {keys[right]}, is {given[said]!r:.80}"
                    self._note(index, "key", message)
        hi, lo = split_keys(keys)
        return hi[places], lo[places]

    def _check_counted(self, genes: Genes, row: Column, names: Column, value: Column, attempt: Column) -> Column:
        """(m,): attempts. A value that follows from the architecture must be that, and there is one of it."""
        result = attempt[row]
        counted = None
        for number, name in enumerate(self.metrics):
            if metric(name).scope is not Scope.ANALYTIC:
                continue
            held = np.flatnonzero(names == number)
            for place in held[result[held] > 0].tolist():
                self._note(int(row[place]), "attempt", f"must be 0 or left out: {name} follows from the architecture")
            result[held] = 0
            if name not in self._space.counted or not len(held):
                continue
            counted = counted or self._space.cost(genes)
            right = counted[name][row[held]]
            for place in np.flatnonzero((right != value[held]) & self._good[row[held]]).tolist():
                said = value[held][place]
                message = f"{name} of this architecture is {int(right[place])}, the row says {said:.17g}"
                self._note(int(row[held][place]), self._measured_field(name), message)
        return result

    def _measured_field(self, name: str) -> str:
        columns = self._batch.columns
        return METRICS + name if METRICS + name in columns else "value" if "value" in columns else METRICS + name

    def _column(self, target: str, parse: cells.Parse, default: Any) -> Column:
        """(n,): a column, ``default`` where a row does not say."""
        given = self._batch.columns.get(target)
        if given is None:
            return np.full(self._batch.count, default)
        return self._checked(target, cells.parsed(given, self._batch.texts, parse, default), default)

    def _checked(self, target: str, found: cells.Parsed, default: Any) -> Column:
        """(n,): what was parsed, ``default`` where it cannot be, which is noted."""
        for index, message in found.bad():
            self._note(index, target, message)
        return np.array(found.good(default), dtype=np.asarray(default).dtype)[found.places]

    def _metric(self, value: Any, texts: bool) -> int | Bad:
        name = cells.metric(value, texts)
        return name if isinstance(name, Bad) else self._metrics.number(name)

    def _worker(self, value: Any, texts: bool) -> int | Bad:
        name = cells.worker(value, texts)
        return name if isinstance(name, Bad) else self._workers.number(name)

    def _note(self, index: int, target: str, message: str) -> None:
        if index in self._batch.broken and not self._good[index]:
            return  # what could not be read at all is said once
        self._good[index] = False
        lines = self._batch.lines
        where = f" (line {lines[index]})" if lines else ""
        self._errors.add(self._batch.first + index, self._layout.source(target), message + where)


_CIRCUMSTANCES: dict[str, cells.Parse] = {
    "split": cells.split,
    "seed": cells.seed,
    "fidelity": cells.fidelity,
    "device": cells.device,
}


@final
class _Numbered:
    """Different things, numbered in the order in which they come."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._numbers: dict[Hashable, int] = {}
        self.items: list[Any] = []

    def number(self, item: Hashable) -> int:
        found = self._numbers.get(item)
        if found is None:
            if len(self.items) == MOST_DISTINCT:
                raise Invalid("file", f"has more than {MOST_DISTINCT} different {self._what}")
            found = self._numbers[item] = len(self.items)
            self.items.append(item)
        return found
