"""Trials that pipelines evaluate for themselves: taken, reported on and ended by the trial's id.

A trial is evaluated by its job, so all of this is the queue's, with its fence; what is here speaks of trials.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.core.errors import Conflict, Invalid, NotFound
from service.core.failures import Failure
from service.core.metrics import Scope, metric
from service.core.states import SearchState, State
from service.db import devices, evaluators, leasing, ledger, queue, searches, subjects, trials, workers
from service.db.job_rows import JOBS, SELECT_JOBS, JobRow, read_jobs
from service.db.paging import checked_id
from service.db.tables import Job, Trial, now
from service.wire.base import Json, Metrics
from service.wire.jobs import CompleteBatch, Completed, CompleteIn, FailIn, HeartbeatIn, JobKind, Lease
from service.wire.payloads import EvaluateResult, ReplayResult
from service.wire.searches import TrialOut
from service.wire.trials import (
    PIPELINE,
    ReportIn,
    ReportOut,
    SuggestedTrial,
    SuggestIn,
    SuggestOut,
    TrialCompleteIn,
    TrialEndOut,
    TrialFailIn,
)

_FAILURES: Mapping[str, Failure] = {
    # What is meant where no class of failure is given
    "FAILED": Failure.BUG,
    "INFEASIBLE": Failure.INFEASIBLE,
    "CANCELLED": Failure.CANCELLED,
    "QUEUED": Failure.DRAINED,
}


def suggest(s: Session, search_id: int, body: SuggestIn, max_age_s: float = ledger.LATENCY_AGE_S) -> SuggestOut:
    """Leases ready trials of a search, whatever evaluator its study has; trials that the ledger answers end instead.

    A worker that never announced itself is made. Raises `NotFound` for a search that is not there.
    """
    search = searches.row(s, search_id)
    if search.state not in _LIVE:
        return SuggestOut(trials=[], state=SearchState(search.state), done=True)
    worker = workers.ensure(s, body.worker)
    leases = leasing.lease_of_search(s, search.id, worker, body.count, body.lease_s, max_age_s)
    of_jobs = select(Job.id, Trial.id).join(Trial, Trial.id == Job.trial_id)
    made_for = dict(s.execute(of_jobs.where(Job.id.in_([each.job for each in leases]))).all())
    shown = {each.id: each for each in trials.several(s, list(made_for.values()))}
    return SuggestOut(
        trials=[_suggested(lease, shown[made_for[lease.job]]) for lease in leases],
        state=SearchState(search.state),
        done=False,
    )


def report(s: Session, trial_id: int, body: ReportIn) -> ReportOut:
    """Keeps intermediate metrics, extends the lease, and says whether to go on.

    Raises `NotFound` and `Conflict` for a trial that is not there or was never handed out, `Stale` if the lease is
    over.
    """
    job = _job(s, trial_id, body.token)
    given = {"done": body.step, "total": body.total, "note": body.note, "metrics": dict(body.metrics)}
    progress: Json = {name: value for name, value in given.items() if value not in (None, "", {})}
    beat = queue.heartbeat(s, job.id, HeartbeatIn(token=body.token, progress=progress))
    if not beat.stop:
        return ReportOut(decision="continue", reason="", expires_at=beat.expires_at)
    search = searches.row(s, job.search_id or 0)
    ended = f"the search is {search.state}: {search.reason}" if search.state not in _LIVE else "the trial was cancelled"
    return ReportOut(decision="stop", reason=ended, expires_at=beat.expires_at)


def complete(s: Session, trial_id: int, body: TrialCompleteIn, max_age_s: float = ledger.LATENCY_AGE_S) -> TrialEndOut:
    """Takes in a result. Repeatable; a stale token changes nothing but the ledger: what was measured is kept.

    Raises `Invalid` for ``metrics.NAME`` that is missing, or belongs to another device, while the trial is held: it
    stays so, for the result to be sent again; else as `report`, but for stale tokens.
    """
    job = _job(s, trial_id, body.token)
    subject = subjects.read(s, [job])[job.id]
    holder = body.worker or job.worker or PIPELINE
    device = body.device or next((d for name in subject.wanted if (d := name.partition("@")[2])), holder)
    if job.state == State.LEASED and job.token == body.token:
        _check(s, subject, body.metrics, device, max_age_s)
    if device != holder:
        devices.ensure(s, device)
    result = EvaluateResult(metrics=body.metrics, device=device)
    if job.kind == JobKind.REPLAY:
        result = ReplayResult(metrics=body.metrics, device=device, seconds=body.seconds)
    said = result.model_dump(mode="json", exclude_defaults=True)
    given = CompleteIn(job=job.id, token=body.token, result=said, seconds=body.seconds)
    (answer,) = queue.complete(s, [CompleteBatch(worker=holder, results=[given])], max_age_s)
    return _ended(trial_id, answer.items[0])


def fail(s: Session, trial_id: int, body: TrialFailIn) -> TrialEndOut:
    """Ends a trial without a result, or hands it back. Repeatable; raises as `report`."""
    job = _job(s, trial_id, body.token)
    given = FailIn(
        token=body.token,
        state=State(body.state),
        failure=body.failure or _FAILURES[body.state],
        reason=body.reason,
        traceback=body.traceback,
        seconds=body.seconds,
    )
    # A pipeline that names no class of failure has decided: nothing is tried again.
    return _ended(trial_id, queue.fail(s, job.id, given, final=body.failure is None))


_LIVE = frozenset({SearchState.RUNNING, SearchState.PAUSED})


def _suggested(lease: Lease, trial: TrialOut) -> SuggestedTrial:
    return SuggestedTrial(
        trial=trial.id,
        job=lease.job,
        token=lease.token,
        number=trial.number,
        key=trial.key,
        config=trial.config,
        genes=trial.genes,
        metrics=lease.payload["metrics"],
        fidelity=trial.fidelity,
        seed=lease.payload["seed"],
        expires_at=lease.expires_at,
        lease_s=lease.lease_s,
        predicted=trial.predicted,
    )


def _job(s: Session, trial_id: int, token: int) -> JobRow:
    """The job behind a trial. It is not locked: the queue locks in its own order, and looks at the token again."""
    trial = s.get(Trial, checked_id(trial_id, "trial"), populate_existing=True)
    if trial is None:
        raise NotFound("trial", trial_id)
    newest = SELECT_JOBS.where(JOBS.c.trial_id == trial.id).order_by(JOBS.c.id.desc()).limit(1)
    job = next(iter(read_jobs(s, newest)), None)
    if job is None or job.token == 0:
        raise Conflict(f"trial {trial_id} is {trial.state}: it was never handed out")
    if token > job.token:
        raise Conflict(f"trial {trial_id} was handed out {job.token} times: there is no lease {token}")
    return job


def _check(s: Session, subject: subjects.Subject, metrics: Metrics, device: str, max_age_s: float) -> None:
    """What was asked for must be there before a trial ends: a pipeline can still mend what it sent."""
    for name in metrics:
        other = name.partition("@")[2]
        if other not in ("", device):
            raise Invalid(f"metrics.{name}", f"belongs to device {other!r}, this result is of device {device!r}")
    age = timedelta(seconds=evaluators.latency_age_s(subject.study, max_age_s))
    since = (subject.job.leased_at or now()) - age
    question = ledger.Question(subject.architecture_id, subject.wanted, subject.circumstances(device), since)
    known = ledger.known(s, [question])[0]
    missing = [
        name
        for name in subject.wanted
        if name not in metrics and name not in known and metric(name).scope is not Scope.ANALYTIC
    ]
    if missing:
        raise Invalid(f"metrics.{missing[0]}", f"is missing: the trial is to give {', '.join(missing)}")


def _ended(trial_id: int, done: Completed) -> TrialEndOut:
    return TrialEndOut(trial=trial_id, accepted=done.accepted, state=done.state)
