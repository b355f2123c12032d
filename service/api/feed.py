"""One tail reader per process: it looks for new events and wakes whoever waits for them.

Everything here runs on the event loop and only waits; the database is read in a thread of its own. Streams of events
and long-polls share it, so a hundred idle connections cost one small query per tick, and none when nobody listens.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import final

import structlog
from anyio import CapacityLimiter, to_thread

from service.core.states import SearchState, State
from service.db import events
from service.db.session import Database
from service.wire.jobs import EventOut

RING = 2000
"""Newest events kept in memory. Listeners further behind read the database."""
CHUNK = 500
"""Events read at once."""
_RETRY_S = 1.0

log = structlog.get_logger("frontier.api")


@final
class Signal:
    """Wakes all who wait. Take `current` before looking at what is waited for: then no firing is missed."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def current(self) -> asyncio.Event:
        """Set by the next `fire`."""
        return self._event

    def fire(self) -> None:
        """Wakes everybody once."""
        fired, self._event = self._event, asyncio.Event()
        fired.set()


@final
class Feed:
    """The events table as a stream. All methods belong to the event loop's thread."""

    def __init__(self, database: Database, poll_s: float) -> None:
        self._database = database
        self._poll_s = poll_s
        self._ring: deque[EventOut] = deque(maxlen=RING)
        self._newest = 0  # the last one that was read into memory
        self._reached = 0  # the last one that anybody here has seen: a listener that starts may be ahead
        self._history = 0  # how often the database was found put back to an earlier state
        self._listeners = 0
        self._closing = False
        self._poked = asyncio.Event()
        self._changed = Signal()
        self._work = Signal()
        # A thread of its own: a pool full of slow requests must not stop the stream.
        self._threads = CapacityLimiter(1)

    @property
    def closing(self) -> bool:
        """The server is shutting down: whoever waits is to answer now."""
        return self._closing

    def close(self) -> None:
        """Ends all waits and `run`."""
        self._closing = True
        self._poked.set()
        self._changed.fire()
        self._work.fire()

    def poke(self) -> None:
        """This process wrote something: look now."""
        self._poked.set()

    # ------------------------------------------------------------------ listening

    async def newest(self) -> int:
        """The number of the newest event, 0 before the first."""

        def read() -> int:
            with self._database.read() as session:
                return events.last(session)

        return await to_thread.run_sync(read, limiter=self._threads)

    async def events(self, after: int, study: str | None) -> AsyncGenerator[EventOut, None]:
        """Events in order, from the one after number ``after``, until the server shuts down; of a study or all.

        A `RESET` among them says that some were missed, see `service.db.events.follow`. Outlives outages of the
        database.
        """
        with self._listening():
            # Where a stream starts is held against the database itself: another process may be ahead of this reader.
            cursor, history = after, -1
            while not self._closing:
                changed = self._changed.current()
                known = history == self._history
                if known and cursor >= self._newest:
                    await changed.wait()
                    continue
                found: Sequence[EventOut]
                if known and self._ring and self._ring[0].number <= cursor + 1:
                    found = list(islice(self._ring, cursor + 1 - self._ring[0].number, None))
                    found = [event for event in found if study is None or event.study == study]
                    cursor = self._newest
                else:
                    history = self._history
                    try:
                        found, cursor = await self._follow(cursor, study)
                    except Exception as error:
                        await self._failed(error)
                        history = -1
                        continue
                    self._reached = max(self._reached, cursor)
                for event in found:
                    yield event

    @contextmanager
    def waiting_for_work(self) -> Iterator[Signal]:
        """A signal that fires when jobs may have become available."""
        with self._listening():
            yield self._work

    @contextmanager
    def _listening(self) -> Iterator[None]:
        self._listeners += 1
        self._poked.set()
        try:
            yield
        finally:
            self._listeners -= 1

    # ------------------------------------------------------------------ the reader

    async def run(self) -> None:
        """Reads until `close`; outlives outages of the database."""
        following = False  # whether nothing was missed since the last look
        while not self._closing:
            if not self._listeners:
                following = False
                await self._pause(None)
                continue
            try:
                if not following:
                    self._jump(await self.newest())
                    following = True
                while await self._read_on():
                    pass
            except Exception as error:
                await self._failed(error)
            await self._pause(self._poll_s)

    async def _read_on(self) -> bool:
        """Looks once; whether there is more to read."""
        newest, found = await self._look(self._newest)
        if found:
            self._keep(found)
        elif newest < self._reached:
            log.warning("events_went_back", newest=newest, was=self._reached)
            self._jump(newest)
            self._work.fire()
        elif newest > self._newest:  # and none of them is kept any more
            self._jump(newest)
        return newest > self._newest

    def _jump(self, newest: int) -> None:
        """Goes on from another event than the last one read: listeners that are elsewhere read the database."""
        self._history += newest < self._reached
        self._ring.clear()
        self._newest = self._reached = newest
        self._changed.fire()

    def _keep(self, found: list[EventOut]) -> None:
        """Keeps new events and wakes listeners."""
        if found[0].number != self._newest + 1:
            self._ring.clear()  # it is without holes
        self._ring.extend(found)
        self._newest = found[-1].number
        self._reached = max(self._reached, self._newest)
        self._changed.fire()
        if any(_offers_work(event) for event in found):
            self._work.fire()

    async def _failed(self, error: Exception) -> None:
        log.warning("event_reader_failed", error=str(error))
        await asyncio.sleep(_RETRY_S)

    async def _pause(self, seconds: float | None) -> None:
        try:
            await asyncio.wait_for(self._poked.wait(), seconds)
        except TimeoutError:
            return
        if not self._closing:
            self._poked.clear()

    async def _look(self, number: int) -> tuple[int, list[EventOut]]:
        """The number of the newest event, and those after ``number``: one statement while nothing happens."""

        def read() -> tuple[int, list[EventOut]]:
            with self._database.read() as session:
                newest = events.last(session)
                return newest, events.after(session, number, None, CHUNK) if newest > number else []

        return await to_thread.run_sync(read, limiter=self._threads)

    async def _follow(self, number: int, study: str | None) -> tuple[list[EventOut], int]:
        def read() -> tuple[list[EventOut], int]:
            with self._database.read() as session:
                return events.follow(session, number, study, CHUNK)

        return await to_thread.run_sync(read, limiter=self._threads)


def _offers_work(event: EventOut) -> bool:
    """Whether jobs may have become available: queued, handed back, or of a search that goes on; or whether none will
    come any more, as their search has ended. Others wake nobody."""
    state = event.body.get("state")
    match event.kind:
        case "trial.queued":
            return True
        case "job.state":
            return bool(state == State.QUEUED)
        case "search.state":
            return bool(state != SearchState.PAUSED)
        case _:
            return False
