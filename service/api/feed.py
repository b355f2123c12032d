"""One tail reader per process: it looks for new events and wakes whoever waits for them.

Everything here runs on the event loop and only waits; the database is read in a thread of its own. Streams of events
and long-polls share it, so a hundred idle connections cost one small query per tick, and none when nobody listens.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator
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
        self._newest = 0
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
        return await self._last()

    async def events(self, after: int, study: str | None) -> AsyncIterator[EventOut]:
        """Events in order, from the one after number ``after``, until the server shuts down; of a study or all."""
        with self._listening():
            cursor = after
            while not self._closing:
                changed = self._changed.current()
                newest = self._newest
                if cursor >= newest:
                    await changed.wait()
                    continue
                if self._ring and self._ring[0].number <= cursor + 1:
                    found = list(islice(self._ring, cursor + 1 - self._ring[0].number, None))
                    cursor = newest
                    found = [event for event in found if study is None or event.study == study]
                else:
                    found = await self._after(cursor, study)
                    cursor = found[-1].number if len(found) == CHUNK else max(newest, cursor)
                    if found:
                        cursor = max(cursor, found[-1].number)
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
                    newest = await self._last()
                    self._ring.clear()
                    self._newest = newest
                    self._changed.fire()
                    following = True
                while self._keep(await self._after(self._newest, None)):
                    pass
            except Exception as error:
                log.warning("event_reader_failed", error=str(error))
                await asyncio.sleep(_RETRY_S)
            await self._pause(self._poll_s)

    def _keep(self, found: list[EventOut]) -> bool:
        """Keeps new events and wakes listeners; whether there may be more."""
        if not found:
            return False
        self._ring.extend(found)
        self._newest = found[-1].number
        self._changed.fire()
        if any(_offers_work(event) for event in found):
            self._work.fire()
        return len(found) == CHUNK

    async def _pause(self, seconds: float | None) -> None:
        try:
            await asyncio.wait_for(self._poked.wait(), seconds)
        except TimeoutError:
            return
        if not self._closing:
            self._poked.clear()

    async def _last(self) -> int:
        def read() -> int:
            with self._database.read() as session:
                return events.last(session)

        return await to_thread.run_sync(read, limiter=self._threads)

    async def _after(self, number: int, study: str | None) -> list[EventOut]:
        def read() -> list[EventOut]:
            with self._database.read() as session:
                return events.after(session, number, study, CHUNK)

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
