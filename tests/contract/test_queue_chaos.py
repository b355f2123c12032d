"""Controllers, workers and people at once, on both databases: whatever the order, the books balance."""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import func, select, update

from service.core.errors import Conflict, NotFound, Stale
from service.core.states import OPEN, SearchState, State
from service.db import events, exports, front, queue, searches, tables
from service.db.session import Database
from service.wire.jobs import HeartbeatIn, Lease
from tests.world import World

ROUNDS = 25


@pytest.fixture
def world(database: Database) -> World:
    return World(database).found(metrics=["latency_ms"])


def _controller(world: World, ids: list[int], me: str, rng: random.Random) -> None:
    search = rng.choice(ids)
    with world.database.write() as s:
        claim = searches.claim(s, search, me, rng.choice([0.01, 5]))
    if claim is None:
        return
    with world.database.read() as s:
        progress = searches.progress(s, search)
    if progress.open < 20:
        world.ask(search, world.genes(8, seed=rng.randrange(30)), ask=progress.asks, claim=claim)


def _worker(world: World, me: str, rng: random.Random) -> None:
    leases = world.lease(rng.randrange(1, 6), me, lease_s=rng.choice([0.01, 5]))
    if leases and rng.random() < 0.3:
        beat = HeartbeatIn(token=leases[0].token, progress={"done": 1})
        with world.database.write() as s:
            queue.heartbeat(s, leases[0].job, beat)
    fate: list[Callable[[Lease], object]] = [
        lambda lease: world.fail(lease, State.QUEUED, "drained"),
        lambda lease: world.fail(lease),
        lambda lease: None,  # killed
    ]
    if leases and rng.random() < 0.3:
        rng.choice(fate)(leases.pop())
    if leases:
        world.complete(leases, worker=me)
        if rng.random() < 0.3:
            world.complete(leases, worker=me)


def _people(world: World, ids: list[int], rng: random.Random) -> None:
    def cancel_one() -> None:
        with world.database.write() as s:
            waiting = queue.page(s, 20, state=State.QUEUED).items
            if waiting:
                queue.cancel(s, rng.choice(waiting).id)

    def say(verb: str) -> None:
        with world.database.write() as s:
            searches.set_state(s, rng.choice(ids), verb)

    def test_front() -> None:
        with world.database.write() as s:
            exports.test_front(s, "study")

    rng.choice([cancel_one, test_front, lambda: say("pause"), lambda: say("resume"), lambda: say("resume")])()
    if rng.random() < 0.05:
        say("cancel")
    with world.database.write() as s:
        queue.expire(s)
    with world.database.read() as s:
        front.front(s, "study")


def test_the_books_balance(world: World) -> None:
    ids = [world.search(budget=10_000).id for _ in range(4)]
    for index in range(4):
        world.worker(f"w{index}")
    actors: list[Callable[[random.Random], None]] = [
        *(lambda rng, me=f"c{i}": _controller(world, ids, me, rng) for i in range(2)),  # type: ignore[misc]
        *(lambda rng, me=f"w{i}": _worker(world, me, rng) for i in range(4)),  # type: ignore[misc]
        lambda rng: _people(world, ids, rng),
    ]

    def act(index: int) -> None:
        rng = random.Random(index)
        for _ in range(ROUNDS):
            try:
                actors[index](rng)
            except (Stale, Conflict, NotFound):
                continue  # refused, as it should be

    with ThreadPoolExecutor(len(actors)) as pool:
        list(pool.map(act, range(len(actors))))
    _check(world, ids)
    # Everything that is left can be brought to an end.
    with world.database.write() as s:
        while queue.expire(s, tables.now().replace(year=2100)):
            pass
        s.execute(update(tables.Job).values(not_before=None))  # as if the time until they may be tried again had passed
        for search in ids:
            if searches.get(s, search).state is SearchState.PAUSED:
                searches.set_state(s, search, "resume")
    while leases := world.lease():
        world.complete(leases)
    _check(world, ids)
    with world.database.read() as s:
        assert all(searches.progress(s, search).open == 0 for search in ids)
        assert not OPEN & queue.counts(s).keys()


def _check(world: World, ids: list[int]) -> None:
    with world.database.read() as s:
        assert events.last(s) == s.scalars(select(func.count()).select_from(tables.Event)).one()
        ended = [event.body["trial"] for event in events.after(s, 0, limit=100_000) if event.kind == "trial.ended"]
        every = list(s.scalars(select(tables.Trial)))
        jobs = {job.trial_id: job for job in s.scalars(select(tables.Job)) if job.trial_id is not None}
        measured = {each.architecture_id for each in s.scalars(select(tables.Measurement))}
        searches_by_id = {search: searches.row(s, search) for search in ids}
        repeats = select(tables.Measurement.job_id, tables.Measurement.token, tables.Measurement.metric)
        reports = [tuple(row) for row in s.execute(repeats.where(tables.Measurement.metric == "error"))]
    assert len(reports) == len(set(reports)), "a report was recorded twice"
    assert sorted(ended) == sorted(trial.id for trial in every if trial.completion is not None)
    for search in ids:
        trials = [trial for trial in every if trial.search_id == search]
        ends = sorted(trial.completion for trial in trials if trial.completion is not None)
        assert ends == list(range(1, searches_by_id[search].completions + 1))
        assert sorted(trial.number for trial in trials) == list(range(1, len(trials) + 1))
    for trial in every:
        assert (trial.completion is None) == (trial.state in OPEN)
        assert trial.id not in jobs or jobs[trial.id].state == trial.state
        if trial.state == State.SUCCEEDED:
            assert set(trial.metrics) == {"error", "macs", "latency_ms"}
            assert trial.architecture_id in measured
