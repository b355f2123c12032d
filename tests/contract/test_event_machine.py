"""The contract of events as a state machine, on both databases, with threads.

Writers commit and roll back, old events go, the database is put back to an earlier state, processes come and go; all
the while readers follow: in chunks straight from the database, and as listeners of a process's `Feed`. What each has
read is held against what all others have read. More of it: ``--hypothesis-profile`` with more examples.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from sqlalchemy import delete, update

from service.api import feed
from service.api.feed import Feed
from service.db import events
from service.db.session import Database
from service.db.tables import Counter, Event
from service.wire.jobs import RESET, EventOut

PATIENCE_S = 20.0
AT_ONCE = timedelta(0)


@dataclass
class Told:
    """What all readers together know: event number → (transaction, place in it), and when transactions were open."""

    contents: dict[int, tuple[int, int]] = field(default_factory=dict)
    spans: dict[int, tuple[float, float]] = field(default_factory=dict)
    sizes: dict[int, int] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def learn(self, event: EventOut) -> None:
        content = (event.body["transaction"], event.body["place"])
        with self.lock:
            assert self.contents.setdefault(event.number, content) == content, "two events of one number"

    def committed(self, transaction: int, size: int, began: float, ended: float) -> None:
        with self.lock:
            self.sizes[transaction] = size
            self.spans[transaction] = (began, ended)

    def forget(self, behind: int) -> None:
        """The database was put back: those transactions never were."""
        gone = {transaction for number, (transaction, _) in self.contents.items() if number > behind}
        for transaction in gone:
            del self.spans[transaction], self.sizes[transaction]
        self.contents = {number: content for number, content in self.contents.items() if number <= behind}


@dataclass
class Reader:
    """Where somebody is in the stream, who checks each event that comes."""

    told: Told
    cursor: int
    resets: int = 0

    def take(self, event: EventOut) -> None:
        if event.kind == RESET:
            oldest, newest = event.body["oldest"], event.body["newest"]
            missed, future = self.cursor < oldest - 1, self.cursor > newest
            assert missed or future, f"a reset at {self.cursor} of {oldest} to {newest}"
            assert event.number == (oldest - 1 if missed else newest)
            self.resets += 1
        else:
            assert event.number == self.cursor + 1, f"after {self.cursor} came {event.number}"
            self.told.learn(event)
        self.cursor = event.number


class Process:
    """An API process: a feed on an event loop of its own, over connections of its own."""

    def __init__(self, url: str) -> None:
        self._database = Database(url)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._feed = self._call(self._start)
        self._tasks = [asyncio.run_coroutine_threadsafe(self._feed.run(), self._loop)]
        self.readers: list[Reader] = []

    async def _start(self) -> Feed:
        return Feed(self._database, poll_s=0.005)

    def _call(self, what: Callable[..., Any], *arguments: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(what(*arguments), self._loop).result(PATIENCE_S)

    def listen(self, reader: Reader) -> None:
        self.readers.append(reader)
        self._tasks.append(asyncio.run_coroutine_threadsafe(self._listen(reader), self._loop))

    async def _listen(self, reader: Reader) -> None:
        async with aclosing(self._feed.events(reader.cursor, None)) as found:
            async for event in found:
                reader.take(event)

    def settle(self, newest: int) -> None:
        """Waits until all listeners have read everything."""
        deadline = time.monotonic() + PATIENCE_S
        while any(reader.cursor != newest for reader in self.readers):
            for task in self._tasks:
                if task.done():
                    task.result()
            assert time.monotonic() < deadline, f"at {[reader.cursor for reader in self.readers]}, not {newest}"
            time.sleep(0.001)

    def stop(self) -> list[Reader]:
        """Ends the process; its listeners are to go on elsewhere."""

        async def close() -> None:
            self._feed.close()

        if self._loop.is_closed():
            return self.readers
        try:
            self._call(close)
            for task in self._tasks:
                task.result(PATIENCE_S)
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(PATIENCE_S)
            self._loop.close()
            self._database.dispose()
        return self.readers


# Per transaction: how many events it tells, and whether it commits.
PLANS = st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=1, max_size=4)

# Among however many there are: what threads do differs from run to run, what is drawn must not.
PLACES = st.integers(0, 1000)


class EventMachine(RuleBasedStateMachine):
    """One database, a process with listeners, and readers that read in chunks."""

    url: str

    def __init__(self) -> None:
        super().__init__()
        self.database = Database(self.url)
        with self.database.write() as s:  # each example finds an empty table
            s.execute(delete(Event))
            s.execute(update(Counter).where(Counter.name == "events").values(value=0))
        self.told = Told()
        self.process = Process(self.url)
        self.process.listen(Reader(self.told, 0))
        self.readers = [Reader(self.told, 0)]
        self.transactions = 0
        self.newest = 0

    def teardown(self) -> None:
        self.process.stop()
        self.database.dispose()

    # ------------------------------------------------------------------ what happens

    @rule(plans=st.lists(PLANS, min_size=1, max_size=4), chunk=st.integers(1, 5), keep=st.none() | st.integers(0, 6))
    def everybody_at_once(self, plans: Sequence[Sequence[tuple[int, bool]]], chunk: int, keep: int | None) -> None:
        """Writers commit and roll back while readers follow, and old events go if ``keep`` says how many stay."""
        done = threading.Event()
        numbered: list[list[tuple[int, int, bool]]] = []
        for plan in plans:
            numbered.append([(self.transactions + i, size, commits) for i, (size, commits) in enumerate(plan)])
            self.transactions += len(plan)
        with ThreadPoolExecutor(len(plans) + len(self.readers) + 1) as pool:
            following = [pool.submit(self._read, reader, chunk, done) for reader in self.readers]
            if keep is not None:
                following.append(pool.submit(self._trim, keep, done))
            writing = [pool.submit(self._write, plan) for plan in numbered]
            try:
                for task in writing:
                    task.result(PATIENCE_S)
            finally:
                done.set()
            for each in following:
                each.result(PATIENCE_S)
        self.newest += sum(size for plan in plans for size, commits in plan if commits)

    def _write(self, plan: Sequence[tuple[int, int, bool]]) -> None:
        for transaction, size, commits in plan:
            began = time.monotonic()
            try:
                with self.database.write() as s:
                    for place in range(size):
                        events.emit(s, "ask", body={"transaction": transaction, "place": place})
                    if not commits:
                        raise ZeroDivisionError
            except ZeroDivisionError:
                continue
            self.told.committed(transaction, size, began, time.monotonic())

    def _read(self, reader: Reader, chunk: int, done: threading.Event) -> None:
        while True:
            last_look = done.is_set()
            with self.database.read() as s:
                found, reached = events.follow(s, reader.cursor, limit=chunk)
            for event in found:
                reader.take(event)
            assert reader.cursor == reached
            if last_look and not found:
                return

    def _trim(self, keep: int, done: threading.Event) -> None:
        last_look = False
        while not last_look:
            last_look = done.is_set()
            with self.database.write() as s:
                events.trim(s, AT_ONCE, keep)

    @rule(place=PLACES, listens=st.booleans())
    def somebody_comes(self, place: int, listens: bool) -> None:
        """From any number, also one that was never given out."""
        reader = Reader(self.told, place % (self.newest + 3))
        if listens and len(self.process.readers) < 4:
            self.process.listen(reader)
        elif not listens and len(self.readers) < 4:
            self.readers.append(reader)

    @rule()
    def another_process_takes_over(self) -> None:
        """The listeners go on there from what they read last; some of it may be waiting still."""
        listeners = self.process.stop()
        self.process = Process(self.url)
        for listener in listeners:
            self.process.listen(listener)

    @precondition(lambda self: self.newest > 0)
    @rule(place=PLACES)
    def the_database_is_put_back(self, place: int) -> None:
        """To a state between two transactions, of which events are kept; everybody has read all, and looks after it."""
        self._everybody_reads()
        with self.database.write() as s:
            kept = [event.number for event in events.after(s, 0, limit=10_000)]
            ends = [n for n in kept if self.told.contents[n][1] == self.told.sizes[self.told.contents[n][0]] - 1]
            if len(ends) < 2:
                return
            number = ends[place % (len(ends) - 1)]
            s.execute(delete(Event).where(Event.number > number))
            s.execute(update(Counter).where(Counter.name == "events").values(value=number))
        self.told.forget(number)
        self.newest = number
        self._everybody_reads()

    # ------------------------------------------------------------------ what always holds

    def _everybody_reads(self) -> None:
        over = threading.Event()
        over.set()
        for reader in self.readers:
            self._read(reader, 100, over)
        self.process.settle(self.newest)

    @invariant()
    def readers_end_where_the_stream_ends(self) -> None:
        with self.database.read() as s:
            assert events.last(s) == self.newest
            kept = events.after(s, 0, limit=10_000)
        assert [event.number for event in kept] == list(range(self.newest - len(kept) + 1, self.newest + 1))
        for event in kept:
            self.told.learn(event)
        self._everybody_reads()

    @invariant()
    def numbers_are_of_committed_transactions_in_their_order(self) -> None:
        contents = dict(self.told.contents)
        first = {transaction: number - place for number, (transaction, place) in contents.items()}
        for number, (transaction, place) in contents.items():
            assert transaction in self.told.sizes, "an event of a transaction that was rolled back"
            assert number - place == first[transaction], "a transaction's events are not in one piece"
        for earlier, number in first.items():
            for later, other in first.items():
                if self.told.spans[earlier][1] < self.told.spans[later][0]:
                    assert number < other, "numbers are not in the order of the commits"


def test_the_contract_of_events_as_a_state_machine(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Small, so that listeners fall behind what is in memory.
    monkeypatch.setattr(feed, "RING", 6)
    monkeypatch.setattr(feed, "CHUNK", 4)
    monkeypatch.setattr(events, "TRIMMED", 5)
    machine = type("Machine", (EventMachine,), {"url": database_url})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=max(1, settings().max_examples // 6),
            stateful_step_count=12,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
