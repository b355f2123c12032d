"""Handing out jobs: which a worker can run, which the ledger answers instead, and what is sent with them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

from sqlalchemy import BindParameter, ColumnElement, Select, bindparam, exists, or_, select, update
from sqlalchemy.orm import Session

from service.core.failures import Failure
from service.core.metrics import Circumstances, Scope, metric
from service.core.states import SearchState, State
from service.db import evaluators, ledger, outcomes, payloads, subjects, trial_ends, workers
from service.db import replays as replaying
from service.db.job_ends import end
from service.db.job_rows import JOBS, SELECT_JOBS, TRIALS, JobRow, read_jobs
from service.db.jobs import announce
from service.db.outcomes import Ended, Verdict
from service.db.rows import among, update_all
from service.db.tables import Job, Search, Worker, now
from service.wire.jobs import JobKind, Lease, LeaseIn


def _list(name: str) -> BindParameter[Any]:
    return bindparam(name, expanding=True)


def _served(column: ColumnElement[str | None], there: str) -> ColumnElement[bool]:
    """A job that needs nothing, or what is there."""
    return or_(column.is_(None), column.in_(_list(there)))


def _waiting(read: Select[*tuple[Any, ...]], *wanted: ColumnElement[bool]) -> Select[*tuple[Any, ...]]:
    """Jobs that wait, in the order in which they are due."""
    paused = exists().where(Search.id == JOBS.c.search_id, Search.state == SearchState.PAUSED)
    due = or_(JOBS.c.not_before.is_(None), JOBS.c.not_before <= bindparam("time"))
    return (
        read.where(JOBS.c.state == State.QUEUED, *wanted, ~paused, due, ~among(JOBS.c.id, "passed"))
        .order_by(JOBS.c.priority, JOBS.c.turn, JOBS.c.id)
        .limit(bindparam("count"))
    )


def _locked(*wanted: ColumnElement[bool]) -> Select[*tuple[Any, ...]]:
    """Jobs that wait, locked; on PostgreSQL those that another transaction holds are passed over."""
    return _waiting(SELECT_JOBS, *wanted).with_for_update(key_share=True, skip_locked=True, of=JOBS)


_RUNS = (
    JOBS.c.kind.in_(_list("kinds")),
    JOBS.c.kind != JobKind.IMPORT,
    _served(JOBS.c.needs_dataset, "datasets"),
    _served(JOBS.c.needs_evaluator, "evaluators"),
    _served(JOBS.c.needs_device, "devices"),
    _served(JOBS.c.needs_device_type, "device_types"),
    or_(JOBS.c.needs_memory_mb.is_(None), JOBS.c.needs_memory_mb <= bindparam("memory_mb")),
)
# Made once: to put such a statement together takes longer than to run it.
_RUNNABLE = _locked(*_RUNS)
# Scores of untrained networks are for workers: a pipeline is asked for what it alone can measure.
_OF_SEARCH = _locked(
    JOBS.c.search_id == bindparam("search"), JOBS.c.trial_id.is_not(None), JOBS.c.kind != JobKind.SCORE
)
_NEXT = _waiting(select(JOBS.c.priority, JOBS.c.turn), *_RUNS)
_OF_PRIORITY = _locked(*_RUNS, JOBS.c.priority == bindparam("priority"))
_LOADED = _locked(
    *_RUNS,
    JOBS.c.priority == bindparam("priority"),
    JOBS.c.turn <= bindparam("latest"),
    JOBS.c.needs_weights.in_(_list("weights")),
)
_AHEAD_S = 60.0
"""Jobs whose super-network a worker has loaded go before others whose turn is at most so much earlier: to load another
one takes seconds, and a search must not wait for ever for a worker that never runs out of its favourite."""


def _due(s: Session, given: Mapping[str, Any]) -> list[JobRow]:
    """The jobs for workers that ask for the same: in the order of their turns, but those of super-networks that they
    have loaded first."""
    if "weights" not in given:
        return read_jobs(s, _OF_SEARCH if "search" in given else _RUNNABLE, given)
    found: list[JobRow] = []
    while left := given["count"] - len(found):
        here: Mapping[str, Any] = {**given, "passed": [*given["passed"], *(job.id for job in found)], "count": left}
        next_ = s.execute(_NEXT, {**here, "count": 1}).one_or_none()
        if next_ is None:
            break
        of_priority = {**here, "priority": next_.priority}
        loaded = read_jobs(s, _LOADED, {**of_priority, "latest": next_.turn + _AHEAD_S})
        passed = [*here["passed"], *(job.id for job in loaded)]
        others = {**of_priority, "passed": passed, "count": left - len(loaded)}
        some = [*loaded, *(read_jobs(s, _OF_PRIORITY, others) if others["count"] else ())]
        if not some:
            break  # others hold them at this moment
        found += some
    return found


_LEASE_TRIALS = update(TRIALS).where(among(TRIALS.c.id, "trials")).values(state=State.LEASED.value)

LEASE_S = 30.0
_EVALUATIONS = frozenset({JobKind.EVALUATE, JobKind.REPLAY, JobKind.SCORE})
_ROUNDS = 8
"""A lease looks at most so often for more jobs when the ledger has answered those it found."""


@dataclass(slots=True)
class _Askers:
    """Workers that can run the same jobs, and how many each wants; ``taken`` are theirs, in this order."""

    device: str
    parameters: Mapping[str, Any]
    workers: list[tuple[str, int]]
    taken: list[JobRow] = field(default_factory=list)

    @property
    def wanted(self) -> int:
        """How many jobs more."""
        return sum(count for _, count in self.workers) - len(self.taken)

    def shares(self) -> list[list[JobRow]]:
        """Per worker its jobs: each has one before any has two."""
        rounds = range(max(most for _, most in self.workers))
        turns = (index for turn in rounds for index, (_, most) in enumerate(self.workers) if turn < most)
        counts = Counter(islice(turns, len(self.taken)))
        jobs = iter(self.taken)
        return [list(islice(jobs, counts[index])) for index in range(len(self.workers))]


def lease(
    s: Session, bodies: Sequence[LeaseIn], lease_s: float = LEASE_S, max_age_s: float = ledger.LATENCY_AGE_S
) -> list[list[Lease]]:
    """Hands out to each worker that asks at most ``count`` jobs that it can run, those of a smaller priority first.

    A trial whose metrics have all become known, on the worker's device too, ends as reused instead of being handed
    out. Raises `NotFound` for a worker that never announced itself.
    """
    time = now()
    known = workers.several(s, [body.worker for body in bodies])
    _see(s, known.values(), time)
    alike: dict[str, _Askers] = {}
    places = []
    for body in bodies:
        worker = known[body.worker]
        device = worker.device
        runs = {
            "kinds": worker.kinds,
            "datasets": worker.datasets,
            "evaluators": worker.evaluators,
            "devices": [device["name"]],
            "device_types": [device["type"]],
            "memory_mb": device["memory_mb"],
            **({"weights": body.weights} if body.weights else {}),
        }
        askers = alike.setdefault(json.dumps(runs), _Askers(device["name"], runs, []))
        places.append((askers, len(askers.workers)))
        askers.workers.append((worker.name, body.count))
    leases = _lease(s, list(alike.values()), lease_s, max_age_s, time)
    return [leases[id(askers)][place] for askers, place in places]


def lease_of_search(
    s: Session, search_id: int, worker: Worker, count: int, lease_s: float, max_age_s: float
) -> list[Lease]:
    """Hands out at most ``count`` trials of one search, whatever they need: who asks for them brings it."""
    time = now()
    _see(s, [worker], time)
    askers = _Askers(worker.device["name"], {"search": search_id}, [(worker.name, count)])
    return _lease(s, [askers], lease_s, max_age_s, time)[id(askers)][0]


def _see(s: Session, asking: Iterable[Worker], time: datetime) -> None:
    late = [worker.name for worker in asking if workers.forgotten(worker, time)]
    if late:
        workers.seen(s, late, time)


def _lease(
    s: Session, groups: Sequence[_Askers], lease_s: float, max_age_s: float, time: datetime
) -> dict[int, list[list[Lease]]]:
    """Per group (by identity) and worker its leases."""
    passed: set[int] = set()
    measured: dict[int, tuple[subjects.Subject, set[str]]] = {}
    asking = list(groups)
    for _ in range(_ROUNDS):
        found: list[tuple[_Askers, list[JobRow]]] = []
        for each in asking:
            jobs = _due(s, {**each.parameters, "time": time, "passed": passed, "count": each.wanted})
            passed.update(job.id for job in jobs)
            found.append((each, jobs))
        known: dict[int, _Answer] = {}
        for each, jobs in found:
            known.update(_known(s, jobs, each.device, max_age_s))
        rest = {job: (subject, _given(subject, answer)) for job, (subject, answer) in known.items()}
        complete = {job for job, (subject, given) in rest.items() if given.issuperset(subject.wanted)}
        _reuse(s, [known[job] for job in sorted(complete)], time)
        measured.update({job: each for job, each in rest.items() if job not in complete})
        for each, jobs in found:
            each.taken += [job for job in jobs if job.id not in complete]
        # Who got what the ledger answered looks for more.
        asking = [each for each, jobs in found if each.wanted and any(job.id in complete for job in jobs)]
        if not asking:
            break
    taken = [
        (name, job)
        for each in groups
        for (name, _), jobs in zip(each.workers, each.shares(), strict=True)
        for job in jobs
    ]
    made = _hand_out(s, taken, measured, lease_s, time)
    return {id(each): [[made[job.id] for job in jobs if job.id in made] for jobs in each.shares()] for each in groups}


_Answer = tuple[subjects.Subject, dict[str, ledger.Known]]


def _known(s: Session, found: Sequence[JobRow], device: str, max_age_s: float) -> dict[int, _Answer]:
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
    ended = {"state": State.SUCCEEDED.value, "reason": "answered from the ledger", "ended_at": time}
    update_all(s, Job, [{"id": subject.job.id} for subject, _ in free], ended)


def _hand_out(
    s: Session, taken: Sequence[tuple[str, JobRow]], measured: payloads.Measured, lease_s: float, time: datetime
) -> dict[int, Lease]:
    """Job id → lease, for pairs of worker and job; without the jobs of which no payload can be made."""
    if not taken:
        return {}
    bodies, broken = payloads.materialise_all(s, [job for _, job in taken], measured)
    _refuse_broken(s, [job for _, job in taken if job.id in broken], broken, time)
    sound = [(worker, job) for worker, job in taken if job.id not in broken]
    until = time + timedelta(seconds=lease_s)
    leased = {
        "state": State.LEASED.value,
        "reason": "",
        "token": 1,
        "attempts": 1,
        "lease_s": lease_s,
        "leased_until": until,
        "leased_at": time,
        "progress": {},
    }
    changes = [{"id": job.id, "worker": worker} for worker, job in sound]
    update_all(s, Job, changes, leased, added=("token", "attempts"))
    s.execute(_LEASE_TRIALS, {"trials": [job.trial_id for _, job in sound if job.trial_id is not None]})
    announce(s, [job for _, job in sound], State.LEASED)
    return {
        job.id: Lease(
            job=job.id,
            kind=JobKind(job.kind),
            token=job.token + 1,
            attempt=job.attempts + 1,
            expires_at=until,
            lease_s=lease_s,
            payload=bodies[job.id],
            checkpoint=job.checkpoint,
        )
        for _, job in sound
    }


def _refuse_broken(s: Session, jobs: Sequence[JobRow], errors: Mapping[int, Exception], time: datetime) -> None:
    """Ends jobs that nobody could run. Where another transaction holds the search that waits for the next lease."""
    searches = trial_ends.lock_searches(
        s, {job.search_id for job in jobs if job.search_id is not None}, skip_locked=True
    )
    free = [job for job in jobs if job.search_id is None or job.search_id in searches]
    verdicts = [
        Verdict(State.FAILED, f"no payload could be made: {errors[job.id]}", failure=Failure.INVALID) for job in free
    ]
    end(s, searches, [Ended(job, verdict) for job, verdict in zip(free, verdicts, strict=True)], time)
