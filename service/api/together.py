"""Requests that wait for the database at the same moment share one transaction (group commit).

Eight workers that report at once would each pay for a transaction of some twenty statements, one after another. Here
the requests that come while a transaction runs are collected, and the next one serves them all. None is answered
before the commit, so for the caller nothing differs.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar, final

from anyio import CapacityLimiter, to_thread

from service.db import own, queue
from service.db.outages import outage
from service.db.session import Database
from service.settings import Settings
from service.wire.jobs import CompleteBatch, CompletedBatch, Lease, LeaseIn
from service.wire.trials import SuggestIn, SuggestOut

LEASES = 256
"""Leases in one transaction, most of them without a job: all that wait look at once when work comes."""
COMPLETIONS = 16
SUGGESTIONS = 16

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")


@final
class Together(Generic[Asked, Answer]):
    """Calls ``run`` with what was asked for meanwhile, at most ``most`` at once; it answers each, in their order.

    If ``run`` raises, nothing was written, and each is asked for alone: one bad request does not fail the others. What
    is wrong with the database is wrong for all of them, and not waited for once more by each.
    """

    def __init__(self, run: Callable[[Sequence[Asked]], Sequence[Answer]], most: int) -> None:
        self._run = run
        self._most = most
        self._waiting: deque[tuple[Asked, asyncio.Future[Answer]]] = deque()
        self._serving: asyncio.Task[None] | None = None
        # A thread of its own: a pool full of slow requests holds up no worker.
        self._threads = CapacityLimiter(1)

    async def __call__(self, asked: Asked) -> Answer:
        """The answer to one request."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((asked, future))
        if self._serving is None:
            self._serving = asyncio.create_task(self._serve())
        return await future

    async def _serve(self) -> None:
        try:
            while self._waiting:
                some = [self._waiting.popleft() for _ in range(min(self._most, len(self._waiting)))]
                await self._answer([each for each in some if not each[1].done()])
        finally:
            self._serving = None

    async def _answer(self, some: Sequence[tuple[Asked, asyncio.Future[Answer]]]) -> None:
        try:
            answers = await to_thread.run_sync(self._run, [asked for asked, _ in some], limiter=self._threads)
        except Exception as error:
            if len(some) > 1 and outage(error) is None:
                for each in some:
                    await self._answer([each])
            else:
                for _, future in some:
                    if not future.done():
                        future.set_exception(error)
            return
        for (_, future), answer in zip(some, answers, strict=True):
            if not future.done():  # whoever asked may have gone
                future.set_result(answer)


@final
class Queue:
    """The queue as workers and pipelines use it: leases, completions and suggestions, each kind together."""

    def __init__(self, settings: Settings, database: Database) -> None:
        def lease(bodies: Sequence[LeaseIn]) -> list[list[Lease]]:
            with database.write() as s:
                return queue.lease(s, bodies, settings.lease_s, settings.latency_age_s)

        def complete(bodies: Sequence[CompleteBatch]) -> list[CompletedBatch]:
            with database.write() as s:
                return queue.complete(s, bodies, settings.latency_age_s)

        def suggest(asked: Sequence[tuple[int, SuggestIn]]) -> list[SuggestOut]:
            with database.write() as s:
                return [own.suggest(s, search, body, settings.latency_age_s) for search, body in asked]

        self.lease = Together(lease, LEASES)
        self.complete = Together(complete, COMPLETIONS)
        self.suggest = Together(suggest, SUGGESTIONS)
