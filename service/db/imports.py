"""Measurements in bulk: written thousands at a time, and read for exports.

A measurement that says at which attempt it was made is that one; one that does not is there already if any attempt of
its place holds the same value, and becomes the next attempt otherwise. So what was written once changes nothing when
it comes again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import or_, select, text
from sqlalchemy.orm import Session

from search_spaces.space import SearchSpace
from service.core.errors import Unavailable
from service.core.metrics import Circumstances, context_digest
from service.core.states import OPEN, State
from service.db import artifacts, ending, jobs, spaces, studies
from service.db.architectures import unpack
from service.db.rows import insert_new
from service.db.tables import Architecture, Context, Job, Measurement, StudyMeasurement, now
from service.exchange.spool import Records, join_keys
from service.exchange.writers import Line
from service.wire.base import Json
from service.wire.exchange import ImportPayload
from service.wire.jobs import JobKind, JobOut

CHUNK = 5000
"""Measurements in one transaction, at most."""

_ROUNDS = 8
"""Bound of the tries to find free attempts while others record the same metric of the same architecture."""

_EXPORTED_AT_ONCE = 1000
"""Architectures read at a time for an export."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Target:
    """Where measurements go: a study, its space, and the circumstances it measures in."""

    study_id: int
    study: str
    space: SearchSpace
    circumstances: Circumstances


@dataclass(frozen=True, slots=True)
class Meaning:
    """What numbers in records stand for."""

    metrics: Sequence[str]
    contexts: Sequence[Json]
    digests: Sequence[str]
    workers: Sequence[str]

    @classmethod
    def of(cls, metrics: Sequence[str], contexts: Sequence[Json], workers: Sequence[str]) -> Meaning:
        """With the contexts' digests."""
        return cls(metrics, contexts, [context_digest(each) for each in contexts], workers)


@dataclass(frozen=True, slots=True)
class Written:
    """How many measurements are new; index → message of those whose attempt another value has taken."""

    new: int
    refused: Mapping[int, str]


def target(s: Session, study_name: str) -> Target:
    """The study as a target, or `NotFound`."""
    study = studies.row(s, study_name)
    space = spaces.load(spaces.row(s, study.space_id))
    return Target(study.id, study.name, space, studies.circumstances(s, study))


# ---------------------------------------------------------------------- writing


def store_contexts(s: Session, meaning: Meaning) -> None:
    """Stores contexts, before the measurements: transactions that store the same one wait for each other."""
    used = sorted(dict(zip(meaning.digests, meaning.contexts, strict=True)).items())
    insert_new(s, Context, [{"digest": digest, "body": body} for digest, body in used])


def write(s: Session, into: Target, records: Records, meaning: Meaning, time: datetime) -> Written:
    """Records measurements, at most `CHUNK` and in the order of `ordered`, and links them to the study.

    Their contexts are stored (`store_contexts`). ``time`` is when those were measured that do not say it.
    """
    owners, known = _architectures(s, into.space.digest, records, time)
    new = 0
    for _ in range(_ROUNDS):
        plan = _decide(records, owners, _stored(s, known, records, meaning))
        inserted = _insert(s, records, owners, plan, meaning, time)
        new += len(inserted)
        if len(inserted) == len(plan.rows):
            ending.link(s, into.study_id, plan.held)
            ending.link(s, into.study_id, inserted)
            return Written(new, plan.refused)
        known = np.unique(owners).tolist()
        # Somebody else took an attempt meanwhile: what was inserted is found now, the rest takes the next ones.
    raise Unavailable("too many others record the same metrics of the same architectures: try again")


def conflicts(s: Session, into: Target, records: Records, meaning: Meaning) -> Mapping[int, str]:
    """Index → message of records whose attempt is stored with another value."""
    keys, places = _keys(records)
    found = _ids(s, into.space.digest, keys)
    known = sorted(found.values())
    for key in keys:
        found.setdefault(key, -len(found) - 1)  # new ones differ from each other too
    owners = np.array([found[key] for key in keys], dtype=np.int64)[places]
    return _decide(records, owners, _stored(s, known, records, meaning)).refused


Ids: TypeAlias = NDArray[np.int64]

Place = tuple[int, int, int]
"""Architecture (id), metric and context (numbers)."""


@dataclass(frozen=True, slots=True)
class _Plan:
    """``rows`` are to be inserted at ``attempts``; ``held`` are the ids of measurements that are there."""

    rows: list[int]
    attempts: list[int]
    held: set[int]
    refused: dict[int, str]


def _decide(records: Records, owners: Ids, stored: Mapping[Place, dict[int, tuple[float, int]]]) -> _Plan:
    # Most are the first of their place, and nothing is known of it.
    named = records[["hi", "lo", "metric", "context"]]
    begins = np.concatenate([[True], named[1:] != named[:-1], [True]])
    first = begins[:-1] & begins[1:] & (records["attempt"] < 0)
    if stored:
        first &= ~np.isin(owners, np.array([owner for owner, _, _ in stored]))
    rows = np.flatnonzero(first).tolist()
    plan = _Plan(rows, [0] * len(rows), set(), {})
    others = np.flatnonzero(~first)
    some = records[others]
    taken: dict[Place, dict[int, tuple[float, int]]] = {}
    places = zip(owners[others].tolist(), some["metric"].tolist(), some["context"].tolist(), strict=True)
    said = zip(others.tolist(), places, some["value"].tolist(), some["attempt"].tolist(), strict=True)
    for index, place, value, attempt in said:
        there = taken.get(place)
        if there is None:
            there = taken[place] = dict(stored.get(place, ()))
        if attempt < 0:
            held = next((measurement for known, measurement in there.values() if known == value), None)
            attempt = max(there, default=-1) + 1
        else:
            known, held = there.get(attempt, (value, None))
            if known != value:
                plan.refused[index] = f"attempt {attempt} of this metric is {known:.17g}, the row says {value:.17g}"
                continue
        if held is None:
            there[attempt] = (value, _PLANNED)
            plan.rows.append(index)
            plan.attempts.append(attempt)
        elif held != _PLANNED:
            plan.held.add(held)
    return plan


_PLANNED = 0


def _keys(records: Records) -> tuple[list[str], Ids]:
    """The keys of neighbours that differ, and per record the place of its own."""
    begins = np.ones(len(records), dtype=bool)
    begins[1:] = (records["hi"][1:] != records["hi"][:-1]) | (records["lo"][1:] != records["lo"][:-1])
    return join_keys(records[begins]), np.cumsum(begins) - 1


def _architectures(s: Session, digest: str, records: Records, time: datetime) -> tuple[Ids, list[int]]:
    """Ids of the records' architectures, and those that were there before; those that are new are stored."""
    keys, places = _keys(records)
    found = _ids(s, digest, keys)
    made: dict[str, int] = {}
    first = dict(zip(reversed(keys), reversed(np.unique(places, return_index=True)[1].tolist()), strict=True))
    missing = sorted(first.keys() - found.keys())
    if missing:
        genes = [each.tobytes() for each in records["genes"][[first[key] for key in missing]]]
        if _is_sqlite(s):
            # Nobody else writes until this transaction ends, so ids can be given as SQLite itself would.
            begin = s.execute(text("SELECT coalesce(max(id), 0) + 1 FROM architectures")).scalar_one()
            made = {key: begin + index for index, key in enumerate(missing)}
            stored = _sqlite_time(time)
            rows = [(made[key], digest, key, each, stored) for key, each in zip(missing, genes, strict=True)]
            s.connection().exec_driver_sql(_ARCHITECTURES["sqlite"], rows)
        else:
            given = {"digest": digest, "time": time, "keys": _array(missing)}
            given["genes"] = _array(each.hex() for each in genes)
            made = dict(s.execute(text(_ARCHITECTURES["postgresql"]), given).all())
            if len(made) < len(missing):
                # Somebody else stored them meanwhile.
                found.update(_ids(s, digest, [key for key in missing if key not in made]))
    known = sorted(found.values())
    found.update(made)
    return np.array([found[key] for key in keys], dtype=np.int64)[places], known


def _ids(s: Session, digest: str, keys: Iterable[str]) -> dict[str, int]:
    wanted = sorted(set(keys))
    statement = f"SELECT key, id FROM architectures WHERE space_digest = :digest AND key {_among(s, 'keys', 'text')}"  # noqa: S608
    return dict(s.execute(text(statement), {"digest": digest, "keys": _many(s, wanted)}).all())


def _stored(
    s: Session, owners: Sequence[int], records: Records, meaning: Meaning
) -> dict[Place, dict[int, tuple[float, int]]]:
    """Place → attempt → value and id of what is stored of these architectures, in the records' metrics and contexts."""
    if not owners:
        return {}
    metrics = {meaning.metrics[each]: each for each in np.unique(records["metric"]).tolist()}
    contexts = {meaning.digests[each]: each for each in np.unique(records["context"]).tolist()}
    statement = (
        "SELECT architecture_id, metric, context_digest, attempt, value, id FROM measurements "  # noqa: S608
        f"WHERE architecture_id {_among(s, 'owners', 'bigint')} AND metric {_among(s, 'metrics', 'text')} "
        f"AND context_digest {_among(s, 'digests', 'text')}"
    )
    wanted = {"owners": owners, "metrics": sorted(metrics), "digests": sorted(contexts)}
    result: dict[Place, dict[int, tuple[float, int]]] = {}
    found = s.execute(text(statement), {name: _many(s, values) for name, values in wanted.items()})
    for owner, name, digest, attempt, value, measurement in found:
        result.setdefault((owner, metrics[name], contexts[digest]), {})[attempt] = (value, measurement)
    return result


def _insert(s: Session, records: Records, owners: Ids, plan: _Plan, meaning: Meaning, time: datetime) -> Sequence[int]:
    """Ids of the measurements that were inserted: all planned ones, unless somebody else took an attempt."""
    if not plan.rows:
        return []
    some = records[plan.rows]
    owned = owners[plan.rows].tolist()
    created = np.where(some["created"] < 0, (time - _EPOCH) // timedelta(microseconds=1), some["created"])
    if _is_sqlite(s):
        first = s.execute(text("SELECT coalesce(max(id), 0) + 1 FROM measurements")).scalar_one()
        ids = range(first, first + len(owned))
        names = [meaning.metrics[each] for each in some["metric"].tolist()]
        digests = [meaning.digests[each] for each in some["context"].tolist()]
        workers = [None if each < 0 else meaning.workers[each] for each in some["worker"].tolist()]
        times = {each: _sqlite_time(_EPOCH + timedelta(microseconds=each)) for each in set(created.tolist())}
        at = [times[each] for each in created.tolist()]
        numbers = (some["value"].tolist(), some["seconds"].tolist())
        rows = list(zip(ids, owned, names, digests, plan.attempts, *numbers, workers, at, strict=True))
        s.connection().exec_driver_sql(_MEASUREMENTS["sqlite"], rows)
        return ids
    given: dict[str, Any] = {"owners": _array(owned), "attempts": _array(plan.attempts)}
    for column, every in (("metric", meaning.metrics), ("context", meaning.digests), ("worker", meaning.workers)):
        # Texts are sent once; rows refer to them by their place, and 0 is no place.
        places, inverse = np.unique(some[column], return_inverse=True)
        kept = places >= 0
        given[f"{column}s"] = [every[each] for each in places[kept].tolist()]
        given[column] = _array((inverse + (1 if kept.all() else 0)).tolist())
    for column, numbers_of in (("value", some["value"]), ("seconds", some["seconds"]), ("created", created)):
        given[column] = _array(numbers_of.tolist())
    return s.execute(text(_MEASUREMENTS["postgresql"]), given).scalars().all()


_ARCHITECTURES: Mapping[str, str] = {
    "sqlite": "INSERT INTO architectures (id, space_digest, key, genes, created_at) VALUES (?, ?, ?, ?, ?)",
    "postgresql": "INSERT INTO architectures (space_digest, key, genes, created_at) "
    "SELECT :digest, r.key, decode(r.genes, 'hex'), :time "
    "FROM unnest(CAST(:keys AS text[]), CAST(:genes AS text[])) AS r(key, genes) "
    "ON CONFLICT DO NOTHING RETURNING key, id",
}
_MEASUREMENTS: Mapping[str, str] = {
    "sqlite": "INSERT INTO measurements (id, architecture_id, metric, context_digest, attempt, value, seconds, worker, "
    "created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
    "postgresql": "INSERT INTO measurements (architecture_id, metric, context_digest, attempt, value, seconds, worker, "
    "created_at) SELECT r.owner, (CAST(:metrics AS text[]))[r.metric], (CAST(:contexts AS text[]))[r.context], "
    "r.attempt, r.value, r.seconds, (CAST(:workers AS text[]))[r.worker], "
    "TIMESTAMPTZ 'epoch' + r.created * INTERVAL '1 microsecond' "
    "FROM unnest(CAST(:owners AS bigint[]), CAST(:metric AS int[]), CAST(:context AS int[]), CAST(:attempts AS int[]), "
    "CAST(:value AS float8[]), CAST(:seconds AS float8[]), CAST(:worker AS int[]), CAST(:created AS bigint[])) "
    "AS r(owner, metric, context, attempt, value, seconds, worker, created) ON CONFLICT DO NOTHING RETURNING id",
}


def _is_sqlite(s: Session) -> bool:
    return s.get_bind().dialect.name == "sqlite"


def _among(s: Session, parameter: str, kind: str) -> str:
    """The condition that a column is one of many values, sent as one parameter; see `_many`."""
    if _is_sqlite(s):
        return f"IN (SELECT value FROM json_each(:{parameter}))"  # noqa: S608 - names of parameters, ours
    return f"= ANY(CAST(:{parameter} AS {kind}[]))"


def _many(s: Session, values: Sequence[Any]) -> Any:
    return json.dumps(values) if _is_sqlite(s) else _array(values)


def _array(values: Iterable[Any]) -> str:
    """PostgreSQL's text of an array of numbers, keys, digests or names of metrics: nothing that needs quotes."""
    return "{" + ",".join(map(str, values)) + "}"


def _sqlite_time(time: datetime) -> str:
    return time.astimezone(UTC).replace(tzinfo=None).isoformat(sep=" ", timespec="microseconds")


# ---------------------------------------------------------------------- jobs


@dataclass(frozen=True, slots=True)
class Taken:
    """An import in an importer's hands; ``token`` is the fence. ``new``: measurements that an earlier lease wrote."""

    job: int
    token: int
    study: str
    payload: ImportPayload
    new: int
    created_at: datetime


def enqueue(s: Session, study_name: str, payload: ImportPayload, size: int) -> JobOut:
    """Queues the import of a stored file; the open job where the same was asked for before."""
    study = studies.row(s, study_name, lock=True)
    artifacts.register(s, payload.artifact, size)
    body = payload.model_dump(mode="json")
    same = select(Job).where(Job.kind == JobKind.IMPORT, Job.study_id == study.id, Job.state.in_(OPEN))
    for job in s.scalars(same.order_by(Job.id)):
        if job.payload == body and not job.cancelled:
            return jobs.get(s, job.id)
    return jobs.get(s, jobs.enqueue(s, JobKind.IMPORT, study_id=study.id, payload=body).id)


def take(s: Session, importer: str, lease_s: float) -> Taken | None:
    """Leases the import that waits longest; None if none waits."""
    time = now()
    query = (
        select(Job)
        .where(Job.kind == JobKind.IMPORT, Job.state == State.QUEUED)
        .where(or_(Job.not_before.is_(None), Job.not_before <= time))
        .order_by(Job.priority, Job.id)
        .limit(1)
        .with_for_update(key_share=True, skip_locked=True)
    )
    job = s.scalars(query).one_or_none()
    if job is None:
        return None
    job.state, job.reason = State.LEASED, ""
    job.token += 1
    job.attempts += 1
    job.worker, job.lease_s = importer, lease_s
    job.leased_at, job.leased_until = time, time + timedelta(seconds=lease_s)
    s.flush()
    jobs.announce(s, [job], State.LEASED)
    (view,) = jobs.views(s, [job])
    payload = ImportPayload.model_validate(job.payload)
    return Taken(job.id, job.token, view.study or "", payload, job.progress.get("new", 0), job.created_at)


# ---------------------------------------------------------------------- reading


def lines_after(s: Session, into: Target, key: str) -> tuple[list[Line], str | None]:
    """A study's measurements of the next architectures behind ``key``, and the last key; None if there are no more.

    In the order of key, metric, context and attempt: the same in every database that holds the same.
    """
    query = (
        select(Architecture.id, Architecture.key, Architecture.genes)
        .where(Architecture.space_digest == into.space.digest, Architecture.key > key)
        .order_by(Architecture.key)
        .limit(_EXPORTED_AT_ONCE)
    )
    found = s.execute(query).all()
    if not found:
        return [], None
    measured = (
        select(*_LINE)
        .join(StudyMeasurement, StudyMeasurement.measurement_id == Measurement.id)
        # As a sum, so that the links are found by their measurements: by their study there are too many.
        .where(StudyMeasurement.study_id + 0 == into.study_id)
        .where(Measurement.architecture_id.in_([each.id for each in found]))
    )
    rows = s.execute(measured).all()
    bodies = s.execute(select(Context.digest, Context.body).where(Context.digest.in_({row[2] for row in rows})))
    # PostgreSQL does not keep the order of an object's fields.
    contexts = {digest: json.loads(json.dumps(body, sort_keys=True)) for digest, body in bodies}
    owners = {row[0] for row in rows}
    shown = [each for each in found if each.id in owners]
    genes = unpack([each.genes for each in shown], len(into.space.choices))
    about = {
        each.id: (each.key, config, row)
        for each, config, row in zip(shown, into.space.to_configs(genes), genes.tolist(), strict=True)
    }
    lines = [
        Line(*about[owner], name, value, attempt, seconds, worker, created_at, contexts[digest])
        for owner, name, digest, attempt, value, seconds, worker, created_at in sorted(
            rows, key=lambda row: (about[row[0]][0], *row[1:4])
        )
    ]
    return lines, found[-1].key


_LINE = (
    Measurement.architecture_id,
    Measurement.metric,
    Measurement.context_digest,
    Measurement.attempt,
    Measurement.value,
    Measurement.seconds,
    Measurement.worker,
    Measurement.created_at,
)
