"""Dead letters put back into the queue, and open jobs cancelled: many at a time, each or a reason why not.

A trial that is tried again is open again. That takes a number in the order of the ends of its search, which no trial
has then, and the end that the trial had is kept in `Trial.earlier`: whoever saw the search up to a number between the
two still finds the trial failed (the replay rule).
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Row, Select, func, select
from sqlalchemy.orm import Session

from service.core.states import DEAD, OPEN, SearchState, State
from service.db import asks, claims, failures, shares, supernets, trial_ends
from service.db.job_ends import end, lock
from service.db.jobs import announce
from service.db.outcomes import Ended, Verdict
from service.db.rows import update_all
from service.db.tables import Job, Predictor, Search, Supernet, Trial, now
from service.wire.jobs import CancelledOut, JobKind, JobsIn, LeftAlone, RetriedOut

_UNKNOWN = "there is no such job, or another filter leaves it out"


@dataclass(slots=True)
class _Plan:
    """What is to be done to which job, and why nothing to the others."""

    jobs: dict[int, Job]
    searches: dict[int, Search]
    again: set[int] = field(default_factory=set)
    left: dict[int, str] = field(default_factory=dict)

    def leave(self, jobs: Iterable[Job], reason: str) -> None:
        self.left.update({job.id: reason for job in jobs})

    def take(self, jobs: Iterable[Job]) -> None:
        self.again.update(job.id for job in jobs)

    def chosen(self) -> list[Job]:
        return [self.jobs[each] for each in sorted(self.again)]


def retry(s: Session, body: JobsIn) -> RetriedOut:
    """Puts dead letters back into the queue with all their attempts, and what they were for back to waiting.

    A search that failed runs again if that leaves it with no more failures than allowed. Left alone, with a reason,
    is what nobody waits for any more: trials of searches that are done or cancelled or whose budget is spoken for,
    fits whose ask was made without them, and what another job does or did. Raises as `failures.selected`.
    """
    found = failures.selected(s, body, DEAD)
    plan = _locked(s, found.ids)
    plan.left.update(dict.fromkeys(found.unknown, _UNKNOWN))
    dead = []
    for job in plan.jobs.values():
        if State(job.state) in DEAD:
            dead.append(job)
        else:
            plan.leave([job], f"it is {job.state}: only jobs that are {' or '.join(DEAD)} are tried again")
    revived = _plan_trials(s, plan, [job for job in dead if job.trial_id is not None])
    _plan_fits(s, plan, [job for job in dead if job.kind == JobKind.FIT], revived)
    trainings = [job for job in dead if job.kind == JobKind.TRAIN_SUPERNET]
    of_supernets = _plan_trainings(s, plan, trainings)
    _plan_others(s, plan, [job for job in dead if job.trial_id is None and job.kind not in _PLANNED])
    if not body.dry_run:
        _put_back(s, plan, of_supernets)
    left = [LeftAlone(job=job, reason=reason) for job, reason in sorted(plan.left.items())]
    return RetriedOut(retried=sorted(plan.again), left_alone=left, next=found.next)


def cancel(s: Session, body: JobsIn) -> CancelledOut:
    """Cancels jobs: at once while they wait, with the next heartbeat while they are at work.

    Ended jobs are left alone. Raises as `failures.selected`.
    """
    found = failures.selected(s, body, sorted(OPEN))
    jobs, searches = lock(s, found.ids)
    left = dict.fromkeys(found.unknown, _UNKNOWN)
    left.update({job.id: "it has ended already" for job in jobs.values() if State(job.state) not in OPEN})
    waiting = [job for job in jobs.values() if job.state == State.QUEUED]
    stopping = [job for job in jobs.values() if job.state == State.LEASED]
    if not body.dry_run:
        update_all(s, Job, [{"id": job.id} for job in stopping], {"cancelled": True})
        cancelled = Verdict(State.CANCELLED, "cancelled while it waited")
        end(s, searches, [Ended(job, cancelled) for job in waiting], now())
    return CancelledOut(
        cancelled=[job.id for job in waiting],
        stopping=[job.id for job in stopping],
        left_alone=[LeftAlone(job=job, reason=reason) for job, reason in sorted(left.items())],
        next=found.next,
    )


def _locked(s: Session, ids: Collection[int]) -> _Plan:
    """The jobs by id and their searches, locked in the order that `trial_ends.lock_searches` states."""
    of_jobs = select(Job.search_id).where(Job.id.in_(ids), Job.search_id.is_not(None)).distinct()
    searches = trial_ends.lock_searches(s, [each for each in s.scalars(of_jobs) if each is not None])
    query = select(Job).where(Job.id.in_(ids)).order_by(Job.id).with_for_update(key_share=True)
    jobs = {job.id: job for job in s.scalars(query.execution_options(populate_existing=True))}
    return _Plan(jobs, searches)


# ---------------------------------------------------------------------- what is tried again

_PLANNED = (JobKind.FIT, JobKind.TRAIN_SUPERNET)
_LIVE = (SearchState.RUNNING, SearchState.PAUSED)


def _plan_trials(s: Session, plan: _Plan, jobs: Sequence[Job]) -> set[int]:
    """Decides about jobs of trials; returns the searches that run again with them."""
    trials = {each.id: each for each in _trials(s, jobs)}
    of_search: dict[int, list[Job]] = {}
    for job in jobs:
        trial = trials[job.trial_id or 0]
        if State(trial.state) in DEAD:
            of_search.setdefault(trial.search_id, []).append(job)
        else:
            plan.leave([job], f"its trial is {trial.state}")
    revived = set()
    for search_id, some in of_search.items():
        search, failed = plan.searches[search_id], plan.searches[search_id].state == SearchState.FAILED
        if search.state == SearchState.CANCELLED:
            plan.leave(some, f"search {search_id} is CANCELLED: its trials are not tried again")
            continue
        if search.state == SearchState.DONE:
            plan.leave(some, f"search {search_id} is DONE: extend it first")
            continue
        progress = claims.progress(s, search_id)
        room = max(0, progress.left)
        beyond = [job for job in some if trials[job.trial_id or 0].evaluation][room:]
        reason = f"the budget of search {search_id}, {search.budget} evaluations, is spoken for: extend it first"
        kept = [job for job in some if job not in beyond]
        left = progress.failures - len(kept)
        if failed and left > search.max_failures:
            plan.leave(
                some,
                f"search {search_id} failed with {progress.failures} failures where {search.max_failures} are allowed: "
                f"at least {progress.failures - search.max_failures} must be tried again together",
            )
            continue
        plan.leave(beyond, reason)
        plan.take(kept)
        if failed and kept:
            revived.add(search_id)
    return revived


def _plan_fits(s: Session, plan: _Plan, jobs: Sequence[Job], revived: Collection[int]) -> None:
    stored = {each.id: each for each in s.scalars(_predictors(jobs))}
    for job in jobs:
        predictor = stored[job.predictor_id or 0]
        search = None if predictor.search_id is None else plan.searches[predictor.search_id]
        if State(predictor.state) not in DEAD:
            plan.leave([job], f"predictor {predictor.id} is {predictor.state}")
        elif search is not None and search.asks > (predictor.ask or 0):
            plan.leave([job], f"ask {predictor.ask} of search {search.id} was made without it")
        elif search is not None and search.state not in _LIVE and search.id not in revived:
            plan.leave([job], f"search {search.id} is {search.state}: it asks no more")
        else:
            plan.take([job])


def _plan_trainings(s: Session, plan: _Plan, jobs: Sequence[Job]) -> list[Supernet]:
    """Decides about trainings; returns the (locked) super-networks that are trained again."""
    ids = {job.supernet_id for job in jobs}
    query = select(Supernet).where(Supernet.id.in_(ids)).order_by(Supernet.id).with_for_update(key_share=True)
    stored = {each.id: each for each in s.scalars(query.execution_options(populate_existing=True))}
    last = select(Job.supernet_id, func.max(Job.id)).where(Job.supernet_id.in_(ids)).group_by(Job.supernet_id)
    newest = dict(s.execute(last).all())
    again = []
    for job in jobs:
        supernet = stored[job.supernet_id or 0]
        if supernet.state != supernets.FAILED:
            plan.leave([job], f"super-network {supernet.name!r} is {supernet.state}")
        elif newest[supernet.id] != job.id:
            plan.leave([job], f"job {newest[supernet.id]} is a newer training of super-network {supernet.name!r}")
        else:
            plan.take([job])
            again.append(supernet)
    return again


def _plan_others(s: Session, plan: _Plan, jobs: Sequence[Job]) -> None:
    """Decides about jobs that have only a result: of those that do the same to an architecture, the newest is enough.

    Scores and audits are cheap, and imports change nothing the second time: those are not compared.
    """
    plan.take(job for job in jobs if job.architecture_id is None)
    compared = [job for job in jobs if job.architecture_id is not None]
    columns = (Job.id, Job.kind, Job.study_id, Job.architecture_id, Job.payload)
    others = select(*columns).where(
        Job.architecture_id.in_({job.architecture_id for job in compared}),
        Job.trial_id.is_(None),
        Job.state.in_((*OPEN, State.SUCCEEDED)),
    )
    does = {_task(row): int(row.id) for row in s.execute(others.order_by(Job.id))} if compared else {}
    for job in sorted(compared, key=lambda each: -each.id):
        other = does.setdefault(_task(job), job.id)
        if other > job.id:
            plan.leave([job], f"job {other} does the same")
        else:
            plan.take([job])


def _task(job: Job | Row[*tuple[Any, ...]]) -> tuple[object, ...]:
    return (job.kind, job.study_id, job.architecture_id, json.dumps(job.payload, sort_keys=True))


# ---------------------------------------------------------------------- how


def _put_back(s: Session, plan: _Plan, of_supernets: Sequence[Supernet]) -> None:
    chosen = plan.chosen()
    _reopen(s, plan.searches, _trials(s, chosen))
    for predictor in s.scalars(_predictors([job for job in chosen if job.kind == JobKind.FIT])):
        predictor.state, predictor.summary = State.QUEUED, {}
        if predictor.search_id is not None:
            _fence(plan.searches[predictor.search_id])
    for supernet in of_supernets:
        supernets.retrained(s, supernet)
    # Before they wait: where they had stood once is not where the queue is now.
    _line_up(s, plan.searches, [job for job in chosen if job.trial_id is not None])
    for job in chosen:
        job.state, job.reason, job.failure, job.result = State.QUEUED, "", None, None
        job.attempts, job.not_before, job.cancelled, job.ended_at = 0, None, False, None
        # Who had it last and was thought lost finds its lease over.
        job.token += 1
    s.flush()
    announce(s, chosen, State.QUEUED)


def _line_up(s: Session, searches: dict[int, Search], jobs: Sequence[Job]) -> None:
    """Trials that are tried again come behind those that their search has asked for, as if it asked now."""
    of_search: dict[int, list[Job]] = {}
    for job in jobs:
        of_search.setdefault(job.search_id or 0, []).append(job)
    for search_id, some in of_search.items():
        for job, turn in zip(some, shares.turns(s, searches[search_id], len(some)), strict=True):
            job.turn = turn


def _reopen(s: Session, searches: dict[int, Search], trials: Sequence[Trial]) -> None:
    """Ended trials are open again."""
    reopened: dict[int, int] = {}
    for trial in trials:
        search = searches[trial.search_id]
        search.completions += 1
        had = {
            "completion": trial.completion,
            "reopened": search.completions,
            "state": trial.state,
            "reason": trial.reason,
            "paid_s": trial.paid_s,
            "ended_at": None if trial.ended_at is None else trial.ended_at.isoformat(),
        }
        trial.earlier = [*(trial.earlier or []), had]
        trial.state, trial.reason, trial.completion, trial.ended_at = State.QUEUED, "", None, None
        reopened[search.id] = reopened.get(search.id, 0) + 1
    s.flush()
    for search_id, count in reopened.items():
        search = searches[search_id]
        _fence(search)
        if search.state == SearchState.FAILED:
            search.ended_at = None
            asks.change_state(s, search, SearchState.RUNNING, f"{count} failed trials are tried again")
    trial_ends.queued(s, trial_ends.trials(s, Trial.id.in_([trial.id for trial in trials])))


def _fence(search: Search) -> None:
    """What a controller is about to write, it decided before: the token keeps it out."""
    search.token += 1
    search.controller, search.leased_until = None, None


def _trials(s: Session, jobs: Sequence[Job]) -> Sequence[Trial]:
    ids = [job.trial_id for job in jobs if job.trial_id is not None]
    query = select(Trial).where(Trial.id.in_(ids)).order_by(Trial.id).execution_options(populate_existing=True)
    return s.scalars(query).all()


def _predictors(jobs: Sequence[Job]) -> Select[Predictor]:
    ids = [job.predictor_id for job in jobs]
    return select(Predictor).where(Predictor.id.in_(ids)).execution_options(populate_existing=True)
