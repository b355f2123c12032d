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
        named = {"Idempotency-Key": "once"}
        with no_space(server.database):
            before = written(server.database)
            outage(server.http.post("/v1/spaces", json=space("one"), headers=named), "database-full")
            assert written(server.database) == before
            unready(server, "has no space left to write")
            assert server.http.get("/v1/spaces").status_code == 200
            assert server.http.get("/studies/study").status_code == 200
        again = server.http.post("/v1/spaces", json=space("one"), headers=named)
        assert (again.status_code, "idempotency-replayed" in again.headers) == (201, False)
        assert server.http.get("/readyz").status_code == 200


RAISED = {
    "53100": "database-full",
    "40P01": "database-busy",
    "40001": "database-busy",
    "57014": "database-busy",
    "53200": "database-busy",
    "25006": "database-read-only",
    "57P01": "database-away",
}


@pytest.mark.parametrize("state", RAISED)
def test_what_postgresql_says_becomes_an_outage(postgresql_url: str, tmp_path: Path, state: str) -> None:
    with serving(postgresql_url, tmp_path) as server, admin(postgresql_url) as connection:
        connection.execute(_raising(state))
        before = written(server.database)
        outage(server.http.post("/v1/spaces", json=SPACE), RAISED[state])
        assert written(server.database) == before
        connection.execute("DROP TRIGGER fault ON spaces")
        assert server.http.post("/v1/spaces", json=SPACE).status_code == 201
        assert server.http.get("/readyz").status_code == 200


@pytest.mark.parametrize(("state", "status"), [("23505", 409), ("42601", 500)])
def test_collisions_are_tried_again_and_mistakes_are_ours(
    postgresql_url: str, tmp_path: Path, state: str, status: int
) -> None:
    with serving(postgresql_url, tmp_path) as server, admin(postgresql_url) as connection:
        connection.execute(_raising(state))
        answer = server.http.post("/v1/spaces", json=SPACE)
        assert answer.status_code == status, answer.text
        assert (answer.json()["type"] == "urn:frontier:still-running") == (status == 409)
        assert ("retry-after" in answer.headers) == (status == 409)


def _raising(state: str) -> Any:
    return f"""
        CREATE FUNCTION fault() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION 'INSERT of a secret' USING ERRCODE = '{state}'; END $$;
        CREATE TRIGGER fault BEFORE INSERT ON spaces FOR EACH ROW EXECUTE FUNCTION fault()"""


# ---------------------------------------------------------------------- locked


def test_a_locked_sqlite_is_read_on_and_writers_hear_that_it_is_busy(sqlite_url: str, tmp_path: Path) -> None:
    with serving(sqlite_url, tmp_path) as server:
        make_study(server.http)
        before = written(server.database)
        with closing(sqlite3.connect(tmp_path / "frontier.db", isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            with ThreadPoolExecutor(12) as pool:
                for answer in pool.map(lambda i: server.http.post("/v1/spaces", json=space(f"s{i}")), range(12)):
                    outage(answer, "database-busy")
                assert server.http.get("/v1/studies").status_code == 200
            for name in ("a lease", "a result", "a heartbeat", "a long-poll"):
                outage(routes(server)[name](), "database-busy")
            unready(server, "is busy with others")
            other.execute("ROLLBACK")
        assert written(server.database) == before
        assert server.http.post("/v1/spaces", json=space("one")).status_code == 201
        until("it is ready", lambda: server.http.get("/readyz").status_code == 200)


def test_a_locked_table_of_postgresql_is_waited_for_only_so_long(postgresql_url: str, tmp_path: Path) -> None:
    with serving(postgresql_url, tmp_path) as server:
        make_study(server.http)
        before = written(server.database)
        with admin(postgresql_url) as other, other.transaction():
            other.execute("LOCK TABLE spaces IN ACCESS EXCLUSIVE MODE")
            outage(server.http.post("/v1/spaces", json=space("one")), "database-busy")
            outage(server.http.get("/v1/spaces"), "database-busy")
            assert server.http.get("/healthz").status_code == 200
        assert written(server.database) == before
        assert server.http.post("/v1/spaces", json=space("one")).status_code == 201


def test_an_exhausted_pool_is_a_busy_database(postgresql_url: str, tmp_path: Path) -> None:
    with serving(postgresql_url, tmp_path) as server:
        make_study(server.http)
        with ExitStack() as held:
            for _ in range(32):
                held.enter_context(server.database.engine.connect())
            outage(server.http.get("/v1/studies"), "database-busy")
        assert server.http.get("/v1/studies").status_code == 200


# ---------------------------------------------------------------------- crowded, read-only


def test_a_connection_limit_is_named_and_passes(postgresql_url: str, tmp_path: Path) -> None:
    role = f"role_{uuid.uuid4().hex[:8]}"
    with admin(postgresql_url) as connection:
        connection.execute(f"CREATE ROLE {role} LOGIN CONNECTION LIMIT 20; GRANT postgres TO {role}")
        try:
            url = postgresql_url.replace("postgres@", f"{role}@", 1)
            with serving(url, tmp_path) as server:
                make_study(server.http)
                connection.execute(f"ALTER ROLE {role} CONNECTION LIMIT 0")
                assert server.http.get("/v1/studies").status_code == 200, "connections that are there go on"
                _terminate(connection)
                until("it is noticed", lambda: server.http.get("/v1/studies").status_code == 503)
                outage(server.http.get("/v1/studies"), "database-crowded")
                unready(server, "takes no more connections")
                connection.execute(f"ALTER ROLE {role} CONNECTION LIMIT 20")
                assert server.http.get("/v1/studies").status_code == 200
                assert server.http.post("/v1/spaces", json=space("one")).status_code == 201
        finally:
            _terminate(connection)
            connection.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_connections_to_what_was_read_only_are_replaced(postgresql_url: str, tmp_path: Path) -> None:
    name = make_url(postgresql_url).database
    with serving(postgresql_url, tmp_path) as server, admin(postgresql_url) as connection:
        make_study(server.http)
        connection.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        server.database.engine.dispose()
        outage(server.http.post("/v1/spaces", json=space("one")), "database-read-only")
        assert server.http.get("/v1/studies").status_code == 200
        unready(server, "cannot be written")
        connection.execute("SET default_transaction_read_only = off")
        connection.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
        until("a write", lambda: server.http.post("/v1/spaces", json=space("one")).status_code < 300)


# ---------------------------------------------------------------------- cut connections


def _terminate(connection: psycopg.Connection[Any]) -> None:
    """Cuts all other connections to this database."""
    connection.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )


@contextmanager
def cut_at(database: Database, url: str, place: int) -> Iterator[list[str]]:
    """The server cuts the connection right before the statement of this number, and never again."""
    seen: list[str] = []

    def cut(connection: Any, _cursor: object, statement: str, *_: object) -> None:
        # Other threads read and write meanwhile: only the request's transaction is counted.
        if not connection.get_execution_options().get("frontier_writes") or "SET LOCAL" in statement:
            return
        if threading.current_thread() not in mine:
            return
        seen.append(statement)
        if len(seen) == place:
            _kill(connection, url)

    def commit(connection: Any) -> None:
        if threading.current_thread() in mine and len(seen) < place:
            seen.append("COMMIT")
            if len(seen) == place:
                _kill(connection, url)

    mine: set[threading.Thread] = {threading.current_thread()}
    event.listen(database.engine, "before_cursor_execute", cut)
    event.listen(database.engine, "commit", commit)
    try:
        yield seen
    finally:
        event.remove(database.engine, "before_cursor_execute", cut)
        event.remove(database.engine, "commit", commit)


def _kill(connection: Any, url: str) -> None:
    pid = connection.connection.dbapi_connection.info.backend_pid
    with admin(url) as other:
        other.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))


def test_a_connection_that_is_cut_anywhere_leaves_nothing_half_written(postgresql_url: str, tmp_path: Path) -> None:
    database = Database(postgresql_url)
    world = World(database).found()
    search = world.search().id
    world.ask(search, world.genes(3))
    leases = world.lease()
    place, last = 0, ""
    while last != "COMMIT":
        place += 1
        before = written(database)
        with cut_at(database, postgresql_url, place) as seen:
            with pytest.raises(Exception) as caught:  # noqa: PT011 - which one is asserted below
                world.complete(leases)
            found = outages.outage(caught.value)
            assert found is not None, caught.value
            assert found.cause == "database-away", (place, seen[-1])
        assert written(database) == before, seen[-1]
        last = seen[-1]
    assert place > 5
    assert [each.accepted for each in world.complete(leases)] == [True] * 3
    database.dispose()


class Proxy:
    """Forwards TCP to PostgreSQL's socket. Refuses, or loses the answer of the next COMMIT, when asked to."""

    def __init__(self, url: str) -> None:
        parsed = make_url(url)
        self._socket = f"{parsed.query['host']}/.s.PGSQL.5432"
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self.refusing = self.losing = False
        self.lost = 0
        port = self._listener.getsockname()[1]
        query = "sslmode=disable&gssencmode=disable"
        self.url = f"postgresql+psycopg://postgres@127.0.0.1:{port}/{parsed.database}?{query}"
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Ends what is open."""
        for each in self._open:
            _shut(each)
        self._open.clear()

    def close(self) -> None:
        self.refusing = True
        self.cut()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self.refusing:
                client.close()
                continue
            server = socket.socket(socket.AF_UNIX)
            server.connect(self._socket)
            self._open += [client, server]
            answered = threading.Event()
            threading.Thread(target=self._forward, args=(client, server, answered, True), daemon=True).start()
            threading.Thread(target=self._forward, args=(server, client, answered, False), daemon=True).start()

    def _forward(self, source: socket.socket, target: socket.socket, losing: threading.Event, asks: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if asks and self.losing and b"COMMIT" in data:
                    losing.set()
                    self.losing = False
                if not asks and losing.is_set():
                    self.lost += 1  # PostgreSQL has committed and says so
                    break
                target.sendall(data)
        _shut(source)
        _shut(target)


def _shut(each: socket.socket) -> None:
    with suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)


def test_a_commit_whose_answer_is_lost_is_done_once(postgresql_url: str, tmp_path: Path) -> None:
    proxy = Proxy(postgresql_url)
    with serving(proxy.url, tmp_path) as server:
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
