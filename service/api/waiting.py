"""Long-polls: an answer that is not there yet is waited for, without holding a thread meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from fastapi import Request

from service.api.deps import Services

Answer = TypeVar("Answer")

LOOK_AGAIN_S = 2.0
"""Who waits looks this often even if no event calls: jobs become due by the clock too (back-off)."""


async def poll(
    services: Services,
    request: Request,
    wait_s: float,
    take: Callable[[], Awaitable[Answer]],
    enough: Callable[[Answer], bool],
) -> Answer:
    """What ``take`` answers: once ``enough``, or after ``wait_s`` seconds. Between two looks no thread is held."""
    if wait_s == 0:
        return await take()
    loop = asyncio.get_running_loop()
    deadline = loop.time() + wait_s
    services.metrics.waiting(+1)
    try:
        with services.feed.waiting_for_work() as work:
            while True:
                # Taken before looking: a job queued between the look and the wait still wakes us.
                called = work.current()
                answer = await take()
                left = deadline - loop.time()
                if enough(answer) or left <= 0 or services.feed.closing:
                    return answer
                await _wait(called, min(left, LOOK_AGAIN_S))
                if await request.is_disconnected():
                    return answer  # whoever asked is gone: leave the work to others
    finally:
        services.metrics.waiting(-1)


async def _wait(called: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(called.wait(), seconds)
    except TimeoutError:
        return
