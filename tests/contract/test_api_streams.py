"""The edges that wait: streams of events, long-polls, and a clean end of both."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import delete, update

from service.db import events as stored
from service.db.session import Database
from service.db.tables import Counter, Event
from service.settings import Settings
from tests.serving import Served, announce, ask, lease, make_search, make_study, served, settings_in
from tests.world import statements


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


# ---------------------------------------------------------------------- events that were missed


def emit(database: Database, count: int) -> None:
    """Events, one transaction each, written by another process."""
    for index in range(count):
        with database.write() as session:
            stored.emit(session, "ask", body={"index": index})


def newest(server: Served) -> int:
    with server.database.read() as session:
        return stored.last(session)


def restore(database: Database, number: int) -> None:
    """As the restore of a backup leaves it that was made when event ``number`` was the newest."""
    with database.write() as session:
        session.execute(delete(Event).where(Event.number > number))
        session.execute(update(Counter).where(Counter.name == "events").values(value=number))


@pytest.mark.parametrize("given", [{"params": {"after": 2}}, {"headers": {"Last-Event-ID": "2"}}])
def test_a_stream_from_before_what_is_kept_begins_with_a_reset(server: Served, given: dict[str, Any]) -> None:
    emit(server.database, 5)
    last = newest(server)
    with server.database.write() as session:
        stored.trim(session, timedelta(0), 3)
    with stream(server, **given) as found:
        told = [next(found) for _ in range(4)]
    assert (told[0]["kind"], told[0]["body"]) == ("reset", {"oldest": last - 2, "newest": last})
    assert [event["number"] for event in told] == [last - 3, last - 2, last - 1, last]
    # What it carries is where one may go on, and just so much was kept.
    with stream(server, headers={"Last-Event-ID": str(last - 3)}) as found:
        assert [next(found) for _ in range(3)] == told[1:]


def test_a_stream_from_beyond_the_newest_begins_with_a_reset(server: Served) -> None:
    last = newest(server)
    with stream(server, params={"after": last + 10, "study": "study"}) as found:
        reset = next(found)
        assert (reset["kind"], reset["number"], reset["body"]["newest"]) == ("reset", last, last)
        make_search(server)
        assert next(found)["number"] == last + 1


def test_open_streams_hear_that_the_database_was_put_back(server: Served) -> None:
    """And go on with what happens then, although those numbers were seen before."""
    emit(server.database, 5)
    last = newest(server)
    with stream(server, params={"after": last - 1}) as ahead, stream(server, params={"after": 0}) as behind:
        assert next(ahead)["number"] == last
        assert [next(behind)["number"] for _ in range(last)][-1] == last
        restore(server.database, last - 3)
        for found in (ahead, behind):
            reset = next(found)
            assert (reset["kind"], reset["number"], reset["body"]["newest"]) == ("reset", last - 3, last - 3)
        emit(server.database, 4)
        for found in (ahead, behind):
            told = [next(found) for _ in range(4)]
            assert [event["number"] for event in told] == [last - 2, last - 1, last, last + 1]
            assert [event["body"]["index"] for event in told] == [0, 1, 2, 3]


def test_old_events_go_by_themselves(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, event_retention_days=1e-9, event_retention_count=2)
    database = Database(settings.database)
    with database.write() as session:
        for _ in range(2 * stored.TRIMMED + 10):
            stored.emit(session, "ask")
    with served(settings), served(settings):
        deadline = time.monotonic() + 30
        while True:
            with database.read() as session:
                kept = [event.number for event in stored.after(session, 0)]
            if len(kept) == 2 or time.monotonic() > deadline:
                break
            time.sleep(0.02)
    database.dispose()
    assert kept == [2 * stored.TRIMMED + 9, 2 * stored.TRIMMED + 10]


# ---------------------------------------------------------------------- several processes, many listeners


def test_a_reader_that_changes_between_processes_reads_each_event_once(database_url: str, tmp_path: Path) -> None:
    """Two servers with a database each of their own connections, as two processes have; all write, one reads."""
    settings = Settings(home=tmp_path, database_url=database_url, port=0, poll_s=0.02)
    with served(settings) as one, served(settings) as other:
        threads = [threading.Thread(target=emit, args=(server.database, 30)) for server in (one, other)]
        for thread in threads:
            thread.start()
        seen: list[dict[str, Any]] = []
        turn = 0
        while len(seen) < 60:
            server = (one, other)[turn % 2]
            with stream(server, headers={"Last-Event-ID": str(seen[-1]["number"] if seen else 0)}) as found:
                seen += [next(found) for _ in range(min(1 + turn % 7, 60 - len(seen)))]
            turn += 1
        for thread in threads:
            thread.join()
        assert [event["number"] for event in seen] == list(range(1, 61))
        announce(one.http)
        with stream(other, headers={"Last-Event-ID": "60"}) as found:
            assert next(found)["kind"] == "worker.seen"


def test_many_listeners_cost_no_more_queries_than_one(tmp_path: Path) -> None:
    # It looks when it is poked, after each request that writes, and not by the clock.
    settings = settings_in(tmp_path, poll_s=1000.0)

    def cost(server: Served, listeners: int) -> int:
        """Reads of the table of events while four of them are told to so many."""
        with ExitStack() as stack:
            all_of_them = [stack.enter_context(stream(server, params={"after": 0})) for _ in range(listeners)]

            def tell(worker: str) -> None:
                announce(server.http, f"{worker}-of-{listeners}")
                for found in all_of_them:
                    while next(found)["body"]["worker"] != f"{worker}-of-{listeners}":
                        pass

            tell("warm-up")  # from here on all are up to date
            with statements(server.database) as seen:
                for index in range(4):
                    tell(f"w{index}")
            return sum("FROM events" in statement for statement in seen)

    with served(settings) as server:
        assert cost(server, 1) == cost(server, 30) == 4


def test_open_streams_are_counted(server: Served) -> None:
    def counted(number: int) -> bool:
        return f"frontier_event_streams {number}.0" in server.http.get("/metrics").text

    assert counted(0)
    with stream(server), stream(server, params={"after": 0}) as found:
        next(found)
        assert counted(2)
    deadline = time.monotonic() + 30
    while not counted(0) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert counted(0)


# ---------------------------------------------------------------------- long-polls


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
