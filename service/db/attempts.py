"""Which attempt a measurement is: the first of a metric of an architecture in a context is 0, then 1, 2, …"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

from sqlalchemy import bindparam, select
from sqlalchemy.orm import Session

from service.core.errors import Unavailable
from service.core.metrics import Scope, metric
from service.db.rows import among, chunks, insert_new, table_of
from service.db.tables import Measurement, now

Place: TypeAlias = tuple[int, str, str]
"""Architecture, metric, context digest."""

_ROUNDS = 8
"""Bound of the tries to find a free attempt while others record the same metric of the same architecture."""


class Row(NamedTuple):
    """A measurement that is to be recorded."""

    place: Place
    value: float
    spread: float | None
    seconds: float
    job_id: int | None
    token: int | None
    worker: str | None

    @property
    def identity(self) -> object:
        """Rows with equal identities are one measurement; None: equal to no other."""
        if metric(self.place[1]).scope is Scope.ANALYTIC:
            return self.place
        return None if self.job_id is None else (self.place, self.job_id, self.token, self.worker)


def insert(s: Session, rows: Sequence[Row]) -> list[int]:
    """Ids in the order of the rows. Attempts are taken in that order; who loses a race takes the next one."""
    ids: dict[int, int] = {}
    identities = [row.identity for row in rows]
    time = now()
    for again in range(_ROUNDS):
        todo = [index for index in range(len(rows)) if index not in ids]
        if not todo:
            break
        # Most places are new. The first round looks nothing up and tries attempt 0 of each, which is there as soon as
        # anything is: the database answers what is new, and only the rest is looked up.
        stored, free = _stored(s, [rows[index] for index in todo]) if again else ({}, {})
        planned: dict[tuple[Place, int], list[int]] = {}
        leaders: dict[object, list[int]] = {}
        for index in todo:
            row, identity = rows[index], identities[index]
            if identity in stored:
                ids[index] = stored[identity]
            elif identity in leaders:
                leaders[identity].append(index)
            elif again or row.place not in free:
                attempt = free.get(row.place, 0)
                free[row.place] = attempt + 1
                planned[row.place, attempt] = [index]
                if identity is not None:
                    leaders[identity] = planned[row.place, attempt]
        for some in chunks(sorted(planned)):
            values = [_values(rows[planned[each][0]], each[1]) for each in some]
            made = insert_new(s, Measurement, values, *_RETURNED, shared={"created_at": time})
            for architecture, name, digest, attempt, measurement in made:
                for index in planned[(architecture, name, digest), attempt]:
                    ids[index] = measurement
    if len(ids) < len(rows):
        raise Unavailable("too many others record the same metric of the same architecture: try again")
    return [ids[index] for index in range(len(rows))]


def _stored(s: Session, rows: Sequence[Row]) -> tuple[dict[object, int], dict[Place, int]]:
    """Identity → id of what is stored, and the next free attempt of each place."""
    stored: dict[object, int] = {}
    free: dict[Place, int] = {}
    names, digests = {row.place[1] for row in rows}, {row.place[2] for row in rows}
    for some in chunks(sorted({row.place[0] for row in rows})):
        wanted = {"architectures": some, "metrics": sorted(names), "digests": sorted(digests)}
        for architecture, name, digest, attempt, measurement, job, token, worker in s.execute(_STORED, wanted):
            place = (architecture, name, digest)
            free[place] = max(free.get(place, 0), attempt + 1)
            identity = Row(place, 0.0, None, 0.0, job, token, worker).identity
            if identity is not None:
                stored[identity] = measurement
    return stored, free


def _values(row: Row, attempt: int) -> dict[str, object]:
    architecture, name, digest = row.place
    return {
        "architecture_id": architecture,
        "metric": name,
        "context_digest": digest,
        "attempt": attempt,
        "value": row.value,
        "spread": row.spread,
        "seconds": row.seconds,
        "job_id": row.job_id,
        "token": row.token,
        "worker": row.worker,
    }


_MEASUREMENTS = table_of(Measurement)
_RETURNED = tuple(_MEASUREMENTS.c[name] for name in ("architecture_id", "metric", "context_digest", "attempt", "id"))
_STORED: Any = select(*_RETURNED, *(_MEASUREMENTS.c[name] for name in ("job_id", "token", "worker"))).where(
    among(_MEASUREMENTS.c.architecture_id, "architectures"),
    _MEASUREMENTS.c.metric.in_(bindparam("metrics", expanding=True)),
    _MEASUREMENTS.c.context_digest.in_(bindparam("digests", expanding=True)),
)
