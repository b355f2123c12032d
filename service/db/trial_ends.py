"""How trials end: one place that numbers the ends of a search and tells of them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.core.states import OPEN, State
from service.db import events, jobs
from service.db.tables import Architecture, Job, Search, Trial, now
from service.wire.base import Metrics


@dataclass(frozen=True, slots=True)
class TrialEnd:
    """What became of a trial. ``seconds`` are added to what was paid for it before."""

    trial: Trial
    state: State
    reason: str = ""
    metrics: Metrics = field(default_factory=dict)
    reused: bool = False
    seconds: float = 0.0


def lock_searches(s: Session, ids: Collection[int], *, skip_locked: bool = False) -> dict[int, Search]:
    """The searches, locked until the transaction ends.

    Every transaction takes its locks in one order, so that none waits for another in a circle: searches, then jobs,
    then trials, each by id, then the ledger, and the counter of the events last. Who holds a job already may only
    take searches with ``skip_locked``: those that others hold are left out.
    """
    if not ids:
        return {}
    query = select(Search).where(Search.id.in_(ids)).order_by(Search.id)
    locking = query.with_for_update(key_share=True, skip_locked=skip_locked).execution_options(populate_existing=True)
    return {search.id: search for search in s.scalars(locking)}


def end_trials(s: Session, searches: dict[int, Search], ends: Sequence[TrialEnd]) -> None:
    """Ends open trials, numbering the ends within each (locked) search in the order given.

    A trial that has ended stays as it is.
    """
    time = now()
    open_ends = [end for end in ends if State(end.trial.state) in OPEN]
    wanted = {end.trial.architecture_id for end in open_ends}
    query = select(Architecture.id, Architecture.key).where(Architecture.id.in_(wanted))
    keys = dict(s.execute(query).all()) if wanted else {}
    for end in open_ends:
        trial, search = end.trial, searches[end.trial.search_id]
        search.completions += 1
        trial.completion = search.completions
        trial.state, trial.reason = end.state, end.reason
        trial.metrics, trial.reused = dict(end.metrics), end.reused
        trial.paid_s += end.seconds
        trial.ended_at = time
        body = {
            "trial": trial.id,
            "number": trial.number,
            "ask": trial.ask,
            "key": keys[trial.architecture_id],
            "state": end.state.value,
            "reason": end.reason,
            "metrics": dict(end.metrics),
            "reused": end.reused,
            "probe": trial.probe,
        }
        events.emit(s, "trial.ended", trial.study_id, trial.search_id, body)
    s.flush()


def queued(s: Session, trials: Sequence[Trial]) -> None:
    """Tells that trials wait for a worker."""
    for trial in trials:
        body = {"trial": trial.id, "number": trial.number, "ask": trial.ask, "probe": trial.probe}
        events.emit(s, "trial.queued", trial.study_id, trial.search_id, body)


def cancel_open(s: Session, search: Search, reason: str) -> None:
    """Cancels the queued jobs and trials of a (locked) search; those at work are told with their next heartbeat."""
    query = select(Job).where(Job.search_id == search.id, Job.state.in_(OPEN)).order_by(Job.id)
    time, ended = now(), []
    for job in s.scalars(query.with_for_update(key_share=True).execution_options(populate_existing=True)):
        if job.state == State.LEASED:
            job.cancelled = True
        else:
            job.state, job.reason, job.ended_at = State.CANCELLED, reason, time
            ended.append(job)
    waiting = select(Trial).where(Trial.search_id == search.id, Trial.state == State.QUEUED).order_by(Trial.number)
    trials = s.scalars(waiting.execution_options(populate_existing=True)).all()
    end_trials(s, {search.id: search}, [TrialEnd(trial, State.CANCELLED, reason) for trial in trials])
    jobs.announce(s, ended)
