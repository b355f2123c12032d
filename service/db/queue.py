"""The queue: jobs are leased with a fence, kept by heartbeats, and end once.

The token of a job grows with every lease, and only who holds the newest one changes the job. A job is QUEUED, then
LEASED, then ends; a lease that runs out puts it back, until its attempts are used up.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, case, exists, or_, select, update
from sqlalchemy.orm import Session

from service.core.errors import Invalid, NotFound, Stale
from service.core.metrics import Scope, metric
from service.core.states import OPEN, SearchState, State
from service.db import ledger, outcomes, payloads, subjects, trial_ends, workers
from service.db.jobs import announce, counts, enqueue, enqueue_all, get, page, row, views
from service.db.outcomes import Ended, Report, Verdict
from service.db.paging import checked_id
from service.db.tables import Job, Search, Trial, Worker, now
from service.wire.jobs import (
    CompleteBatch,
    Completed,
    CompletedBatch,
    CompleteIn,
    FailIn,
    HeartbeatIn,
    HeartbeatOut,
    JobKind,
    JobOut,
    Lease,
    LeaseIn,
)

__all__ = [
    "cancel",
    "complete",
    "counts",
    "enqueue",
    "enqueue_all",
    "expire",
    "fail",
    "get",
    "heartbeat",
    "lease",
    "page",
]

LEASE_S = 30.0
_ROUNDS = 8
"""A lease looks at most so often for more jobs when the ledger has answered those it found."""
_EXPIRED_AT_ONCE = 500
_SEEN_EVERY = timedelta(seconds=5)
_REPORTS_KEPT = 1000
"""Intermediate reports kept of one job."""


def lease(s: Session, body: LeaseIn, lease_s: float = LEASE_S, max_age_s: float = ledger.LATENCY_AGE_S) -> list[Lease]:
    """Hands out at most ``body.count`` jobs that the worker can run, those of a smaller priority first.

    A trial whose metrics have all become known, on the worker's device too, ends as reused instead of being handed
    out. Raises `NotFound` for a worker that never announced itself.
    """
    worker = workers.row(s, body.worker)
    time = now()
    if time - worker.last_seen_at > _SEEN_EVERY:
        worker.last_seen_at = time
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


def heartbeat(s: Session, job_id: int, body: HeartbeatIn) -> HeartbeatOut:
    """Extends a lease and keeps what the worker reports. Raises `Stale` if another worker has the job, or it ended."""
    job = row(s, job_id, lock=True)
    if job.state != State.LEASED or job.token != body.token:
        raise Stale(f"job {job_id} is {job.state} with token {job.token}: lease {body.token} is over")
    time = now()
    job.leased_until = time + timedelta(seconds=job.lease_s or LEASE_S)
    if body.progress is not None:
        job.progress = _progress(job, body, time)
    if body.checkpoint is not None:
        job.checkpoint = body.checkpoint
    seen = update(Worker).where(Worker.name == job.worker, Worker.last_seen_at < time - _SEEN_EVERY)
    s.execute(seen.values(last_seen_at=time), execution_options={"synchronize_session": False})
    return HeartbeatOut(expires_at=job.leased_until, stop=job.cancelled)


def complete(s: Session, body: CompleteBatch) -> CompletedBatch:
    """Takes in results, each on its own. Repeating a call changes nothing and gives the same answer.

    A stale token changes nothing but the ledger: what was measured is kept. A result that is not what its kind asks
    for is accepted as a failure. Raises `NotFound` for a job that does not exist.
    """
    once = {(each.job, each.token): each for each in reversed(body.results)}
    found, searches = _lock(s, {each.job for each in body.results})
    answers: dict[tuple[int, int], Completed] = {}
    reports: dict[JobKind, list[Report]] = {}
    for (job_id, token), each in once.items():
        job = found[job_id]
        current = job.state == State.LEASED and job.token == token
        repeated = not current and job.token == token and job.result is not None
        answers[job_id, token] = Completed(job=job_id, accepted=current or repeated, state=State(job.state))
        if not repeated:
            reports.setdefault(JobKind(job.kind), []).append(_report(job, each, body.worker, current))
    ended: list[Ended] = []
    time = now()
    for kind, some in reports.items():
        verdicts = outcomes.settle(s, searches, kind, some)
        for report, verdict in zip(some, verdicts, strict=True):
            if report.current:
                report.job.result = report.result if verdict.state is State.SUCCEEDED else {"refused": verdict.reason}
                ended.append(Ended(report.job, verdict))
    _end(s, searches, ended, time)
    for end in ended:
        answers[end.job.id, end.job.token] = Completed(job=end.job.id, accepted=True, state=end.verdict.state)
    return CompletedBatch(items=[answers[each.job, each.token] for each in body.results])


def fail(s: Session, job_id: int, body: FailIn) -> Completed:
    """Ends a job without a result, or hands it back. Repeating a call changes nothing.

    A worker that is told to go (``failure="drained"``) hands its jobs back without using up an attempt; any other
    job that comes back does, and fails when none is left. Raises `Stale` for an old token.
    """
    if body.state not in _FAILURES:
        raise Invalid("state", f"must be one of {', '.join(_FAILURES)}, is {body.state}")
    found, searches = _lock(s, {job_id})
    job = found[job_id]
    if job.token == body.token and job.state == body.state and job.leased_until is None:
        return Completed(job=job_id, accepted=True, state=body.state)
    if job.state != State.LEASED or job.token != body.token:
        raise Stale(f"job {job_id} is {job.state} with token {job.token}: lease {body.token} is over")
    job.traceback = body.traceback
    verdict = Verdict(body.state, body.reason, body.seconds)
    if body.state is State.QUEUED:
        if body.failure == _DRAINED:
            job.attempts -= 1
        verdict = _after_loss(job, State.FAILED, body.reason, body.seconds)
    _end(s, searches, [Ended(job, verdict)], now())
    return Completed(job=job_id, accepted=True, state=verdict.state)


def expire(s: Session, time: datetime | None = None) -> int:
    """Takes back the leases that ran out before ``time`` (default: now); returns how many.

    Their jobs wait again, are LOST when their attempts are used up, or CANCELLED if that was asked for.
    """
    time = time or now()
    ran_out = (Job.state == State.LEASED, Job.leased_until < time)
    query = select(Job.id).where(*ran_out).order_by(Job.leased_until).limit(_EXPIRED_AT_ONCE)
    candidates = s.scalars(query).all()
    if not candidates:
        return 0
    found, searches = _lock(s, candidates)
    # A heartbeat may have come between the look and the lock.
    over = [j for j in found.values() if j.state == State.LEASED and j.leased_until and j.leased_until < time]
    lost = [Ended(job, _after_loss(job, State.LOST, f"worker {job.worker} was not heard of in time")) for job in over]
    _end(s, searches, lost, time)
    return len(lost)


def cancel(s: Session, job_id: int) -> JobOut:
    """Cancels a job: at once while it waits, with the next heartbeat while it is at work. An ended job stays."""
    found, searches = _lock(s, {job_id})
    job = found[job_id]
    if job.state == State.LEASED:
        job.cancelled = True
    elif job.state == State.QUEUED:
        _end(s, searches, [Ended(job, Verdict(State.CANCELLED, "cancelled while it waited"))], now())
    s.flush()
    return views(s, [job])[0]


# ---------------------------------------------------------------------- leasing


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
    _end(s, searches, [Ended(job, verdict) for job, verdict in zip(free, verdicts, strict=True)], time)


# ---------------------------------------------------------------------- ends

_DRAINED = "drained"
_FAILURES = (State.FAILED, State.INFEASIBLE, State.CANCELLED, State.QUEUED)


def _lock(s: Session, ids: Iterable[int]) -> tuple[dict[int, Job], dict[int, Search]]:
    """The jobs and their searches, locked in the order that `trial_ends.lock_searches` states."""
    wanted = sorted({checked_id(each, "job") for each in ids})
    of_search = select(Job.search_id).where(Job.id.in_(wanted), Job.search_id.is_not(None)).distinct()
    searches = trial_ends.lock_searches(s, [each for each in s.scalars(of_search) if each is not None])
    query = select(Job).where(Job.id.in_(wanted)).order_by(Job.id).with_for_update(key_share=True)
    found = {job.id: job for job in s.scalars(query.execution_options(populate_existing=True))}
    for each in wanted:
        if each not in found:
            raise NotFound("job", each)
    return found, searches


def _report(job: Job, given: CompleteIn, worker: str, current: bool) -> Report:
    return Report(job, given.token, given.result, given.seconds, worker, current)


def _after_loss(job: Job, used_up: State, reason: str, seconds: float = 0.0) -> Verdict:
    """What becomes of a job that came back without an end: it waits again, unless nothing is left to try."""
    if job.cancelled:
        return Verdict(State.CANCELLED, "cancelled", seconds)
    if job.attempts >= job.max_attempts:
        return Verdict(used_up, f"{reason}; attempt {job.attempts} of {job.max_attempts}", seconds)
    return Verdict(State.QUEUED, reason, seconds)


def _end(s: Session, searches: dict[int, Search], ended: Sequence[Ended], time: datetime) -> None:
    """Puts jobs into the state of their verdicts, and lets follow what follows."""
    again: list[int] = []
    without: dict[JobKind, list[Ended]] = {}
    for each in ended:
        job = each.job
        job.state, job.reason, job.leased_until = each.verdict.state, each.verdict.reason, None
        if each.verdict.state in OPEN:
            again += [job.trial_id] if job.trial_id is not None else []
            continue
        job.ended_at = time
        if each.verdict.state is not State.SUCCEEDED:
            without.setdefault(JobKind(job.kind), []).append(each)
    s.flush()
    for kind, some in without.items():
        outcomes.abandon(s, searches, kind, some)
    trials = s.scalars(select(Trial).where(Trial.id.in_(again)).order_by(Trial.id)).all() if again else []
    for trial in trials:
        trial.state = State.QUEUED
    trial_ends.queued(s, trials)
    announce(s, [each.job for each in ended])
    s.flush()


def _progress(job: Job, body: HeartbeatIn, time: datetime) -> dict[str, object]:
    """The newest progress, and the intermediate metrics of all heartbeats so far under ``reports``."""
    progress = dict(body.progress or {})
    reports = list(job.progress.get("reports", []))
    if progress.get("metrics"):
        seconds = (time - job.leased_at).total_seconds() if job.leased_at else 0.0
        reports.append({"step": progress.get("done", len(reports)), "metrics": progress["metrics"], "seconds": seconds})
    if reports:
        progress["reports"] = reports[-_REPORTS_KEPT:]
    return progress
