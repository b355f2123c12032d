"""Databases that are dead, full, locked, crowded or read-only: 503 that says so, nothing half-written, and recovery
without help. Every fault is a real one."""

from __future__ import annotations

import socket
import sqlite3
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from sqlalchemy import event, make_url, select, text

from service.app import create_app
from service.controller import Controller
from service.db import outages
from service.db.artifacts import ArtifactStore
from service.db.session import Database
from service.db.tables import Base
from service.settings import Settings
from tests.acceptance.processes import until
from tests.serving import SPACE, Served, complete, lease, make_study, served
from tests.world import World

BUSY_S = 0.4
CSV = b"config.depth,metric,value\n1,error,0.5\n"


@pytest.fixture
def postgresql_url(postgresql: Callable[[str], str], migrated_postgresql: Callable[[], str]) -> Iterator[str]:
    """A migrated, empty database on the server of this run."""
    url = migrated_postgresql()
    yield url
    with admin(postgresql("postgres")) as connection:
        connection.execute(f"DROP DATABASE {make_url(url).database} WITH (FORCE)")  # type: ignore[call-overload]


@pytest.fixture
def sqlite_url(tmp_path: Path, migrated_sqlite: Path) -> str:
    (tmp_path / "frontier.db").write_bytes(migrated_sqlite.read_bytes())
    return f"sqlite:///{tmp_path / 'frontier.db'}"


@contextmanager
def serving(url: str, folder: Path) -> Iterator[Served]:
    """A server whose transactions wait for others only a moment."""
    database = Database(url, busy_s=BUSY_S)
    settings = Settings(home=folder, database_url=url, port=0, poll_s=0.02)
    try:
        with served(settings, create_app(settings, database)) as running:
            yield running
    finally:
        database.dispose()


@contextmanager
def admin(url: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection that the server under test knows nothing of."""
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        yield connection


def outage(answer: httpx.Response, kind: str) -> None:
    """Asserts that an answer is the 503 of this outage, and tells nothing of the server's insides."""
    assert answer.status_code == 503, (answer.status_code, answer.text)
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert body["type"] == f"urn:frontier:{kind}"
    assert body["title"].lower().startswith("database ")
    assert not any(word in answer.text for word in ("SELECT", "INSERT", "UPDATE", "psycopg", "sqlite", "Traceback"))


def written(database: Database) -> dict[str, list[Any]]:
    """Every row of every table."""
    with database.read() as s:
        return {table.name: sorted(map(repr, s.execute(select(table)))) for table in Base.metadata.sorted_tables}


def space(name: str) -> dict[str, Any]:
    """A space whose row needs pages of its own."""
    choices = [{"name": f"c{i}", "options": [f"{name}-{'x' * 40}-{j}" for j in range(100)]} for i in range(30)]
    return {"name": name, "plugin": "declared", "options": {"choices": choices}}


def routes(server: Served) -> dict[str, Callable[[], httpx.Response]]:
    """A request of every kind; ``w1`` is announced and ``study`` is there."""
    http = server.http
    fit = {"job": 1, "token": 1, "result": {"metrics": {"error": 0.5}, "device": "test-cpu"}, "seconds": 1}
    device = {"name": "d", "type": "cpu", "memory_mb": 1}
    worker = {"name": "w2", "kinds": ["evaluate"], "device": device, "datasets": []}
    return {
        "a read": lambda: http.get("/v1/studies"),
        "a front": lambda: http.get("/v1/studies/study/front"),
        "a transaction": lambda: http.post("/v1/spaces", json=space("one")),
        "an announcement": lambda: http.post("/v1/workers", json=worker),
        "a lease": lambda: http.post("/v1/jobs:lease", json={"worker": "w1"}),
        "a long-poll": lambda: http.post("/v1/jobs:lease", json={"worker": "w1", "wait_s": 5}),
        "a result": lambda: http.post("/v1/jobs:complete", json={"worker": "w1", "results": [fit]}),
        "a heartbeat": lambda: http.post("/v1/jobs/1:heartbeat", json={"token": 1}),
        "an import": lambda: http.post(
            "/v1/studies/study/measurements:import", content=CSV, headers={"Content-Type": "text/csv"}
        ),
        "an export": lambda: http.get("/v1/studies/study/measurements:export"),
        "a stream": lambda: http.get("/v1/events"),
        "a page": lambda: http.get("/studies/study"),
        "a plot": lambda: http.get("/studies/study/data/front"),
        "metrics": lambda: http.get("/metrics"),
    }


def unready(server: Served, said: str) -> None:
    """Asserts what /readyz says, and that /healthz is not concerned."""
    answer = server.http.get("/readyz")
    assert answer.status_code == 503
    assert {each["field"]: each["message"] for each in answer.json()["errors"]} == {"database": said}
    assert server.http.get("/healthz").status_code == 200


# ---------------------------------------------------------------------- full


@contextmanager
def no_space(database: Database) -> Iterator[None]:
    """SQLite's file does not grow meanwhile."""
    limited = True

    def limit(connection: Any, *_: object) -> None:
        # A limit below its size is taken as its size.
        connection.execute(f"PRAGMA max_page_count = {1 if limited else 2**30}").close()

    event.listen(database.engine, "checkout", limit)
    try:
        yield
    finally:
        limited = False


def test_a_full_sqlite_refuses_what_it_cannot_keep_and_goes_on(sqlite_url: str, tmp_path: Path) -> None:
    with serving(sqlite_url, tmp_path) as server:
        make_study(server.http)
        search = {"designer": "random", "budget": 4, "batch": 4}
        made, replayed = 0, False
        while not replayed and made < 20:  # the loss may hit another transaction of the server: its loops write too
            made += 1
            named = {"Idempotency-Key": uuid.uuid4().hex}
            proxy.losing = True
            answer = server.http.post("/v1/studies/study/searches", json=search, headers=named)
            if answer.status_code == 503:
                outage(answer, "database-away")
                assert proxy.lost
                again = server.http.post("/v1/studies/study/searches", json=search, headers=named)
                assert again.status_code == 201, again.text
                replayed = again.headers.get("idempotency-replayed") == "true"
        assert replayed
        assert len(server.http.get("/v1/searches").json()["items"]) == made
    proxy.close()


def test_every_route_says_that_the_database_is_away_and_all_go_on(postgresql_url: str, tmp_path: Path) -> None:
    proxy = Proxy(postgresql_url)
    with serving(proxy.url, tmp_path) as server:
        make_study(server.http)
        before = written(server.database)
        proxy.refusing = True
        proxy.cut()
        for name, ask in routes(server).items():
            answer = ask()
            assert answer.status_code == 503, (name, answer.status_code, answer.text)
            if name == "a page" and answer.headers["content-type"].startswith("text/html"):
                # Once the key has been looked up; before, the answer is that of the key's look-up.
                assert int(answer.headers["retry-after"]) >= 1
                assert "Database" in answer.text
            else:
                outage(answer, "database-away")
        unready(server, "cannot be reached")
        proxy.refusing = False
        until("it is ready", lambda: server.http.get("/readyz").status_code == 200)
        after = written(server.database)
        assert {name for name in before if before[name] != after[name]} <= {"keys"}
        for name in ("a read", "a front", "a transaction", "a lease", "an export", "a page", "a plot", "metrics"):
            assert routes(server)[name]().status_code < 300, name
    proxy.close()


def test_a_page_says_that_the_database_is_away(sqlite_url: str, tmp_path: Path) -> None:
    with serving(sqlite_url, tmp_path) as server:
        make_study(server.http)
        with server.database.engine.begin() as connection:
            connection.execute(text("ALTER TABLE trials RENAME TO hidden"))
        answer = server.http.get("/studies/study")
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) >= 1
        assert "text/html" in answer.headers["content-type"]
        assert "Database not ready" in answer.text


# ---------------------------------------------------------------------- controllers


@pytest.mark.parametrize("dialect", ["postgresql", "sqlite"])
def test_a_controller_waits_and_goes_on(request: pytest.FixtureRequest, tmp_path: Path, dialect: str) -> None:
    url = request.getfixturevalue(f"{dialect}_url")
    proxy = Proxy(url) if dialect == "postgresql" else None
    with serving(proxy.url if proxy else url, tmp_path) as server, ExitStack() as stack:
        make_study(server.http)
        http = server.http
        body = {"designer": "random", "budget": 12, "batch": 4, "probe_share": 0}
        search = http.post("/v1/studies/study/searches", json=body).raise_for_status().json()["id"]
        stop = threading.Event()
        store = ArtifactStore(tmp_path / "artifacts")
        controller = Controller(server.database, store, "c", lease_s=1, poll_s=0.02)
        thread = threading.Thread(target=controller.run, args=(stop,))
        thread.start()
        stack.callback(thread.join, 60)
        stack.callback(stop.set)
        leases = until("the first ask", lambda: lease(http, 4))
        if proxy:
            proxy.refusing = True
            proxy.cut()
            until("it is noticed", lambda: http.get("/v1/studies").status_code == 503)
            proxy.refusing = False
        else:
            with closing(sqlite3.connect(tmp_path / "frontier.db", isolation_level=None)) as other:
                other.execute("BEGIN EXCLUSIVE")
                outage(http.post("/v1/spaces", json=space("one")), "database-busy")
                other.execute("ROLLBACK")
        until("the server is back", lambda: http.get("/readyz").status_code == 200)

        def work() -> bool:
            for job in [*leases, *lease(http, 4)]:
                names = job["payload"]["metrics"]
                complete(http, job, {"metrics": dict.fromkeys(names, 1 / job["job"]), "device": "test-cpu"})
            leases.clear()
            return bool(http.get(f"/v1/searches/{search}").json()["state"] == "DONE")

        until("the search ends", work)
        assert http.get(f"/v1/searches/{search}").json()["counts"]["succeeded"] == 12
    if proxy:
        proxy.close()
