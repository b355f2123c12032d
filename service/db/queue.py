"""The queue: jobs are leased with a fence, kept by heartbeats, and end once.

The token of a job grows with every lease, and only who holds the newest one changes the job. A job is QUEUED, then
LEASED, then ends; a lease that runs out puts it back, until its attempts are used up. What ended FAILED or LOST is a
dead letter: it stays with its reason and traceback, to be tried again by hand (`service.db.retries`).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from service.core.errors import Invalid, Stale
from service.core.failures import Failure, retry_in_s
from service.core.states import State
from service.db import ledger, outcomes, workers
from service.db.job_ends import end, lock
from service.db.job_rows import JOBS, JobRow
from service.db.jobs import counts, enqueue, enqueue_all, get, page, row
from service.db.leasing import LEASE_S, lease
from service.db.outcomes import Ended, Report, Verdict
from service.db.tables import Counter, Job, now
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

_EXPIRED_AT_ONCE = 500
_REPORTS_KEPT = 1000
"""Intermediate reports kept of one job."""


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
    workers.seen(s, [job.worker] if job.worker else [], time)
    return HeartbeatOut(expires_at=job.leased_until, stop=job.cancelled)


def complete(
    s: Session, bodies: Sequence[CompleteBatch], max_age_s: float = ledger.LATENCY_AGE_S
) -> list[CompletedBatch]:
    """Takes in the results of several workers, each on its own. Repeating a call changes nothing and gives the same
    answer.

    A stale token changes nothing but the ledger: what was measured is kept. A result that is not what its kind asks
    for is accepted as a failure; latencies that `lease` took as known, with the same ``max_age_s``, need not be in it.
    Raises `NotFound` for a job that does not exist.
    """
    # By the worker's name too: a database that was put back gives out tokens once more that others hold already.
    once: dict[tuple[int, int, str], CompleteIn] = {}
    for body in bodies:
        for given in body.results:
            once.setdefault((given.job, given.token, body.worker), given)
    found, searches = lock(s, {job for job, *_ in once})
    answers: dict[tuple[int, int, str], Completed] = {}
    reports: dict[JobKind, list[Report]] = {}
    for (job_id, token, worker), given in once.items():
        job = found[job_id]
        newest = (job.token, job.worker) == (token, worker)
        current = newest and job.state == State.LEASED
        repeated = newest and not current and job.result is not None
        if not current:
            answers[job_id, token, worker] = Completed(job=job_id, accepted=repeated, state=State(job.state))
        if not repeated:
            report = Report(job, token, given.result, given.seconds, worker, current, max_age_s)
            reports.setdefault(JobKind(job.kind), []).append(report)
    ended: list[Ended] = []
    time = now()
    for kind, some in reports.items():
        verdicts = outcomes.settle(s, searches, kind, some)
        for report, verdict in zip(some, verdicts, strict=True):
            if report.current:
                kept = report.result if verdict.state is State.SUCCEEDED else {"refused": verdict.reason}
                ended.append(Ended(report.job, verdict, kept))
    end(s, searches, ended, time)
    for each in ended:
        answer = Completed(job=each.job.id, accepted=True, state=each.verdict.state)
        answers[each.job.id, each.job.token, each.job.worker or ""] = answer
    return [
        CompletedBatch(items=[answers[given.job, given.token, body.worker] for given in body.results])
        for body in bodies
    ]


def fail(s: Session, job_id: int, body: FailIn, *, final: bool = False) -> Completed:
    """Ends a job without a result, or hands it back. Repeating a call changes nothing.

    A worker that is told to go (`Failure.DRAINED`) hands its jobs back without using up an attempt. What failed is
    tried again, after a while, as often as its class of failure allows (`service.core.failures`), unless ``final``.
    Raises `Stale` for an old token.
    """
    if body.state not in _FAILURES:
        raise Invalid("state", f"must be one of {', '.join(_FAILURES)}, is {body.state}")
    found, searches = lock(s, {job_id})
    job = found[job_id]
    # What was told waits again, or has ended as it was told; a lease that ran out came back for another reason.
    told = job.state == body.state or (job.state == State.QUEUED and job.reason == body.reason)
    if job.token == body.token and job.leased_until is None and told:
        return Completed(job=job_id, accepted=True, state=State(job.state))
    if job.state != State.LEASED or job.token != body.token:
        raise Stale(f"job {job_id} is {job.state} with token {job.token}: lease {body.token} is over")
    attempts = job.attempts - (body.failure is Failure.DRAINED)
    told_too = update(JOBS).where(JOBS.c.id == job_id)
    s.execute(told_too.values(attempts=attempts, traceback=body.traceback or JOBS.c.traceback))
    job = job._replace(attempts=attempts)
    verdict = Verdict(body.state, body.reason, body.seconds, body.failure)
    if body.state is State.QUEUED or (body.state is State.FAILED and not final):
        verdict = _after(s, job, body.failure, State.FAILED, body.reason, body.seconds)
    end(s, searches, [Ended(job, verdict)], now())
    return Completed(job=job_id, accepted=True, state=verdict.state)


def expire(s: Session, time: datetime | None = None) -> int:
    """Takes back the leases that ran out before ``time`` (default: now); returns how many.

    Their jobs wait again after a while, are LOST when their attempts are used up, or CANCELLED if that was asked for.
    """
    time = time or now()
    ran_out = (Job.state == State.LEASED, Job.leased_until < time)
    query = select(Job.id).where(*ran_out).order_by(Job.leased_until).limit(_EXPIRED_AT_ONCE)
    candidates = s.scalars(query).all()
    if not candidates:
        return 0
    found, searches = lock(s, candidates)
    # A heartbeat may have come between the look and the lock.
    over = [j for j in found.values() if j.state == State.LEASED and j.leased_until and j.leased_until < time]
    lost = [
        Ended(job, _after(s, job, Failure.LOST, State.LOST, f"worker {job.worker} was not heard of in time"))
        for job in over
    ]
    end(s, searches, lost, time)
    if lost:
        # Like the counter of the events only touched at the end: all who expire leases share it.
        counted = update(Counter).where(Counter.name == "lease_expiries").values(value=Counter.value + len(lost))
        s.execute(counted, execution_options={"synchronize_session": False})
    return len(lost)


def cancel(s: Session, job_id: int) -> JobOut:
    """Cancels a job: at once while it waits, with the next heartbeat while it is at work. An ended job stays."""
    found, searches = lock(s, {job_id})
    job = found[job_id]
    if job.state == State.LEASED:
        s.execute(update(JOBS).where(JOBS.c.id == job_id).values(cancelled=True))
    elif job.state == State.QUEUED:
        end(s, searches, [Ended(job, Verdict(State.CANCELLED, "cancelled while it waited"))], now())
    return get(s, job_id)


# ---------------------------------------------------------------------- ends

_FAILURES = (State.FAILED, State.INFEASIBLE, State.CANCELLED, State.QUEUED)


def _after(s: Session, job: JobRow, failure: Failure, used_up: State, reason: str, seconds: float = 0.0) -> Verdict:
    """What becomes of a job that failed: it waits again, unless trying again would not help."""
    if job.cancelled:
        return Verdict(State.CANCELLED, "cancelled", seconds, Failure.CANCELLED)
    delay_s = retry_in_s(failure, job.attempts) if job.attempts < job.max_attempts else None
    memory_mb = None
    if failure is Failure.OUT_OF_MEMORY and delay_s is not None:
        memory_mb = workers.larger_memory(s, job)
        if memory_mb is None:
            delay_s, reason = None, f"{reason}; no worker's device has more memory"
    if delay_s is None:
        tried = f"; attempt {job.attempts}" if job.attempts > 1 else ""
        return Verdict(used_up, f"{reason}{tried}", seconds, failure)
    return Verdict(State.QUEUED, reason, seconds, failure, delay_s, memory_mb)


def _progress(job: Job, body: HeartbeatIn, time: datetime) -> dict[str, object]:
    """The newest progress, and the intermediate metrics of all heartbeats so far under ``reports``."""
    progress = dict(body.progress or {})
    reports = list(job.progress.get("reports", []))
    if progress.get("metrics"):
        seconds = (time - job.leased_at).total_seconds() if job.leased_at else 0.0
        said = {"step": progress.get("done", len(reports)), "metrics": progress["metrics"]}
        # The same again is the same report, sent again because its answer was not heard of.
        if not reports or {**reports[-1], "seconds": 0.0} != {**said, "seconds": 0.0}:
            reports.append({**said, "seconds": seconds})
    if reports:
        progress["reports"] = reports[-_REPORTS_KEPT:]
    return progress
