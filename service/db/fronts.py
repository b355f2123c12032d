"""What studies have measured, kept in memory: columns of means and non-dominated sets that follow the ledger.

A study with a million measurements is read once. From then on each request reads only what was linked since (links are
numbered in commit order, see `service.db.ending`), so an answer reflects everything that was committed before it was
asked for. The database stays the only truth: whatever is here can be dropped and is read again.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from typing import TypeAlias, final

import numpy as np
from sqlalchemy import and_, bindparam, func, or_, select
from sqlalchemy.orm import Session

from search_spaces.space import Bools, IntArray
from service.core import pareto
from service.core.objectives import Constraint, Direction, Objective, Values, excess
from service.db.rows import table_of
from service.db.tables import Measurement, StudyMeasurement
from service.wire.base import Metrics

KEPT_BYTES = 128 * 2**20
"""Of the columns of all studies together; those not asked for the longest go first, the one in use stays."""

INFO = "frontier_fronts"
"""Where a session has the `Fronts` of its database (`Session.info`)."""

_FRONTS_KEPT = 16
"""Sets of axes and constraints of one study that are kept up to date."""

_STREAMED = 2000
"""Rows that are in memory at once while a study is read."""

Place: TypeAlias = tuple[str, str]
"""A metric and the digest of the context in which it is read."""

_LINKS = table_of(StudyMeasurement)
_MEASUREMENTS = table_of(Measurement)
_NEWEST = select(func.max(_LINKS.c.number)).where(_LINKS.c.study_id == bindparam("study"))
_LINKED = (
    select(*(_MEASUREMENTS.c[name] for name in ("metric", "context_digest", "architecture_id", "value")))
    .join(_LINKS, _LINKS.c.measurement_id == _MEASUREMENTS.c.id)
    .where(_LINKS.c.study_id == bindparam("study"))
    .where(_LINKS.c.number > bindparam("seen"), _LINKS.c.number <= bindparam("newest"))
)


@dataclass(frozen=True, slots=True)
class Front:
    """Non-dominated architectures by the first axis: ids (n,) and minimised values (n, m), one column per axis.

    ``candidates`` is the number of architectures that were compared.
    """

    ids: IntArray
    values: Values
    candidates: int


@final
class Fronts:
    """The studies of one database that were asked for. Threads share it."""

    def __init__(self, kept_bytes: int = KEPT_BYTES) -> None:
        self._kept_bytes = kept_bytes
        self._lock = threading.Lock()
        self._studies: OrderedDict[int, Measured] = OrderedDict()
        self._links: dict[int, tuple[int, int]] = {}

    @contextmanager
    def study(self, s: Session, study_id: int) -> Iterator[Measured]:
        """What a study has measured by now. Others who ask for the same study wait until the block ends.

        A read session whose snapshot is older than what another one has seen goes on with a newer one.
        """
        with self._lock:
            found = self._studies.setdefault(study_id, Measured(study_id))
            self._studies.move_to_end(study_id)
        with found.lock:
            if not found.catch_up(s):
                # Only a snapshot can be behind, so nothing was written that this would end too early.
                s.commit()
                found.catch_up(s)
            self._evict(found)
            yield found

    def links(self, s: Session, study_ids: Sequence[int]) -> dict[int, int]:
        """Study → number of measurements that it links. What was counted once is not counted again."""
        with self._lock:
            before = {each: self._links.get(each, (-1, 0)) for each in study_ids}
        if not before:
            return {}
        later = or_(*(and_(_LINKS.c.study_id == each, _LINKS.c.number > seen) for each, (seen, _) in before.items()))
        query = select(_LINKS.c.study_id, func.max(_LINKS.c.number), func.count()).where(later)
        counted = dict(before)
        for study_id, newest, count in s.execute(query.group_by(_LINKS.c.study_id)):
            counted[study_id] = (newest, before[study_id][1] + count)
        with self._lock:
            for study_id, now in counted.items():
                self._links[study_id] = max(now, self._links.get(study_id, now))
        return {study_id: count for study_id, (_, count) in counted.items()}

    def _evict(self, used: Measured) -> None:
        with self._lock:
            total = sum(each.size for each in self._studies.values())
            for study_id, each in list(self._studies.items()):
                if total <= self._kept_bytes:
                    break
                if each is not used:
                    total -= self._studies.pop(study_id).size


def of(s: Session) -> Fronts:
    """Those of the session's database."""
    found: Fronts = s.info[INFO]
    return found


@final
class Measured:
    """The columns of one study, and the fronts that were asked for. Used with its ``lock`` held."""

    def __init__(self, study_id: int) -> None:
        self.lock = threading.RLock()
        self.size = 0
        self._id = study_id
        self._seen = -1
        self._columns: dict[Place, _Column] = {}
        self._fronts: OrderedDict[_Shape, Front] = OrderedDict()

    def catch_up(self, s: Session) -> bool:
        """Reads what was linked since; False if the session's snapshot is older than what is here."""
        newest = s.scalars(_NEWEST, {"study": self._id}).one()
        if newest is None:
            return self._seen < 0
        if newest <= self._seen:
            return bool(newest == self._seen)
        self._apply(_linked(s, self._id, self._seen, newest))
        self._seen = newest
        return True

    def contexts(self, metrics: Sequence[str]) -> dict[str, str]:
        """Metric → digest of the context in which it has the most measurements, by digest if equal."""
        result = {}
        for name in metrics:
            places = [(-column.links, digest) for (metric, digest), column in self._columns.items() if metric == name]
            if places:
                result[name] = min(places)[1]
        return result

    def means(self, contexts: Mapping[str, str], ids: Sequence[int]) -> dict[int, Metrics]:
        """Architecture → metric → mean over its replicates, each metric in its context; nothing where unmeasured."""
        wanted = np.array(ids, dtype=np.int64)
        result: dict[int, Metrics] = {}
        for name, digest in contexts.items():
            values = self._column((name, digest)).means(wanted)
            for index in np.flatnonzero(np.isfinite(values)).tolist():
                result.setdefault(ids[index], {})[name] = float(values[index])
        return result

    def values(self, contexts: Mapping[str, str], name: str) -> tuple[IntArray, Values]:
        """Ids (n,), rising, of the architectures with a mean of a metric in its context, and the means (n,)."""
        column = self._column((name, contexts.get(name, "")))
        return column.ids.copy(), column.means(column.ids)

    def front(
        self, contexts: Mapping[str, str], axes: Sequence[Objective], constraints: Sequence[Constraint] = ()
    ) -> Front:
        """The architectures that keep all constraints and that no other such one dominates on the axes.

        An architecture that lacks a mean on an axis or of a constraint is no candidate. Of equal ones the first id
        is kept.
        """
        shape = _Shape(
            tuple(((o.metric, contexts.get(o.metric, "")), o.direction) for o in axes),
            tuple(((limit.metric, contexts.get(limit.metric, "")), limit) for limit in constraints),
        )
        if shape not in self._fronts:
            self._fronts[shape] = self._computed(shape)
        self._fronts.move_to_end(shape)
        while len(self._fronts) > _FRONTS_KEPT:
            self._fronts.popitem(last=False)
        return self._fronts[shape]

    def _apply(self, changes: Mapping[Place, tuple[IntArray, Values]]) -> None:
        changed: dict[_Shape, IntArray] = {}
        were: dict[_Shape, int] = {}
        for shape in self._fronts:
            touched = [changes[place][0] for place in shape.places if place in changes]
            if touched:
                changed[shape] = np.unique(np.concatenate(touched))
                were[shape] = int(self._points(shape, changed[shape])[1].sum())
        for place, (ids, values) in changes.items():
            self._columns.setdefault(place, _Column()).add(ids, values)
        self.size = sum(column.size for column in self._columns.values())
        for shape, ids in changed.items():
            front = self._followed(shape, self._fronts.pop(shape), ids, were[shape])
            if front is not None:
                self._fronts[shape] = front

    def _followed(self, shape: _Shape, front: Front, changed: IntArray, were: int) -> Front | None:
        """The front after some architectures have changed, of which ``were`` were candidates before.

        Whatever is neither changed nor on the front was dominated by (or equal to) a member, and is so still, unless
        a member got worse or left: then None, and all are compared when the front is asked for again.
        """
        values, usable = self._points(shape, front.ids)
        if not (usable.all() and (values <= front.values).all()):
            return None
        ids = np.union1d(front.ids, changed)
        candidates = front.candidates - were + int(self._points(shape, changed)[1].sum())
        return self._compared(shape, ids, candidates)

    def _computed(self, shape: _Shape) -> Front:
        measured = [self._column(place).ids for place in shape.places]
        ids = reduce(lambda left, right: np.intersect1d(left, right, assume_unique=True), measured)
        return self._compared(shape, ids, int(self._points(shape, ids)[1].sum()))

    def _compared(self, shape: _Shape, ids: IntArray, candidates: int) -> Front:
        values, usable = self._points(shape, ids)
        chosen = pareto.front(values, usable)
        return Front(ids[chosen], values[chosen], candidates)

    def _points(self, shape: _Shape, ids: IntArray) -> tuple[Values, Bools]:
        """Minimised values (n, m) of architectures, and (n,): which of them are candidates."""
        signs = [1.0 if direction is Direction.MINIMISE else -1.0 for _, direction in shape.axes]
        columns = [sign * self._column(axis[0]).means(ids) for sign, axis in zip(signs, shape.axes, strict=True)]
        values = np.stack(columns, axis=1)
        usable: Bools = np.asarray(np.isfinite(values).all(axis=1))
        for place, limit in shape.limits:
            usable = usable & (excess(limit, self._column(place).means(ids)) <= 0)
        return values, usable

    def _column(self, place: Place) -> _Column:
        return self._columns.get(place) or _Column()


@dataclass(frozen=True, slots=True)
class _Shape:
    """What spans a front, and what bounds it."""

    axes: tuple[tuple[Place, Direction], ...]
    limits: tuple[tuple[Place, Constraint], ...]

    @property
    def places(self) -> tuple[Place, ...]:
        return tuple(place for place, _ in self.axes + self.limits)


@final
class _Column:
    """Architecture ids (n,), rising, with the sums and the numbers of their replicates in one context."""

    def __init__(self) -> None:
        self.ids: IntArray = np.empty(0, dtype=np.int64)
        self.links = 0
        self._sums: Values = np.empty(0)
        self._counts: IntArray = np.empty(0, dtype=np.int64)

    @property
    def size(self) -> int:
        return self.ids.nbytes + self._sums.nbytes + self._counts.nbytes

    def add(self, ids: IntArray, values: Values) -> None:
        """Further replicates, (k,) each, in any order."""
        self.links += len(ids)
        given, place = np.unique(ids, return_inverse=True)
        sums, counts = np.bincount(place, values, len(given)), np.bincount(place, minlength=len(given))
        at, there = self._find(given)
        self._sums[at[there]] += sums[there]
        self._counts[at[there]] += counts[there]
        if there.all():
            return
        fresh = ~there
        self.ids = np.insert(self.ids, at[fresh], given[fresh])
        self._sums = np.insert(self._sums, at[fresh], sums[fresh])
        self._counts = np.insert(self._counts, at[fresh], counts[fresh])

    def means(self, ids: IntArray) -> Values:
        """(k,): the means of these architectures, NaN where there is none."""
        at, there = self._find(ids)
        result = np.full(len(ids), np.nan)
        result[there] = self._sums[at[there]] / self._counts[at[there]]
        return result

    def _find(self, ids: IntArray) -> tuple[IntArray, Bools]:
        """Where each id is or belongs, and whether it is there."""
        at = np.searchsorted(self.ids, ids)
        inside = at < len(self.ids)
        there = inside.copy()
        there[inside] = self.ids[at[inside]] == ids[inside]
        return at, there


def _linked(s: Session, study_id: int, seen: int, newest: int) -> dict[Place, tuple[IntArray, Values]]:
    """Architecture ids and values by place, of the links with seen < number ≤ newest."""
    parts: dict[Place, tuple[list[IntArray], list[Values]]] = {}
    wanted = {"study": study_id, "seen": seen, "newest": newest}
    for rows in s.execute(_LINKED, wanted, execution_options={"yield_per": _STREAMED}).partitions():
        metrics, digests, ids, values = zip(*rows, strict=True)
        codes: dict[Place, int] = {}
        of_row = np.array([codes.setdefault(place, len(codes)) for place in zip(metrics, digests, strict=True)])
        all_ids, all_values = np.array(ids, dtype=np.int64), np.array(values, dtype=np.float64)
        for place, code in codes.items():
            chosen = of_row == code
            found = parts.setdefault(place, ([], []))
            found[0].append(all_ids[chosen])
            found[1].append(all_values[chosen])
    return {place: (np.concatenate(ids), np.concatenate(values)) for place, (ids, values) in parts.items()}
