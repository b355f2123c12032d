"""Events, on both databases: gapless, in the order of the commits, together with what they tell of."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from service.db import events
from service.db.session import Database
from tests.world import World, statements


def _numbers(database: Database, after: int = 0, limit: int = 10_000) -> list[int]:
    with database.read() as s:
        return [event.number for event in events.after(s, after, limit=limit)]


def test_numbers_are_gapless_and_come_in_commit_order(database: Database) -> None:
    """A reader that follows the stream while eight threads write sees every event, each right after the one before."""
    writers, each = 8, 25
    done = threading.Event()

    def write(writer: int) -> None:
        for index in range(each):
            try:
                with database.write() as s:
                    events.emit(s, "ask", body={"writer": writer, "index": index})
                    if index % 5 == 0:
                        events.emit(s, "ask", body={"writer": writer, "index": -1})
                    if index % 7 == 3:
                        raise LookupError
            except LookupError:
                pass

    def follow() -> list[int]:
        seen: list[int] = []
        while True:
            finished = done.is_set()
            found = _numbers(database, seen[-1] if seen else 0, 7)
            seen += found
            if finished and not found:
                return seen

    with ThreadPoolExecutor(writers + 1) as pool:
        reader = pool.submit(follow)
        tasks = [pool.submit(write, writer) for writer in range(writers)]
        try:
            for task in tasks:
                task.result()
        finally:
            done.set()
        seen = reader.result()
    per_writer = sum(1 + (index % 5 == 0) for index in range(each) if index % 7 != 3)
    assert seen == list(range(1, writers * per_writer + 1))
    with database.read() as s:
        stored = events.after(s, 0, limit=10_000)
        assert events.last(s) == len(stored)
    for writer in range(writers):
        told = [e.body["index"] for e in stored if e.body["writer"] == writer and e.body["index"] >= 0]
        assert told == [index for index in range(each) if index % 7 != 3]


def test_what_is_rolled_back_was_never_told(database: Database) -> None:
    def fail() -> None:
        with database.write() as s:
            events.emit(s, "ask")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert _numbers(database) == []
    with database.write() as s:
        events.emit(s, "ask")
    assert _numbers(database) == [1]


def test_the_stream_starts_anywhere_and_ends_at_the_limit(database: Database) -> None:
    with database.write() as s:
        for _ in range(10):
            events.emit(s, "ask")
    assert _numbers(database, 4, 3) == [5, 6, 7]
    assert _numbers(database, 10) == []


def test_a_study_has_its_own_stream(database: Database) -> None:
    world = World(database).found()
    world.study(name="second")
    with database.read() as s:
        assert [event.body for event in events.after(s, 0, "second")] == [{"study": "second"}]
        assert {event.study for event in events.after(s, 0)} == {None, "study", "second"}
        assert events.after(s, 0, "nowhere") == []


def test_many_events_take_two_statements(database: Database) -> None:
    with statements(database) as seen, database.write() as s:
        for index in range(500):
            events.emit(s, "ask", body={"index": index})
    told = [statement for statement in seen if not statement.startswith("BEGIN")]
    assert len(told) == 2
    assert _numbers(database) == list(range(1, 501))


def test_a_trial_tells_when_it_waits_and_when_it_ends(database: Database) -> None:
    world = World(database).found()
    search = world.search().id
    world.ask(search, world.genes(1))
    world.fail(world.lease(1)[0], "QUEUED", "drained")  # type: ignore[arg-type]
    world.complete(world.lease(1))
    with database.read() as s:
        told = [event for event in events.after(s, 0) if event.search == search]
    assert [event.kind for event in told] == ["search.created", "ask", "trial.queued", "trial.queued", "trial.ended"]
    trial = world.trials(search)[0]
    body = told[-1].body
    assert (body["trial"], body["key"], body["state"], body["metrics"]) == (
        trial.id,
        trial.key,
        "SUCCEEDED",
        trial.metrics,
    )
