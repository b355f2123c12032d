"""The edges that wait: streams of events, long-polls, and a clean end of both."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.serving import Served, announce, ask, lease, make_search, make_study, served, settings_in


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Served]:
    with served(settings_in(tmp_path)) as running:
        make_study(running.http)
        yield running


@contextmanager
def stream(server: Served, **given: Any) -> Iterator[Iterator[dict[str, Any]]]:
    """The events of one connection."""
    with (
        httpx.Client(base_url=server.url, timeout=30, trust_env=False) as http,
        http.stream("GET", "/v1/events", **given) as answer,
    ):
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = answer.iter_lines()
        assert next(lines) == ": frontier"  # from here on nothing is missed
        yield events(lines)


def events(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    """Each event with its id and kind, as a browser sees it."""
    fields: dict[str, str] = {}
    for line in lines:
        if line:
            name, _, value = line.partition(":")
            fields[name] = value.strip()
        elif "data" in fields:
            event = json.loads(fields["data"])
            assert (fields["id"], fields["event"]) == (str(event["number"]), event["kind"])
            yield event
            fields.clear()


def take(found: Iterator[dict[str, Any]], kind: str, count: int) -> list[dict[str, Any]]:
    """The next events of a kind."""
    taken: list[dict[str, Any]] = []
    while len(taken) < count:
        event = next(found)
        taken += [event] if event["kind"] == kind else []
    return taken


def test_events_are_gapless_and_resume_after_the_last_id(server: Served) -> None:
    make_search(server)
    with stream(server, params={"after": 0}) as found:
        first = [next(found) for _ in range(5)]
    assert [event["number"] for event in first] == [1, 2, 3, 4, 5]
    with stream(server, headers={"Last-Event-ID": "3"}, params={"after": 0}) as found:
        assert [next(found), next(found)] == first[3:]


def test_a_stream_without_a_start_begins_now(server: Served) -> None:
    with stream(server) as found:
        search = make_search(server)
        assert next(found)["kind"] == "search.created"
        assert [event["search"] for event in take(found, "trial.queued", 4)] == [search] * 4


def test_a_stream_of_a_study_leaves_out_the_others(server: Served) -> None:
    with stream(server, params={"study": "study", "after": 0}) as found:
        announce(server.http, "another")
        make_search(server)
        assert {event["study"] for event in take(found, "trial.queued", 4)} == {"study"}


def test_many_streams_see_the_same_in_the_same_order(server: Served) -> None:
    ready = threading.Barrier(9)

    def follow(_: int) -> list[int]:
        with stream(server) as found:
            ready.wait(timeout=30)
            return [event["number"] for event in take(found, "trial.queued", 8)]

    with ThreadPoolExecutor(8) as pool:
        seen = [pool.submit(follow, number) for number in range(8)]
        ready.wait(timeout=30)
        search = make_search(server)
        ask(server, search, 4, seed=1)
        server.http.post(f"/v1/searches/{search}:pause")  # a write through the API: the reader looks at once
        assert len({tuple(each.result(timeout=60)) for each in seen}) == 1


def test_a_long_poll_wakes_when_another_process_queues(server: Served) -> None:
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(lease, server.http, 2, 30)
        with stream(server, params={"after": 0}) as found:
            next(found)
        make_search(server)  # straight into the database, as a controller does
        assert len(waiting.result(timeout=60)) == 2


def test_a_long_poll_wakes_when_a_request_queues(server: Served) -> None:
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(lease, server.http, 1, 30)
        server.http.post("/v1/studies/study/proxies:score", json={"proxies": ["synflow"], "sample": 1})
        assert waiting.result(timeout=60)[0]["kind"] == "score"


def test_a_long_poll_answers_empty_when_nothing_comes(server: Served) -> None:
    assert lease(server.http, 1, 0.2) == []


def test_health_answers_while_many_workers_wait(server: Served) -> None:
    """More than the thread pool has places."""
    over = threading.Event()
    limits = httpx.Limits(max_connections=100)

    def poll(http: httpx.Client) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        while not found and not over.is_set():
            found = lease(http, 1, 30)
        return found

    with (
        httpx.Client(base_url=server.url, timeout=60, trust_env=False, limits=limits) as http,
        ThreadPoolExecutor(60) as pool,
    ):
        waiting = [pool.submit(poll, http) for _ in range(60)]
        while "frontier_waiting_leases 60.0" not in server.http.get("/metrics").text:
            assert server.http.get("/healthz").status_code == 200
        assert server.http.get("/v1/studies").status_code == 200
        assert not any(each.done() for each in waiting)
        make_search(server)
        while sum(each.done() for each in waiting) < 4:
            assert server.http.get("/healthz").status_code == 200
        over.set()
        server.app.state.services.feed.close()
        jobs = [job["job"] for each in waiting for job in each.result(timeout=60)]
        assert len(jobs) == len(set(jobs)) == 4


def test_the_server_ends_while_streams_and_polls_are_open(tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        with served(settings_in(tmp_path)) as running:
            announce(running.http)
            http = httpx.Client(base_url=running.url, timeout=60, trust_env=False)
            polling = pool.submit(lease, http, 1, 30)
            while "frontier_waiting_leases 1.0" not in running.http.get("/metrics").text:
                pass
            following = stream(running)
            found = following.__enter__()
        # Leaving the block asserts that the server has ended; both got an answer, not a broken connection.
        assert polling.result(timeout=30) == []
        assert next(found, None) is None
        following.__exit__(None, None, None)
        http.close()
