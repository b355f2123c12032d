"""Measurements: stored once, with how they were obtained, and looked up before anything is paid for again.

A measurement is unique by (architecture, metric, context digest, attempt). The first accepted is the value
(attempt 0), later ones are replicates. Metrics of analytic scope have one value and no replicates.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import final

from sqlalchemy import bindparam, select
from sqlalchemy.orm import Session

from service.core.errors import Invalid
from service.core.metrics import Circumstances, Scope, context_digest, metric
from service.db import ending, fronts
from service.db.attempts import Place, Row, insert
from service.db.rows import among, chunks, insert_new, table_of
from service.db.tables import Context, Measurement, now
from service.wire.base import Json, Metrics

LATENCY_AGE_S = 7 * 86400.0
"""Metrics of device scope that are older are measured again, unless settings say otherwise."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What one report says of one architecture. ``seconds`` were paid for all values together; ``spreads`` are of those
    values that are medians, in their units."""

    architecture_id: int
    circumstances: Circumstances
    values: Metrics
    seconds: float = 0.0
    job_id: int | None = None
    token: int | None = None
    worker: str | None = None
    study_id: int | None = None
    spreads: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Question:
    """Which of these metrics are known of an architecture in these circumstances?

    Those of device scope must have been measured at ``since`` or later; None: the age that is asked with counts.
    """

    architecture_id: int
    metrics: tuple[str, ...]
    circumstances: Circumstances
    since: datetime | None = None


@dataclass(frozen=True, slots=True)
class Known:
    """A stored value that may be used instead of measuring."""

    measurement_id: int
    value: float


def context_of(circumstances: Circumstances, name: str) -> Json:
    """The context of a metric; ``name@device`` belongs to that device whatever the circumstances are."""
    device = name.partition("@")[2]
    return (replace(circumstances, device=device) if device else circumstances).context(name)


def record(
    s: Session,
    architecture_id: int,
    circumstances: Circumstances,
    values: Metrics,
    seconds: float = 0.0,
    job_id: int | None = None,
    worker: str | None = None,
    study_id: int | None = None,
) -> list[int]:
    """Records one report's values; see `record_all`."""
    return record_all(
        s,
        [
            Entry(
                architecture_id,
                circumstances,
                values,
                seconds=seconds,
                job_id=job_id,
                worker=worker,
                study_id=study_id,
            )
        ],
    )[0]


def record_all(s: Session, entries: Sequence[Entry]) -> list[list[int]]:
    """Measurement ids per entry, in the order of its values; studies link what is recorded for them.

    A report that comes twice (same job, token and worker) is recorded once. The seconds of an entry are shared out
    evenly among its values that were measured. Raises `Invalid` for a value that is not finite, naming the metric.
    """
    for entry in entries:
        for name, value in entry.values.items():
            if not math.isfinite(value):
                raise Invalid(f"metrics.{name}", f"must be a finite number, is {value}")
    contexts = _Contexts()
    digests = [contexts.digests(entry.circumstances, tuple(entry.values)) for entry in entries]
    insert_new(s, Context, [{"digest": each, "body": contexts.bodies[each]} for each in sorted(contexts.bodies)])
    rows = [row for entry, named in zip(entries, digests, strict=True) for row in _rows(entry, named)]
    ids = iter(insert(s, rows))
    result = [[next(ids) for _ in entry.values] for entry in entries]
    link(s, [(entry.study_id, ids) for entry, ids in zip(entries, result, strict=True) if entry.study_id is not None])
    return result


def link(s: Session, links: Sequence[tuple[int, Sequence[int]]]) -> None:
    """Lets studies (by id) use measurements (by id) from the commit on; a link that is there stays."""
    for study, measurements in links:
        ending.link(s, study, measurements)


def known(s: Session, questions: Sequence[Question], max_age_s: float = LATENCY_AGE_S) -> list[dict[str, Known]]:
    """Per question what is known, by metric, without analytic metrics: those are computed, not looked up.

    The first accepted value; of device scope the newest, if it is younger than ``max_age_s`` (or as `Question.since`
    says), and nothing where the device is not known. One query per 5000 architectures, whatever they are asked for.
    """
    contexts = _Contexts()
    places = [_places(question, contexts) for question in questions]
    every = sorted({place for each in places for place in each.values()})
    youngest = now() - timedelta(seconds=max_age_s)
    found: dict[Place, list[tuple[datetime | None, Known]]] = {}
    metrics, digests = sorted({p[1] for p in every}), sorted({p[2] for p in every})
    for some in chunks(sorted({place[0] for place in every})):
        wanted = {"architectures": some, "metrics": metrics, "digests": digests}
        for architecture, name, digest, measurement, value, at in s.execute(_KNOWN, wanted).all():
            place = (architecture, name, digest)
            if metric(name).scope is Scope.DEVICE:
                found.setdefault(place, []).append((at, Known(measurement, value)))
            else:
                found.setdefault(place, [(None, Known(measurement, value))])
    answers: list[dict[str, Known]] = []
    for question, each in zip(questions, places, strict=True):
        since, answer = question.since or youngest, {}
        for name, place in each.items():
            usable = (one for at, one in reversed(found.get(place, ())) if at is None or at >= since)
            if (one := next(usable, None)) is not None:
                answer[name] = one
        answers.append(answer)
    return answers


def lookup(
    s: Session,
    architecture_ids: Sequence[int],
    metrics: Sequence[str],
    circumstances: Circumstances,
    max_age_s: float = LATENCY_AGE_S,
) -> dict[tuple[int, str], float]:
    """(architecture, metric) → value, of what is known in these circumstances; see `known`."""
    questions = [Question(each, tuple(metrics), circumstances) for each in architecture_ids]
    answers = known(s, questions, max_age_s)
    return {
        (architecture, name): one.value
        for architecture, answer in zip(architecture_ids, answers, strict=True)
        for name, one in answer.items()
    }


def study_contexts(s: Session, study_id: int, circumstances: Circumstances, metrics: Sequence[str]) -> dict[str, str]:
    """Metric → digest of the context in which a study reads it; metrics never measured may be missing.

    Task metrics belong to the study's circumstances. Latencies and proxies may have been measured in several
    contexts (devices, seeds): the one with the most measurements linked to the study counts, by digest if equal.
    """
    fixed = {
        name: context_digest(context_of(circumstances, name))
        for name in metrics
        if metric(name).scope in (Scope.ANALYTIC, Scope.TASK) or "@" in name
    }
    open_ones = [name for name in metrics if name not in fixed]
    if not open_ones:
        return fixed
    with fronts.of(s).study(s, study_id) as measured:
        return {**fixed, **measured.contexts(open_ones)}


@final
class _Contexts:
    """Contexts by digest. The rows of a batch share circumstances, as objects: each is digested once."""

    def __init__(self) -> None:
        self.bodies: dict[str, Json] = {}
        self._digests: dict[tuple[int, tuple[str, ...]], tuple[Mapping[str, str], Circumstances]] = {}

    def digests(self, circumstances: Circumstances, names: tuple[str, ...]) -> Mapping[str, str]:
        """Metric → digest of its context."""
        # By identity, since options cannot be hashed. The object is kept: its id stays its own.
        place = (id(circumstances), names)
        if place not in self._digests:
            contexts = {name: context_of(circumstances, name) for name in names}
            digests = {name: context_digest(context) for name, context in contexts.items()}
            self.bodies.update({digests[name]: context for name, context in contexts.items()})
            self._digests[place] = (digests, circumstances)
        return self._digests[place][0]


_MEASUREMENTS = table_of(Measurement)
_PLACE = tuple(_MEASUREMENTS.c[name] for name in ("architecture_id", "metric", "context_digest"))
_KNOWN = (
    select(*_PLACE, *(_MEASUREMENTS.c[name] for name in ("id", "value", "created_at")))
    .where(
        among(_MEASUREMENTS.c.architecture_id, "architectures"),
        _MEASUREMENTS.c.metric.in_(bindparam("metrics", expanding=True)),
        _MEASUREMENTS.c.context_digest.in_(bindparam("digests", expanding=True)),
    )
    .order_by(*_PLACE, _MEASUREMENTS.c.attempt)
)


def _rows(entry: Entry, digests: Mapping[str, str]) -> list[Row]:
    analytic = {name for name in entry.values if metric(name).scope is Scope.ANALYTIC}
    share = entry.seconds / max(len(entry.values) - len(analytic), 1)
    return [
        Row(
            place=(entry.architecture_id, name, digests[name]),
            value=float(value),
            spread=entry.spreads.get(name),
            seconds=0.0 if name in analytic else share,
            job_id=entry.job_id,
            token=entry.token,
            worker=entry.worker,
        )
        for name, value in entry.values.items()
    ]


def _places(question: Question, contexts: _Contexts) -> dict[str, Place]:
    result = {}
    for name, digest in contexts.digests(question.circumstances, question.metrics).items():
        scope = metric(name).scope
        known_device = scope is not Scope.DEVICE or contexts.bodies[digest]["device"] is not None
        if scope is not Scope.ANALYTIC and known_device:
            result[name] = (question.architecture_id, name, digest)
    return result
