"""Events, on both databases: gapless, in the order of the commits, together with what they tell of."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from sqlalchemy import func, select, update

from service.db import events, front, jobs, searches, studies, trials
from service.db.session import Database
from service.db.tables import Event, now
from service.wire.jobs import RESET
from tests.world import World, statements

AT_ONCE = timedelta(0)


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
    told = [statement for statement in seen if not statement.startswith(("BEGIN", "SET LOCAL"))]
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


# ---------------------------------------------------------------------- old events go


def _emit(database: Database, count: int) -> None:
    with database.write() as s:
        for _ in range(count):
            events.emit(s, "ask")


def _trim(database: Database, age: timedelta = AT_ONCE, keep: int = 0) -> int:
    with database.write() as s:
        return events.trim(s, age, keep)


def test_old_events_go_and_the_newest_stay_whatever_their_age(database: Database) -> None:
    _emit(database, 10)
    assert _trim(database, timedelta(days=1)) == 0
    assert _trim(database, keep=11) == 0
    assert _trim(database, keep=4) == 6
    assert _numbers(database) == [7, 8, 9, 10]
    _emit(database, 1)
    assert _numbers(database) == [7, 8, 9, 10, 11]
    assert _trim(database) == 5
    assert _trim(database) == 0
    _emit(database, 1)
    assert _numbers(database) == [12]


def test_what_is_kept_has_no_hole_though_clocks_differ(database: Database) -> None:
    """The fourth was written by a machine whose clock is ahead."""
    _emit(database, 8)
    with database.write() as s:
        s.execute(update(Event).where(Event.number == 4).values(created_at=now() + timedelta(days=1)))
    assert _trim(database) == 3
    assert _trim(database) == 0
    assert _numbers(database) == [4, 5, 6, 7, 8]


def test_one_transaction_deletes_no_more_than_it_may(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "TRIMMED", 3)
    _emit(database, 8)
    assert [_trim(database, keep=1) for _ in range(4)] == [3, 3, 1, 0]
    assert _numbers(database) == [8]


def test_several_processes_delete_at_once(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "TRIMMED", 7)
    processes = [Database(database_url) for _ in range(4)]
    _emit(processes[0], 400)
    start = threading.Barrier(4)

    def trim(process: Database) -> int:
        start.wait(timeout=30)
        gone = 0
        while _numbers(process, limit=1) != [391]:
            gone += _trim(process, keep=10)
        return gone

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(trim, processes)) == 390
    assert _numbers(processes[0]) == list(range(391, 401))
    for process in processes:
        process.dispose()


def test_nothing_that_is_shown_needs_old_events(database: Database, database_url: str) -> None:
    world = World(database).found()
    search = world.search().id
    world.ask(search, world.genes(6))
    world.complete(world.lease(5))
    world.fail(world.lease(1)[0])

    def shown(process: Database) -> list[object]:
        with process.read() as s:
            return [
                front.front(s, "study"),
                studies.page(s, 10),
                searches.page(s, 10),
                trials.page(s, 10, search=search),
                jobs.page(s, 10),
                front.measurements(s, "study", 100),
            ]

    before = shown(database)
    while _trim(database):
        pass
    with database.read() as s:
        assert s.scalars(select(func.count()).select_from(Event)).one() == 0
    another = Database(database_url)  # has nothing in memory
    assert shown(another) == shown(database) == before
    world.ask(search, world.genes(3, seed=1), 1)
    world.complete(world.lease(3))
    assert shown(another) == shown(database) != before
    another.dispose()


# ---------------------------------------------------------------------- a reader that was away


def _follow(database: Database, number: int, limit: int = 100) -> tuple[list[tuple[str, int]], int]:
    with database.read() as s:
        found, reached = events.follow(s, number, limit=limit)
    return [(event.kind, event.number) for event in found], reached


def test_a_reader_hears_that_events_it_has_not_read_are_gone(database: Database) -> None:
    _emit(database, 10)
    _trim(database, keep=3)
    kept = [("ask", 8), ("ask", 9), ("ask", 10)]
    assert _follow(database, 7) == (kept, 10)
    assert _follow(database, 8) == (kept[1:], 10)
    assert _follow(database, 6) == ([(RESET, 7), *kept], 10)
    assert _follow(database, 0, 2) == ([(RESET, 7), *kept[:2]], 9)
    with database.read() as s:
        assert events.follow(s, 0)[0][0].body == {"oldest": 8, "newest": 10}


def test_a_reader_from_the_future_hears_that_the_database_went_back(database: Database) -> None:
    assert _follow(database, 5) == ([(RESET, 0)], 0)
    _emit(database, 3)
    assert _follow(database, 3) == ([], 3)
    assert _follow(database, 4) == ([(RESET, 3)], 3)
    assert _follow(database, 2**63 - 1) == ([(RESET, 3)], 3)


def test_a_reader_hears_of_it_though_nothing_is_kept(database: Database) -> None:
    assert _follow(database, 0) == ([], 0)
    _emit(database, 3)
    _trim(database)
    assert _follow(database, 3) == ([], 3)
    assert _follow(database, 1) == ([(RESET, 3)], 3)
    with database.read() as s:
        assert events.follow(s, 1)[0][0].body == {"oldest": 4, "newest": 3}
