"""Handing out jobs: which a worker can run, which the ledger answers instead, and what is sent with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import BindParameter, ColumnElement, Select, bindparam, case, exists, or_, select, update
from sqlalchemy.orm import InstrumentedAttribute, Session

from service.core.metrics import Circumstances, Scope, metric
from service.core.states import SearchState, State
from service.db import evaluators, ledger, outcomes, payloads, subjects, trial_ends, workers
from service.db import replays as replaying
from service.db.job_ends import end
from service.db.jobs import announce
from service.db.outcomes import Ended, Verdict
from service.db.rows import table_of
from service.db.tables import Job, Search, Trial, Worker, now
from service.wire.jobs import JobKind, Lease, LeaseIn

# Statements on tables: the jobs of a lease change alike, so two statements do for all, past the unit of work.
_JOBS = table_of(Job)
_TRIALS = table_of(Trial)


def _list(name: str) -> BindParameter[Any]:
    return bindparam(name, expanding=True)


def _served(column: InstrumentedAttribute[str | None], there: str) -> ColumnElement[bool]:
    """A job that needs nothing, or what is there."""
    return or_(column.is_(None), column.in_(_list(there)))


def _waiting(wanted: Sequence[ColumnElement[bool]], *first: ColumnElement[int]) -> Select[Job]:
    """Jobs that wait, locked; on PostgreSQL those that another transaction holds are passed over."""
    paused = exists().where(Search.id == Job.search_id, Search.state == SearchState.PAUSED)
    return (
        select(Job)
        .where(Job.state == State.QUEUED, *wanted, ~paused)
        .where(or_(Job.not_before.is_(None), Job.not_before <= bindparam("time")), Job.id.not_in(_list("passed")))
        .order_by(Job.priority, *first, Job.id)
        .limit(bindparam("count"))
        .with_for_update(key_share=True, skip_locked=True, of=Job)
        .execution_options(populate_existing=True)
    )


_RUNS = (
    Job.kind.in_(_list("kinds")),
    Job.kind != JobKind.IMPORT,
    _served(Job.needs_dataset, "datasets"),
    _served(Job.needs_evaluator, "evaluators"),
    _served(Job.needs_device, "devices"),
)
# Made once: to put such a statement together takes longer than to run it. Without weights there is no order but the
# index's, so that a long queue is not sorted.
_RUNNABLE = _waiting(_RUNS)
_BY_WEIGHTS = _waiting(_RUNS, case((Job.needs_weights.in_(_list("weights")), 0), else_=1))
_OF_SEARCH = _waiting((Job.search_id == bindparam("search"), Job.trial_id.is_not(None)))
_LEASE = (
    update(_JOBS)
    .where(_JOBS.c.id.in_(bindparam("jobs", expanding=True)))
    .values(
        state=State.LEASED.value,
        reason="",
        token=_JOBS.c.token + 1,
        attempts=_JOBS.c.attempts + 1,
        worker=bindparam("to_worker"),
        lease_s=bindparam("seconds"),
        leased_until=bindparam("until"),
        leased_at=bindparam("time"),
        progress={},
        traceback=None,
    )
)
_LEASE_TRIALS = (
    update(_TRIALS).where(_TRIALS.c.id.in_(bindparam("trials", expanding=True))).values(state=State.LEASED.value)
)

LEASE_S = 30.0
_EVALUATIONS = frozenset({JobKind.EVALUATE, JobKind.REPLAY})
_ROUNDS = 8
"""A lease looks at most so often for more jobs when the ledger has answered those it found."""


def lease(s: Session, body: LeaseIn, lease_s: float = LEASE_S, max_age_s: float = ledger.LATENCY_AGE_S) -> list[Lease]:
    """Hands out at most ``body.count`` jobs that the worker can run, those of a smaller priority first.

    A trial whose metrics have all become known, on the worker's device too, ends as reused instead of being handed
    out. Raises `NotFound` for a worker that never announced itself.
    """
    worker = workers.row(s, body.worker)
    runs = {
        "kinds": worker.kinds,
        "datasets": worker.datasets,
        "evaluators": worker.evaluators,
        "devices": [worker.device["name"]],
    }
    if body.weights:
        return _lease(s, worker, _BY_WEIGHTS, {**runs, "weights": body.weights}, body.count, lease_s, max_age_s)
    return _lease(s, worker, _RUNNABLE, runs, body.count, lease_s, max_age_s)


def lease_of_search(
    s: Session, search_id: int, worker: Worker, count: int, lease_s: float, max_age_s: float
) -> list[Lease]:
    """Hands out at most ``count`` trials of one search, whatever they need: who asks for them brings it."""
    return _lease(s, worker, _OF_SEARCH, {"search": search_id}, count, lease_s, max_age_s)


def _lease(
    s: Session,
    worker: Worker,
    waiting: Select[Job],
    parameters: Mapping[str, Any],
    count: int,
    lease_s: float,
    max_age_s: float,
) -> list[Lease]:
    time = now()
    if workers.forgotten(worker, time):
        workers.seen(s, worker.name, time)
    device = str(worker.device["name"])
    taken: list[Job] = []
    passed: set[int] = set()
    measured: dict[int, tuple[subjects.Subject, set[str]]] = {}
    for _ in range(_ROUNDS):
        others = sorted(passed | {job.id for job in taken})
        found = s.scalars(waiting, {**parameters, "time": time, "passed": others, "count": count - len(taken)}).all()
        if not found:
            break
        known = _known(s, found, device, max_age_s)
        complete = {job for job, (subject, answer) in known.items() if set(subject.wanted) <= _given(subject, answer)}
        _reuse(s, [known[job] for job in sorted(complete)], time)
        passed |= complete
        taken += [job for job in found if job.id not in complete]
        measured.update({job: (known[job][0], _given(*known[job])) for job in known if job not in complete})
        if len(taken) == count or not complete:
            break
    return _hand_out(s, taken, measured, worker.name, lease_s, time)


_Answer = tuple[subjects.Subject, dict[str, ledger.Known]]


def _known(s: Session, found: Sequence[Job], device: str, max_age_s: float) -> dict[int, _Answer]:
    """Per job of a trial what the ledger knows of its metrics."""
    evaluations = [job for job in found if job.trial_id is not None and job.kind in _EVALUATIONS]
    if not evaluations:
        return {}
    about = subjects.read(s, evaluations)
    replays = {job: each for job, each in about.items() if each.job.kind == JobKind.REPLAY}
    if not replays:
        return _answers(s, about, subjects.circumstances(about.values(), device), max_age_s)
    # A replay is of the device that its table holds, not of the worker's.
    held = replaying.devices(s, list(replays.values()))
    result = _answers(
        s, replays, {job: each.circumstances(held[job]) for job, each in replays.items()}, evaluators.UNTIL_NOW_S
    )
    others = {job: each for job, each in about.items() if job not in replays}
    return {**result, **_answers(s, others, subjects.circumstances(others.values(), device), max_age_s)}


def _answers(
    s: Session, about: Mapping[int, subjects.Subject], depend_on: Mapping[int, Circumstances], max_age_s: float
) -> dict[int, _Answer]:
    questions = [ledger.Question(each.architecture_id, each.wanted, depend_on[job]) for job, each in about.items()]
    answers = ledger.known(s, questions, max_age_s)
    return {job: (subject, answer) for (job, subject), answer in zip(about.items(), answers, strict=True)}


def _given(subject: subjects.Subject, answer: Mapping[str, ledger.Known]) -> set[str]:
    """What need not be measured: known, or counted."""
    return {n for n in subject.wanted if n in answer or metric(n).scope is Scope.ANALYTIC}


def _reuse(s: Session, reused: Sequence[_Answer], time: datetime) -> None:
    """Ends jobs that the ledger answers. A search that another transaction holds waits for the next lease."""
    wanted = {subject.job.search_id for subject, _ in reused if subject.job.search_id is not None}
    searches = trial_ends.lock_searches(s, wanted, skip_locked=True)
    free = [each for each in reused if each[0].job.search_id in searches]
    if not free:
        return
    outcomes.finish_reused(s, searches, free)
    for subject, _ in free:
        job = subject.job
        job.state, job.reason, job.ended_at = State.SUCCEEDED, "answered from the ledger", time


def _hand_out(
    s: Session, taken: Sequence[Job], measured: payloads.Measured, worker: str, lease_s: float, time: datetime
) -> list[Lease]:
    if not taken:
        return []
    bodies, broken = payloads.materialise_all(s, taken, measured)
    _refuse_broken(s, [job for job in taken if job.id in broken], broken, time)
    sound = [job for job in taken if job.id not in broken]
    until = time + timedelta(seconds=lease_s)
    given = {"to_worker": worker, "seconds": lease_s, "until": until, "time": time}
    s.execute(_LEASE, {"jobs": [job.id for job in sound], **given})
    s.execute(_LEASE_TRIALS, {"trials": [job.trial_id for job in sound if job.trial_id is not None]})
    announce(s, sound, State.LEASED)
    return [
        Lease(
            job=job.id,
            kind=JobKind(job.kind),
            token=job.token + 1,
            attempt=job.attempts + 1,
            expires_at=until,
            lease_s=lease_s,
            payload=bodies[job.id],
            checkpoint=job.checkpoint,
        )
        for job in sound
    ]


def _refuse_broken(s: Session, jobs: Sequence[Job], errors: Mapping[int, Exception], time: datetime) -> None:
    """Ends jobs that nobody could run. Where another transaction holds the search that waits for the next lease."""
    searches = trial_ends.lock_searches(
        s, {job.search_id for job in jobs if job.search_id is not None}, skip_locked=True
    )
    free = [job for job in jobs if job.search_id is None or job.search_id in searches]
    verdicts = [Verdict(State.FAILED, f"no payload could be made: {errors[job.id]}") for job in free]
    end(s, searches, [Ended(job, verdict) for job, verdict in zip(free, verdicts, strict=True)], time)
