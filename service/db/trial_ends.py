"""How trials end: one place that numbers the ends of a search and tells of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session, load_only
from sqlalchemy.orm.attributes import set_committed_value

from service.core.states import OPEN, State
from service.db import events, jobs
from service.db.job_rows import ARCHITECTURES, JOBS, TRIAL_COLUMNS, TRIALS, TrialRow
from service.db.rows import among, update_all
from service.db.tables import Job, Search, Trial, now
from service.wire.base import Metrics

_OF_TRIALS = select(*TRIAL_COLUMNS).join(ARCHITECTURES, ARCHITECTURES.c.id == TRIALS.c.architecture_id)
_LOCKED_BY_JOBS = (
    select(Search)
    .options(load_only(Search.id, Search.study_id, Search.completions, raiseload=True))
    .where(Search.id.in_(select(JOBS.c.search_id).where(among(JOBS.c.id, "jobs"))))
    .order_by(Search.id)
    .with_for_update(key_share=True, of=Search)
    .execution_options(populate_existing=True)
)


@dataclass(frozen=True, slots=True)
class TrialEnd:
    """What became of a trial. ``seconds`` are added to what was paid for it before."""

    trial: TrialRow
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


def lock_searches_of(s: Session, job_ids: Collection[int]) -> dict[int, Search]:
    """The searches that these jobs belong to, locked as in `lock_searches`; only what ends of trials need is read."""
    return {search.id: search for search in s.scalars(_LOCKED_BY_JOBS, {"jobs": job_ids})}


def trials(s: Session, *criteria: ColumnElement[bool]) -> list[TrialRow]:
    """The trials that pass all criteria, by search and number."""
    query = _OF_TRIALS.where(*criteria).order_by(TRIALS.c.search_id, TRIALS.c.number)
    return [TrialRow(*row) for row in s.execute(query)]


def end_trials(s: Session, searches: dict[int, Search], ends: Sequence[TrialEnd]) -> None:
    """Ends open trials, numbering the ends within each (locked) search in the order given.

    A trial that has ended stays as it is.
    """
    time = now()
    changes: list[dict[str, Any]] = []
    counted: dict[int, Search] = {}
    for end in ends:
        trial = end.trial
        if trial.state not in OPEN:
            continue
        search = counted[trial.search_id] = searches[trial.search_id]
        set_committed_value(search, "completions", search.completions + 1)
        changes.append(
            {
                "id": trial.id,
                "state": end.state.value,
                "reason": end.reason,
                "metrics": dict(end.metrics),
                "reused": end.reused,
                "completion": search.completions,
                "paid_s": end.seconds,
            }
        )
        body = {
            "trial": trial.id,
            "number": trial.number,
            "ask": trial.ask,
            "key": trial.key,
            "state": end.state.value,
            "reason": end.reason,
            "metrics": dict(end.metrics),
            "reused": end.reused,
            "probe": trial.probe,
        }
        events.emit(s, "trial.ended", trial.study_id, trial.search_id, body)
    update_all(s, Trial, changes, {"ended_at": time}, added=("paid_s",))
    update_all(s, Search, [{"id": each.id, "completions": each.completions} for each in counted.values()])


def requeue(s: Session, paid: Mapping[int, float]) -> None:
    """Trials whose work came back without an end wait again. ``paid``: trial id → seconds that it cost."""
    if not paid:
        return
    changes = [{"id": trial, "paid_s": seconds} for trial, seconds in paid.items()]
    update_all(s, Trial, changes, {"state": State.QUEUED.value}, added=("paid_s",))
    queued(s, trials(s, TRIALS.c.id.in_(paid)))


def queued(s: Session, trials: Iterable[TrialRow]) -> None:
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
    waiting = trials(s, TRIALS.c.search_id == search.id, TRIALS.c.state == State.QUEUED)
    end_trials(s, {search.id: search}, [TrialEnd(trial, State.CANCELLED, reason) for trial in waiting])
    jobs.announce(s, ended, State.CANCELLED, reason)
