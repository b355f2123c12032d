"""Requests that wait at the same moment share one call, and each gets its own answer."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest

from service.api.together import Together
from service.db.outages import TurnTimeout


def test_what_comes_while_a_call_runs_is_served_by_the_next_one() -> None:
    calls: list[list[int]] = []
    go = threading.Event()

    def run(asked: Sequence[int]) -> list[int]:
        calls.append(list(asked))
        go.wait(10)
        return [each * 10 for each in asked]

    async def main() -> list[int]:
        together = Together(run, most=4)
        first = asyncio.create_task(together(0))
        while not calls:
            await asyncio.sleep(0.001)
        others = [asyncio.create_task(together(number)) for number in range(1, 7)]
        await asyncio.sleep(0)
        go.set()
        return [await first, *(await asyncio.gather(*others))]

    assert asyncio.run(main()) == [0, 10, 20, 30, 40, 50, 60]
    assert calls == [[0], [1, 2, 3, 4], [5, 6]]


def test_a_bad_request_fails_alone() -> None:
    calls: list[list[int]] = []

    def run(asked: Sequence[int]) -> list[int]:
        calls.append(list(asked))
        if 3 in asked:
            raise ValueError("three")
        return list(asked)

    async def main() -> list[int | BaseException]:
        together = Together(run, most=10)
        return await asyncio.gather(*(together(each) for each in (1, 2, 3, 4)), return_exceptions=True)

    answers = asyncio.run(main())
    assert [answers[0], answers[1], answers[3]] == [1, 2, 4]
    assert isinstance(answers[2], ValueError)
    assert [4] in calls


def test_who_has_gone_is_not_asked_for() -> None:
    calls: list[list[int]] = []
    go = threading.Event()

    def run(asked: Sequence[int]) -> list[int]:
        calls.append(list(asked))
        go.wait(10)
        return list(asked)

    async def main() -> None:
        together = Together(run, most=10)
        first = asyncio.create_task(together(1))
        while not calls:
            await asyncio.sleep(0.001)
        gone, stays = asyncio.create_task(together(2)), asyncio.create_task(together(3))
        await asyncio.sleep(0)
        gone.cancel()
        go.set()
        assert await first == 1
        assert await stays == 3
        with pytest.raises(asyncio.CancelledError):
            await gone
        assert await together(4) == 4  # and it goes on

    asyncio.run(main())
    assert calls == [[1], [3], [4]]


def test_an_outage_of_the_database_is_waited_for_once() -> None:
    calls: list[list[int]] = []
    go = threading.Event()

    def run(asked: Sequence[int]) -> list[int]:
        calls.append(list(asked))
        go.wait(10)
        if len(calls) == 2:
            raise TurnTimeout("no turn was to be had in time")
        return list(asked)

    async def main() -> list[int | BaseException]:
        together = Together(run, most=10)
        first = asyncio.create_task(together(0))
        while not calls:
            await asyncio.sleep(0.001)
        others = [asyncio.create_task(together(each)) for each in (1, 2, 3)]
        await asyncio.sleep(0)
        go.set()
        answers = await asyncio.gather(first, *others, return_exceptions=True)
        assert await together(4) == 4  # and it goes on
        return answers

    answers = asyncio.run(main())
    assert answers[0] == 0
    assert all(isinstance(each, TurnTimeout) for each in answers[1:])
    assert calls == [[0], [1, 2, 3], [4]]
