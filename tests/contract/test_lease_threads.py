"""The contract of leases with threads, on both databases: whatever is done at once, each trial has one accepted end.

Searches ask, workers lease in batches, report, fail, hand back, fall silent and report late; one thread lets time pass
and takes leases back, one cancels, one tries dead letters again. Each has a `Database` of its own, as processes have.
What they were told is held against what is stored. More of it: ``--hypothesis-profile`` with more examples.
"""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import settings
from sqlalchemy import select

from service.core.errors import Stale
from service.core.failures import Failure
from service.core.states import OPEN, SearchState, State
from service.db import checks, queue, retries, searches, tables
from service.db.artifacts import ArtifactStore
from service.db.session import Database
from service.wire.jobs import CompleteBatch, CompletedBatch, CompleteIn, FailIn, HeartbeatIn, JobsIn, Lease, LeaseIn
from tests.clock import Clock, stopped
from tests.world import CPU, GPU, World, evaluated

WORKERS = 4
TRIALS = 24
"""Of each search, to begin with."""


@dataclass
class Told:
    """What workers were told, and what they said. Threads share it."""

    leases: dict[tuple[int, int], str] = field(default_factory=dict)
    accepted: set[tuple[int, int]] = field(default_factory=set)
    reported: set[tuple[int, int]] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def leased(self, worker: str, leases: Sequence[Lease]) -> None:
        with self.lock:
            for each in leases:
                assert self.leases.setdefault((each.job, each.token), worker) == worker, "two hold one lease"

    def heard(self, bodies: Sequence[CompleteBatch], answers: Sequence[CompletedBatch]) -> None:
        with self.lock:
            for body, answer in zip(bodies, answers, strict=True):
                for given, said in zip(body.results, answer.items, strict=True):
                    self.reported.add((given.job, given.token))
                    if said.accepted:
                        self.accepted.add((given.job, given.token))


def value(job: int, token: int) -> float:
    """What a worker measures under a lease: every lease has another number, the same whenever it is reported."""
    return 0.1 + job / 4096 + token / 2**20


class Worker:
    """A process that works on whatever it gets, as its dice fall."""

    def __init__(self, url: str, name: str, told: Told, seed: int) -> None:
        self.database = Database(url)
        self.name, self.told, self.dice = name, told, random.Random(seed)
        self.late: list[Lease] = []

    def step(self) -> None:
        """Leases for itself and perhaps for a neighbour in the same call, and does something with each."""
        dice = self.dice
        names = [self.name, f"{self.name}-b"][: dice.choice([1, 1, 2])]
        bodies = [LeaseIn(worker=name, count=dice.randrange(1, 6)) for name in names]
        with self.database.write() as s:
            answers = queue.lease(s, bodies, dice.choice([0.5, 5.0, 50.0]))
        leases = []
        for name, some in zip(names, answers, strict=True):
            self.told.leased(name, some)
            leases += some
        done = []
        for lease in leases:
            fate = dice.random()
            if fate < 0.15:
                self.late.append(lease)
                continue
            if fate < 0.3:
                self.beat(lease)
            if fate < 0.45:
                self.fail(lease)
            else:
                done.append(lease)
        if self.late and dice.random() < 0.3:
            done.append(self.late.pop(dice.randrange(len(self.late))))
        self.report(done)
        if dice.random() < 0.2:
            self.report(done)  # the answer was lost

    def report(self, leases: Sequence[Lease]) -> None:
        """Results of leases that it has, or had."""
        if not leases:
            return
        by_worker: dict[str, list[CompleteIn]] = {}
        for each in leases:
            result = evaluated({"error": value(each.job, each.token)})
            body = CompleteIn(job=each.job, token=each.token, result=result, seconds=1.0)
            by_worker.setdefault(self.told.leases[each.job, each.token], []).append(body)
        bodies = [CompleteBatch(worker=name, results=results) for name, results in by_worker.items()]
        with self.database.write() as s:
            answers = queue.complete(s, bodies)
        self.told.heard(bodies, answers)

    def beat(self, lease: Lease) -> None:
        try:
            with self.database.write() as s:
                queue.heartbeat(s, lease.job, HeartbeatIn(token=lease.token, progress={"done": 1}))
        except Stale:
            self.late.append(lease)

    def fail(self, lease: Lease) -> None:
        failure = self.dice.choice(list(Failure))
        state = State.QUEUED if failure is Failure.DRAINED else State.FAILED
        body = FailIn(token=lease.token, state=state, failure=failure, reason="a test", seconds=1.0)
        try:
            with self.database.write() as s:
                queue.fail(s, lease.job, body)
        except Stale:
            self.late.append(lease)


def _time_passes(database: Database, clock: Clock, dice: random.Random) -> None:
    clock.move(dice.choice([0.1, 1.0, 5.0]))
    with database.write() as s:
        queue.expire(s)


def _a_search_asks(database: Database, ids: Sequence[int], dice: random.Random) -> None:
    """For more, when little is left, and partly for what was asked for before."""
    world, search = World(database), dice.choice(ids)
    with database.read() as s:
        progress = searches.progress(s, search)
    if progress.open >= TRIALS // 2:
        return
    with database.write() as s:
        claim = searches.claim(s, search, "c1", 60)
    if claim is not None:
        with contextlib.suppress(Stale):  # paused meanwhile, or something was put back
            world.ask(search, world.genes(TRIALS // 2, seed=dice.randrange(20)), progress.asks, claim)


def _somebody_cancels(database: Database, ids: Sequence[int], dice: random.Random) -> None:
    with database.read() as s:
        waiting = s.scalars(select(tables.Job.id).where(tables.Job.state.in_(OPEN))).all()
    if waiting and dice.random() < 0.2:
        with database.write() as s:
            if dice.random() < 0.5:
                queue.cancel(s, dice.choice(waiting))
            else:
                retries.cancel(s, JobsIn(ids=dice.sample(waiting, min(2, len(waiting)))))
    with database.write() as s:
        searches.set_state(s, dice.choice(ids), dice.choice(["pause", "resume", "resume"]))


def _somebody_tries_again(database: Database, ids: Sequence[int], dice: random.Random) -> None:
    with database.write() as s:
        retries.retry(s, JobsIn(search=dice.choice(ids)))
    with database.read() as s:
        for each in ids:
            shown, progress = searches.get(s, each), searches.progress(s, each)
            assert sum(shown.counts.model_dump().values()) == progress.trials
            assert shown.counts.queued + shown.counts.leased == progress.open


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return stopped(monkeypatch)


@pytest.fixture
def databases(database_url: str) -> Iterator[Callable[[], Database]]:
    """Called, gives a `Database` of its own to whoever calls."""
    made: list[Database] = []

    def another() -> Database:
        made.append(Database(database_url))
        return made[-1]

    yield another
    for each in made:
        each.dispose()


def test_the_contract_of_leases_with_threads(
    database_url: str, databases: Callable[[], Database], clock: Clock, tmp_path: Path
) -> None:
    rounds = max(5, settings().max_examples // 6)
    world = World(databases()).found()
    ids = [world.search(budget=1000, max_failures=1000, share=share).id for share in (1.0, 2.0)]
    for number, search in enumerate(ids):
        world.ask(search, world.genes(TRIALS, seed=number))
    told = Told()
    for number in range(WORKERS):
        for name in (f"w{number}", f"w{number}-b"):
            world.worker(name, device=CPU if number else GPU)
    crew = [Worker(database_url, f"w{number}", told, seed=number) for number in range(WORKERS)]
    steps: list[Callable[[], None]] = [each.step for each in crew]
    for seed, other in enumerate((_a_search_asks, _somebody_cancels, _somebody_tries_again)):
        steps.append(_bound(other, databases(), ids, random.Random(100 + seed)))
    working = threading.Event()
    working.set()

    def live(step: Callable[[], None]) -> None:
        for _ in range(rounds):
            step()

    def wind() -> None:
        database, dice = databases(), random.Random(200)
        while working.is_set():
            _time_passes(database, clock, dice)

    with ThreadPoolExecutor(len(steps) + 1) as pool:
        winding = pool.submit(wind)
        try:
            for task in [pool.submit(live, step) for step in steps]:
                task.result()
        finally:
            working.clear()
        winding.result()
    _bring_to_an_end(world, clock, ids, crew[0])
    for each in crew:
        each.report(each.late)
        each.database.dispose()
    _check(world, told)
    assert {
        each.name: each.problems for each in checks.run(world.database, ArtifactStore(tmp_path)) if each.problems
    } == {}


def _bound(
    what: Callable[[Database, Sequence[int], random.Random], None],
    database: Database,
    ids: Sequence[int],
    dice: random.Random,
) -> Callable[[], None]:
    return lambda: what(database, ids, dice)


def _bring_to_an_end(world: World, clock: Clock, ids: Sequence[int], worker: Worker) -> None:
    """What is left over is done by one worker that never fails."""
    with world.database.write() as s:
        for search in ids:
            if searches.get(s, search).state is SearchState.PAUSED:
                searches.set_state(s, search, "resume")
    for _ in range(50):
        clock.move(1000.0)
        with world.database.write() as s:
            queue.expire(s)
            (leases,) = queue.lease(s, [LeaseIn(worker=worker.name, count=64)])
        worker.told.leased(worker.name, leases)
        worker.report(leases)
        with world.database.read() as s:
            if not OPEN & queue.counts(s).keys():
                return
    raise AssertionError("some jobs never end")


def _check(world: World, told: Told) -> None:
    with world.database.read() as s:
        trials = {trial.id: trial for trial in s.scalars(select(tables.Trial))}
        jobs = {job.id: job for job in s.scalars(select(tables.Job))}
        rows = s.scalars(select(tables.Measurement).where(tables.Measurement.metric == "error")).all()
    kept = [(row.job_id, row.token) for row in rows]
    assert len(kept) == len(set(kept)), "a report was recorded twice"
    assert set(kept) == told.reported, "what was measured is kept, and nothing else"
    for row in rows:
        assert row.value == value(row.job_id or 0, row.token or 0)
    for job in jobs.values():
        trial = trials[job.trial_id or 0]
        accepted = [token for of, token in told.accepted if of == job.id]
        assert trial.state == job.state
        if trial.state == State.SUCCEEDED and not trial.reused:
            (token,) = accepted
            assert token == job.token
            assert trial.metrics["error"] == value(job.id, token)
        else:
            assert not accepted
        tokens = sorted(token for of, token in told.leases if of == job.id)
        # A token that nobody was told of is that of a retry: it keeps the lease before it out.
        assert len(tokens) + len(trial.earlier or ()) == job.token
    for trial in trials.values():
        assert State(trial.state) not in OPEN
        if trial.reused:
            assert trial.metrics["error"] in {row.value for row in rows if row.architecture_id == trial.architecture_id}
