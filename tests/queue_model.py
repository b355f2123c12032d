"""The queue and its ledger in plain words: what every call must do, without a database, to be held against one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from service.core.failures import Failure, retry_in_s
from service.core.states import COUNTED, DEAD, FAILURES, OPEN, SearchState, State
from service.db import tables
from service.db.ledger import LATENCY_AGE_S
from service.db.rows import table_of
from service.wire.jobs import JobKind, Lease, WorkerIn
from service.wire.spaces import Resources

Key = tuple[int, ...]
"""Genes."""
Place = tuple[Key, str, str]
"""What a value is of: genes, metric, and the digest of a data set or the name of a device."""

MAX_ATTEMPTS: int = table_of(tables.Job).c.max_attempts.default.arg
AHEAD_S = 60.0


@dataclass
class Search:
    """A search, and what its trials need and are to give."""

    id: int
    budget: int
    priority: int
    max_failures: int
    wanted: tuple[str, ...]
    dataset: str
    resources: Resources
    state: SearchState = SearchState.RUNNING
    asks: int = 0
    completions: int = 0


@dataclass
class Trial:
    """A trial. ``ends`` counts how often it ended, ``opened`` how often it was opened."""

    id: int
    search: Search
    genes: Key
    state: State = State.QUEUED
    metrics: dict[str, float] = field(default_factory=dict)
    reused: bool = False
    paid_s: float = 0.0
    opened: int = 1
    ends: int = 0


@dataclass
class Job:
    """The job of a trial; its state is the trial's."""

    id: int
    trial: Trial
    turn: float
    weights: str | None
    memory_mb: int | None
    token: int = 0
    attempts: int = 0
    cancelled: bool = False
    answered: bool = False
    """A report of the newest lease was accepted."""
    worker: str | None = None
    lease_s: float = 0.0
    leased_at: datetime | None = None
    leased_until: datetime | None = None
    not_before: datetime | None = None

    @property
    def state(self) -> State:
        return self.trial.state

    @property
    def place(self) -> tuple[int, float, int]:
        """Where it stands in the queue."""
        return self.trial.search.priority, self.turn, self.id

    @property
    def device(self) -> str | None:
        """The device that its latency is asked of."""
        return next((device for name in self.trial.search.wanted if (device := name.partition("@")[2])), None)


@dataclass(frozen=True)
class Value:
    """A measurement."""

    value: float
    at: datetime
    report: tuple[int, int, str]
    """Job, token and worker."""


@dataclass(frozen=True)
class Held:
    """A lease as its worker has it, for ever: it may report it long after it has lost it."""

    lease: Lease
    worker: str
    device: str


@dataclass
class Model:
    """Everything that is known."""

    searches: dict[int, Search] = field(default_factory=dict)
    trials: dict[int, Trial] = field(default_factory=dict)
    jobs: dict[int, Job] = field(default_factory=dict)
    ledger: dict[Place, list[Value]] = field(default_factory=dict)
    workers: dict[str, WorkerIn] = field(default_factory=dict)

    # ------------------------------------------------------------------ what is known of an architecture

    def record(self, place: Place, value: Value) -> None:
        """A value that a report gives; the same report gives it once."""
        values = self.ledger.setdefault(place, [])
        if not any(each.report == value.report for each in values):
            values.append(value)

    def known(self, trial: Trial, name: str, device: str | None, at: datetime) -> float | None:
        """The value that may be used, as of a time: the first, of latencies the newest if it is young."""
        place = self.place(trial, name, device)
        values = self.ledger.get(place, []) if place[2] else []
        if not name.startswith("latency_ms"):
            return values[0].value if values else None
        young = [each for each in values if each.at >= at - timedelta(seconds=LATENCY_AGE_S)]
        return young[-1].value if young else None

    @staticmethod
    def place(trial: Trial, name: str, device: str | None) -> Place:
        """What a metric of a trial is of; "" where its device is not known."""
        if not name.startswith("latency_ms"):
            return trial.genes, name, trial.search.dataset
        return trial.genes, name, name.partition("@")[2] or device or ""

    def measured(self, trial: Trial, device: str | None, at: datetime) -> dict[str, float]:
        """What need not be measured."""
        found = {name: self.known(trial, name, device, at) for name in names(trial)}
        return {name: value for name, value in found.items() if value is not None}

    def is_known(self, trial: Trial, device: str | None, at: datetime) -> bool:
        """Whether nothing is left to be measured."""
        return self.measured(trial, device, at).keys() >= set(names(trial))

    # ------------------------------------------------------------------ ends

    def end(self, trial: Trial, state: State, metrics: Mapping[str, float] | None = None, reused: bool = False) -> None:
        """A trial ends; what has ended stays."""
        assert trial.state in OPEN, f"trial {trial.id} ended twice"
        trial.state, trial.metrics, trial.reused = state, dict(metrics or {}), reused
        trial.ends += 1
        trial.search.completions += 1

    def again(self, job: Job, time: datetime, delay_s: float) -> None:
        """A job comes back."""
        job.trial.state = State.QUEUED
        job.not_before = time + timedelta(seconds=delay_s) if delay_s else None

    def fails(self, job: Job, failure: Failure, used_up: State, time: datetime, alive: Iterable[str]) -> None:
        """A job at work ends, or comes back."""
        pause = retry_in_s(failure, job.attempts) if job.attempts < MAX_ATTEMPTS else None
        if job.cancelled:
            self.end(job.trial, State.CANCELLED)
            return
        if failure is Failure.OUT_OF_MEMORY and pause is not None:
            least = max(job.memory_mb or 0, self.workers[job.worker or ""].device.memory_mb) + 1
            larger = [name for name in alive if self.can_run(job, self.workers[name], least)]
            pause, job.memory_mb = (pause, least) if larger else (None, job.memory_mb)
        if pause is None:
            self.end(job.trial, used_up)
        else:
            self.again(job, time, pause)

    def stop(self, search: Search, state: SearchState) -> None:
        """A search ends: what waits is cancelled, what is at work is told."""
        search.state = state
        for job in self.of_search(search, State.QUEUED, State.LEASED):
            if job.state is State.LEASED:
                job.cancelled = True
            else:
                self.end(job.trial, State.CANCELLED)

    # ------------------------------------------------------------------ leases

    def of_search(self, search: Search, *states: State) -> Iterator[Job]:
        """Its jobs in these states."""
        return (job for job in self.jobs.values() if job.trial.search is search and job.state in states)

    @staticmethod
    def can_run(job: Job, worker: WorkerIn, memory_mb: int | None = None) -> bool:
        """Whether a worker has all that a job needs."""
        search, device = job.trial.search, worker.device
        return (
            JobKind.EVALUATE in worker.kinds
            and search.dataset in {each.digest for each in worker.datasets}
            and "training" in worker.evaluators
            and job.device in (None, device.name)
            and search.resources.device_type in (None, device.type)
            and (memory_mb or job.memory_mb or 0) <= device.memory_mb
        )

    def due(self, time: datetime) -> list[Job]:
        """Who waits and may be handed out, the next first."""
        waiting = (
            job
            for job in self.jobs.values()
            if job.state is State.QUEUED
            and job.trial.search.state is not SearchState.PAUSED
            and (job.not_before is None or job.not_before <= time)
        )
        return sorted(waiting, key=lambda job: job.place)

    def lease(self, held: Held, time: datetime) -> None:
        """A job goes to a worker: it must wait, be due, and be one that the worker can run."""
        lease, job = held.lease, self.jobs[held.lease.job]
        assert job in self.due(time), f"job {job.id} was handed out though it is {job.state} until {job.not_before}"
        assert self.can_run(job, self.workers[held.worker]), f"{held.worker} cannot run job {job.id}"
        asked = [name for name in job.trial.search.wanted if name in self.unknown(job.trial, held.device, time)]
        assert lease.payload["metrics"] == asked
        assert lease.payload["genes"] == list(job.trial.genes)
        job.token, job.attempts, job.worker = job.token + 1, job.attempts + 1, held.worker
        job.lease_s, job.leased_at, job.leased_until = lease.lease_s, time, time + timedelta(seconds=lease.lease_s)
        job.trial.state = State.LEASED
        assert (lease.token, lease.attempt, lease.expires_at) == (job.token, job.attempts, job.leased_until)
        assert job.attempts <= MAX_ATTEMPTS

    def unknown(self, trial: Trial, device: str, at: datetime) -> set[str]:
        """What is to be measured."""
        return set(names(trial)) - self.measured(trial, device, at).keys()

    def current(self, held: Held) -> bool:
        """Whether a lease still holds its job."""
        job = self.jobs[held.lease.job]
        return job.state is State.LEASED and job.token == held.lease.token

    # ------------------------------------------------------------------ people

    def retriable(self, search: Search) -> list[Job]:
        """Dead letters that are put back when all of a search are to be: as many as the budget has room for."""
        trials = [trial for trial in self.trials.values() if trial.search is search]
        dead = sorted(self.of_search(search, *DEAD), key=lambda job: job.id)
        spoken_for = sum(trial.state in COUNTED or trial.state in OPEN for trial in trials)
        kept = dead[: max(0, search.budget - spoken_for)]
        failures = sum(trial.state in FAILURES for trial in trials) - len(kept)
        if search.state in (SearchState.DONE, SearchState.CANCELLED):
            return []
        return [] if search.state is SearchState.FAILED and failures > search.max_failures else kept

    def retry(self, jobs: Sequence[Job]) -> None:
        """Dead letters wait again, with all their attempts."""
        for job in jobs:
            search = job.trial.search
            search.completions += 1
            if search.state is SearchState.FAILED:
                search.state = SearchState.RUNNING
            job.token, job.attempts, job.cancelled, job.answered, job.not_before = job.token + 1, 0, False, False, None
            job.trial.state, job.trial.opened = State.QUEUED, job.trial.opened + 1

    def counts(self, search: Search) -> Counter[str]:
        """Trials by state."""
        return Counter(trial.state.lower() for trial in self.trials.values() if trial.search is search)


def names(trial: Trial) -> list[str]:
    """What of a trial must be measured: the rest is counted."""
    return [name for name in trial.search.wanted if name != "macs"]
