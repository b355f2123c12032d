"""A POST that comes again with its Idempotency-Key does nothing and is answered as before, on both databases."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from sqlalchemy import func, select, update

from service.api import searches as search_routes
from service.app import create_app
from service.client import Client, StillRunning
from service.db import requests
from service.db.session import Database
from service.db.tables import Request, Search, now
from service.settings import Settings
from service.wire.searches import SearchIn
from tests.serving import Served, make_study, served

STARTED = "/v1/studies/study/searches"
BODY = {"designer": "random", "budget": 5}


@pytest.fixture
def server(database: Database, tmp_path: Path) -> Iterator[Served]:
    settings = Settings(home=tmp_path, port=0, poll_s=0.02)
    with served(settings, create_app(settings, database)) as running:
        make_study(running.http)
        yield running


def start(server: Served, key: str | None, body: dict[str, object] | None = None) -> httpx.Response:
    headers = {} if key is None else {"Idempotency-Key": key}
    return server.http.post(STARTED, json=body or BODY, headers=headers)


def made(server: Served) -> int:
    with server.database.read() as s:
        return s.scalars(select(func.count()).select_from(Search)).one()


def test_the_same_request_is_carried_out_once(server: Served) -> None:
    first, again, other = start(server, "a"), start(server, "a"), start(server, "b")
    assert [each.status_code for each in (first, again, other)] == [201, 201, 201]
    assert again.content == first.content
    assert "Idempotency-Replayed" not in first.headers
    assert again.headers["Idempotency-Replayed"] == "true"
    assert other.json()["id"] != first.json()["id"]
    assert made(server) == 2


def test_without_a_key_each_request_counts(server: Served) -> None:
    assert start(server, None).json()["id"] != start(server, None).json()["id"]


def test_another_body_under_the_key_is_refused(server: Served) -> None:
    start(server, "a")
    refused = start(server, "a", {**BODY, "budget": 6})
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["field"] == "Idempotency-Key"
    assert made(server) == 1


def test_keys_belong_to_a_route(server: Served) -> None:
    first = start(server, "a").json()["id"]
    paused = server.http.post(f"/v1/searches/{first}:pause", headers={"Idempotency-Key": "a"})
    assert paused.json()["state"] == "PAUSED"


def test_a_refused_request_leaves_its_key_free(server: Served) -> None:
    assert start(server, "a", {**BODY, "designer": "nobody"}).status_code == 422
    assert start(server, "a").status_code == 201


@pytest.mark.parametrize("key", ["", "two words", "x" * 256, "ü"])
def test_keys_that_cannot_be_are_refused(server: Served, key: str) -> None:
    refused = server.http.post(STARTED, json=BODY, headers={"Idempotency-Key": key.encode()})
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["field"] == "Idempotency-Key"
    assert made(server) == 0


def test_after_a_day_a_key_is_new_again(server: Served) -> None:
    first = start(server, "a").json()["id"]
    with server.database.write() as s:
        s.execute(update(Request).values(created_at=now() - requests.KEPT - timedelta(minutes=1)))
    assert start(server, "a").json()["id"] != first
    with server.database.write() as s:
        s.execute(update(Request).values(created_at=now() - requests.KEPT - timedelta(minutes=1)))
        assert requests.forget(s) == 1


def test_while_the_first_is_answered_the_second_waits_or_is_told(
    server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, leave = threading.Event(), threading.Event()
    create = search_routes.searches.create

    def slow(*args: object) -> object:
        entered.set()
        assert leave.wait(20)
        return create(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(search_routes.searches, "create", slow)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(start, server, "a")
        assert entered.wait(20)
        told = start(server, "a")
        with Client(server.url, tries=1) as client, pytest.raises(StillRunning):
            client._http.repeat(
                lambda: httpx.post(server.url + STARTED, json=BODY, headers={"Idempotency-Key": "a"}, trust_env=False),
                repeatable=True,
            )
        leave.set()
        assert first.result().status_code == 201
    assert told.status_code == 409
    assert told.json()["type"] == "urn:frontier:still-running"
    assert told.headers["Retry-After"] == "1"
    assert made(server) == 1


def test_of_many_at_once_one_is_carried_out(server: Served) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: start(server, "same"), range(16)))
    assert {answer.status_code for answer in answers} <= {201, 409}
    assert len({answer.json()["id"] for answer in answers if answer.status_code == 201}) == 1
    assert made(server) == 1


def test_the_client_repeats_a_request_whose_answer_was_lost(server: Served) -> None:
    class Losing(httpx.HTTPTransport):
        """Lets every request through and loses the first answer to each."""

        def __init__(self) -> None:
            super().__init__()
            self.seen: list[str] = []

        def handle_request(self, request: httpx.Request) -> httpx.Response:
            answer = super().handle_request(request)
            key = request.headers["Idempotency-Key"]
            self.seen.append(key)
            if self.seen.count(key) == 1:
                answer.read()
                raise httpx.ReadError("the connection broke", request=request)
            return answer

    transport = Losing()
    with Client(server.url, transport=transport) as client:
        one = client.searches.create("study", SearchIn(designer="random", budget=5))
        two = client.searches.create("study", SearchIn(designer="random", budget=5))
    assert one.id != two.id
    assert made(server) == 2
    assert len(transport.seen) == 4
    assert len(set(transport.seen)) == 2
