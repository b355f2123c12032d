"""Handing out jobs: which a worker can run, which the ledger answers instead, and what is sent with them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, case, exists, or_, select, update
from sqlalchemy.orm import Session

from service.core.metrics import Scope, metric
from service.core.states import SearchState, State
from service.db import ledger, outcomes, payloads, subjects, trial_ends, workers
from service.db.job_ends import end
from service.db.jobs import announce
from service.db.outcomes import Ended, Verdict
from service.db.tables import Job, Search, Trial, Worker, now
from service.wire.jobs import JobKind, Lease, LeaseIn

LEASE_S = 30.0
_ROUNDS = 8
"""A lease looks at most so often for more jobs when the ledger has answered those it found."""


def lease(s: Session, body: LeaseIn, lease_s: float = LEASE_S, max_age_s: float = ledger.LATENCY_AGE_S) -> list[Lease]:
    """Hands out at most ``body.count`` jobs that the worker can run, those of a smaller priority first.

    A trial whose metrics have all become known, on the worker's device too, ends as reused instead of being handed
    out. Raises `NotFound` for a worker that never announced itself.
    """
    worker = workers.row(s, body.worker)
    time = now()
    workers.seen(s, body.worker, time)
    device = str(worker.device["name"])
    taken: list[Job] = []
    passed: set[int] = set()
    measured: dict[int, tuple[subjects.Subject, set[str]]] = {}
    for _ in range(_ROUNDS):
        found = _waiting(s, worker, body, body.count - len(taken), passed | {job.id for job in taken}, time)
        if not found:
            break
        known = _known(s, found, device, max_age_s)
        complete = {job for job, (subject, answer) in known.items() if set(subject.wanted) <= _given(subject, answer)}
        _reuse(s, [known[job] for job in sorted(complete)], time)
        passed |= complete
        taken += [job for job in found if job.id not in complete]
        measured.update({job: (known[job][0], _given(*known[job])) for job in known if job not in complete})
        if len(taken) == body.count or not complete:
            break
    return _hand_out(s, taken, measured, body.worker, lease_s, time)


def _waiting(s: Session, worker: Worker, body: LeaseIn, count: int, passed: Iterable[int], time: datetime) -> list[Job]:
    """Jobs that the worker can run, locked; on PostgreSQL those that another transaction holds are passed over."""

    def served(column: ColumnElement[str | None], there: Sequence[str]) -> ColumnElement[bool]:
        return or_(column.is_(None), column.in_(there))

    paused = exists().where(Search.id == Job.search_id, Search.state == SearchState.PAUSED)
    query = select(Job).where(
        Job.state == State.QUEUED,
        Job.kind.in_(worker.kinds),
        served(Job.needs_dataset, worker.datasets),  # type: ignore[arg-type]
        served(Job.needs_evaluator, worker.evaluators),  # type: ignore[arg-type]
        served(Job.needs_device, [worker.device["name"]]),  # type: ignore[arg-type]
        or_(Job.not_before.is_(None), Job.not_before <= time),
        Job.id.not_in(sorted(passed)),
        ~paused,
    )
    loaded = [case((Job.needs_weights.in_(body.weights), 0), else_=1)] if body.weights else []
    query = query.order_by(Job.priority, *loaded, Job.id).limit(count)
    locked = query.with_for_update(key_share=True, skip_locked=True, of=Job).execution_options(populate_existing=True)
    return list(s.scalars(locked))


_Answer = tuple[subjects.Subject, dict[str, ledger.Known]]


def _known(s: Session, found: Sequence[Job], device: str, max_age_s: float) -> dict[int, _Answer]:
    """Per job of a trial what the ledger knows of its metrics."""
    evaluations = [job for job in found if job.trial_id is not None and job.kind == JobKind.EVALUATE]
    if not evaluations:
        return {}
    about = subjects.read(s, evaluations)
    questions = [
        ledger.Question(each.architecture.id, each.wanted, each.circumstances(device)) for each in about.values()
    ]
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
    for job in sound:
        job.state, job.reason = State.LEASED, ""
        job.token += 1
        job.attempts += 1
        job.worker, job.lease_s, job.leased_until, job.leased_at = worker, lease_s, until, time
        job.progress, job.traceback = {}, None
    s.flush()
    trials = [job.trial_id for job in sound if job.trial_id is not None]
    if trials:
        s.execute(update(Trial).where(Trial.id.in_(trials)).values(state=State.LEASED))
    announce(s, sound)
    return [
        Lease(
            job=job.id,
            kind=JobKind(job.kind),
            token=job.token,
            attempt=job.attempts,
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
