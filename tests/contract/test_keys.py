"""Keys on a real server over both databases: who is let in, what for, and what is said to the others."""

from __future__ import annotations

import io
import json
import logging
import socket
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
from fastapi.routing import APIRoute
from sqlalchemy import select, update

from service.api.auth import OPEN, RULES, needed
from service.app import create_app
from service.client import Client, Forbidden, Unauthorized
from service.core.errors import Conflict, Invalid
from service.core.scopes import Scope, granted
from service.db import keys
from service.db.session import Database
from service.db.tables import Base, Key
from service.limits import MOST, Buckets
from service.listening import bind
from service.logs import configure, redact
from service.settings import Settings
from service.wire.keys import KeyIn
from tests.acceptance.processes import until
from tests.serving import SPACE, Served, served, worker_in
from tests.world import statements

ALL_ROUTES = [
    ("GET", "/v1/studies", {"read", "write", "worker", "admin"}),
    ("GET", "/metrics", {"read", "write", "worker", "admin"}),
    ("GET", "/", {"read", "write", "worker", "admin"}),
    ("POST", "/v1/spaces", {"write", "admin"}),
    ("DELETE", "/v1/studies/none", {"write", "admin"}),
    ("POST", "/v1/searches/1:pause", {"write", "admin"}),
    ("POST", "/v1/workers", {"worker", "admin"}),
    ("POST", "/v1/jobs:lease", {"worker", "admin"}),
    ("POST", "/v1/jobs:complete", {"worker", "admin"}),
    ("POST", "/v1/jobs/1:heartbeat", {"worker", "admin"}),
    ("POST", "/v1/jobs/1:fail", {"worker", "admin"}),
    ("POST", "/v1/jobs/1:cancel", {"write", "admin"}),
    ("PUT", f"/v1/artifacts/{'0' * 64}", {"write", "worker", "admin"}),
    ("POST", "/v1/trials/1:complete", {"write", "worker", "admin"}),
    ("GET", "/v1/keys", {"admin"}),
    ("POST", "/v1/keys", {"admin"}),
    ("POST", "/v1/keys/99:revoke", {"admin"}),
]


@pytest.fixture
def server(database: Database, database_url: str, tmp_path: Path) -> Iterator[Served]:
    settings = Settings(home=tmp_path, port=0, poll_s=0.02, database_url=database_url)
    with served(settings, create_app(settings, database)) as running:
        yield running


def make(database: Database, name: str, *scopes: str, **given: Any) -> str:
    """A key made at the database, as the command line does."""
    with database.write() as s:
        return keys.create(s, KeyIn(name=name, scopes=[Scope(scope) for scope in scopes], **given)).token


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def problem(answer: httpx.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    return body


# ---------------------------------------------------------------------- what is kept


def test_only_a_hash_of_a_secret_is_kept(database: Database) -> None:
    token = make(database, "ci", "read")
    assert len(token) == len(keys.PREFIX) + 43
    with database.write() as s:
        secret, _ = keys.begin_session(s, s.scalars(select(Key.id)).one())
    with database.engine.connect() as connection:
        rows = [str(row) for table in Base.metadata.sorted_tables for row in connection.execute(select(table))]
    assert any("ci" in row for row in rows)
    for kept in (token, token.removeprefix(keys.PREFIX), secret):
        assert not any(kept in row for row in rows)


def test_names_are_unique_for_ever(database: Database) -> None:
    make(database, "ci", "read")
    with pytest.raises(Conflict, match="not used again"):
        make(database, "ci", "read")
    with database.write() as s:
        keys.revoke_named(s, "ci")
    with pytest.raises(Conflict, match="revoked"):
        make(database, "ci", "write")


@pytest.mark.parametrize("name", ["local", "local-worker-here"])
def test_names_of_the_server_itself_are_refused(database: Database, name: str) -> None:
    with pytest.raises(Invalid, match="server's own"):
        make(database, name, "read")


def test_a_key_must_end_in_the_future_and_within_reason(database: Database) -> None:
    for end in (datetime.now(UTC) - timedelta(seconds=1), datetime.max.replace(tzinfo=UTC)):
        with pytest.raises(Invalid) as refused:
            make(database, "ci", "read", expires_at=end)
        assert refused.value.field == "expires_at"
    with database.read() as s:
        assert keys.page(s, 10).items == []


def test_the_servers_own_keys_do_not_close_it_and_are_renewed(database: Database) -> None:
    with database.write() as s:
        first = keys.renew(s, "worker-here", [Scope.WORKER])
        second = keys.renew(s, "worker-here", [Scope.WORKER])
    with database.read() as s:
        assert not keys.guarded(s)
        assert keys.holder(s, keys.hash_of(first)) is None
        found = keys.holder(s, keys.hash_of(second))
    assert found is not None
    assert found.name == "local-worker-here"
    with database.write() as s:
        keys.revoke_own(s, "worker-here")
        found = keys.holder(s, keys.hash_of(second))
    assert found is not None
    assert "revoked" in str(found.problem(datetime.now(UTC)))


def test_use_is_noted_at_most_once_a_minute(database: Database) -> None:
    make(database, "ci", "read")
    began = datetime(2030, 1, 1, tzinfo=UTC)

    def noted(after_s: float) -> datetime | None:
        with database.write() as s:
            keys.used(s, s.scalars(select(Key.id)).one(), began + timedelta(seconds=after_s))
        with database.read() as s:
            return keys.page(s, 1).items[0].last_used_at

    assert noted(0) == began
    assert noted(59) == began
    assert noted(61) == began + timedelta(seconds=61)


# ---------------------------------------------------------------------- who is let in


def test_the_first_key_closes_the_server_and_revoking_the_last_opens_it(server: Served) -> None:
    assert server.http.get("/v1/studies").status_code == 200
    made = server.http.post("/v1/keys", json={"name": "boss", "scopes": ["admin"]})
    assert made.status_code == 201, made.text
    answer = server.http.get("/v1/studies")
    assert "needs a key" in problem(answer, 401)["detail"]
    assert answer.headers["www-authenticate"] == "Bearer"
    assert server.http.get("/metrics").status_code == 401
    for path in ("/healthz", "/readyz", "/openapi.json", "/static/style.css"):
        assert server.http.get(path).status_code == 200, path
    mine = bearer(made.json()["token"])
    assert server.http.get("/v1/studies", headers=mine).status_code == 200
    assert server.http.post(f"/v1/keys/{made.json()['id']}:revoke", headers=mine).status_code == 200
    assert server.http.get("/v1/studies").status_code == 200


def test_an_expired_key_is_refused_and_does_not_open_the_server(server: Served) -> None:
    token = make(server.database, "old", "admin")
    with server.database.write() as s:
        s.execute(update(Key).values(expires_at=datetime(2020, 5, 17, 12, tzinfo=UTC)))
    server.app.state.keyring.forget()
    answer = server.http.get("/v1/studies", headers=bearer(token))
    assert "'old' expired at 2020-05-17 12:00 UTC" in problem(answer, 401)["detail"]
    assert answer.headers["www-authenticate"] == 'Bearer error="invalid_token"'
    assert token not in answer.text
    problem(server.http.get("/v1/studies"), 401)


def test_a_revoked_key_is_refused_at_once(server: Served) -> None:
    boss, other = make(server.database, "boss", "admin"), make(server.database, "other", "read")
    server.app.state.keyring.forget()
    assert server.http.get("/v1/studies", headers=bearer(other)).status_code == 200
    found = {key["name"]: key for key in server.http.get("/v1/keys", headers=bearer(boss)).json()["items"]}
    revoked = server.http.post(f"/v1/keys/{found['other']['id']}:revoke", headers=bearer(boss)).json()
    assert revoked["revoked_at"] is not None
    body = problem(server.http.get("/v1/studies", headers=bearer(other)), 401)
    assert "'other' was revoked at" in body["detail"]
    again = server.http.post(f"/v1/keys/{found['other']['id']}:revoke", headers=bearer(boss))
    assert again.json() == revoked
    problem(server.http.post("/v1/keys/4711:revoke", headers=bearer(boss)), 404)


@pytest.mark.parametrize(
    "given", ["Bearer frontier_" + "x" * 43, "Bearer nonsense", "bearer", "Bearer \xe9\xe9", "Bearer " + "x" * 5000]
)
def test_unknown_keys_are_refused_and_not_echoed(server: Served, given: str) -> None:
    make(server.database, "boss", "admin")
    server.app.state.keyring.forget()
    answer = server.http.get("/v1/studies", headers={"Authorization": given.encode("latin-1")})
    assert problem(answer, 401)["detail"] == "the key is not known here"
    assert "xxxxx" not in answer.text


def test_other_schemes_are_told_which_one_there_is(server: Served) -> None:
    make(server.database, "boss", "admin")
    server.app.state.keyring.forget()
    answer = server.http.get("/v1/studies", auth=("boss", "secret"))
    assert "Authorization: Bearer" in problem(answer, 401)["detail"]


def test_scopes_allow_what_they_say_and_nothing_else(server: Served) -> None:
    tokens = {scope: make(server.database, f"key-{scope}", scope) for scope in ("read", "write", "worker", "admin")}
    server.app.state.keyring.forget()
    for method, path, allowed in ALL_ROUTES:
        for scope, token in tokens.items():
            answer = server.http.request(method, path, headers=bearer(token), json={})
            refused = answer.status_code in (401, 403)
            assert refused == (scope not in allowed), (method, path, scope, answer.text)
            if refused:
                detail = problem(answer, 403)["detail"]
                wanted = needed(method, path).scopes
                assert all(each in detail for each in wanted), detail
                assert f"'key-{scope}' has" in detail


def test_every_route_has_a_scope_and_every_rule_a_route(server: Served) -> None:
    routes = {
        (method, context.path)
        for context in server.app.routes
        if isinstance(context, APIRoute)
        for method in context.methods
    }
    routes |= {(method.upper(), path) for path, known in server.app.openapi()["paths"].items() for method in known}
    assert routes
    for method, path in routes:
        if OPEN.fullmatch(path):
            continue
        scopes = needed(method, path).scopes
        assert scopes, (method, path)
        if (method, path) not in RULES:
            assert scopes == ((Scope.READ,) if method in ("GET", "HEAD") else (Scope.WRITE,)), (method, path)
        assert path.startswith("/v1/keys") == (scopes == (Scope.ADMIN,)), (method, path)
    assert set(RULES) <= routes


def test_what_scopes_imply() -> None:
    assert granted([Scope.WRITE]) == {Scope.READ, Scope.WRITE}
    assert granted([Scope.WORKER]) == {Scope.READ, Scope.WORKER}
    assert granted([Scope.ADMIN]) == set(Scope)
    assert granted([Scope.READ, Scope.WORKER]) == {Scope.READ, Scope.WORKER}


def test_who_may_not_is_refused_before_the_body_is_read(server: Served) -> None:
    token = make(server.database, "reader", "read")
    server.app.state.keyring.forget()
    address = httpx.URL(server.url)
    for line, status in (("", b"401"), (f"Authorization: Bearer {token}\r\n", b"403")):
        head = f"POST /v1/spaces HTTP/1.1\r\nHost: {address.host}\r\n{line}Content-Length: 1000\r\n\r\n"
        with socket.create_connection((address.host, address.port), timeout=30) as connection:
            connection.sendall(head.encode())  # and nothing of the body
            assert connection.recv(4096).split(b" ", 2)[1] == status


def test_a_look_up_is_not_repeated_with_every_request(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.access.FRESH_S", 3600.0)
    token = make(server.database, "reader", "read")
    server.app.state.keyring.forget()
    with statements(server.database) as seen:
        for _ in range(20):
            server.http.get("/openapi.json")
            server.http.get("/v1/nothing", headers=bearer(token))
    assert len([each for each in seen if "keys" in each]) <= 2  # whether keys are needed, and this one


def test_use_is_written_down_apart_from_requests(server: Served) -> None:
    token = make(server.database, "reader", "read")
    server.app.state.keyring.forget()
    server.http.get("/v1/studies", headers=bearer(token))
    server.app.state.keyring.note_uses()
    with server.database.read() as s:
        assert keys.page(s, 1).items[0].last_used_at is not None


def test_a_stream_ends_with_its_key(server: Served) -> None:
    make(server.database, "boss", "admin")
    token = make(server.database, "follower", "read")
    writer = make(server.database, "writer", "worker", "write")
    server.app.state.keyring.forget()
    announced = worker_in().model_dump(mode="json")
    with server.http.stream("GET", "/v1/events", headers=bearer(token)) as stream:
        lines = stream.iter_lines()
        next(lines)
        server.http.post("/v1/workers", json=announced, headers=bearer(writer)).raise_for_status()
        assert any(line == "event: worker.seen" for line in lines)
        with server.database.write() as s:
            keys.revoke_named(s, "follower")
        server.app.state.keyring.forget()
        server.http.post("/v1/workers", json=announced, headers=bearer(writer)).raise_for_status()
        assert not any(line == "event: worker.seen" for line in lines)


def test_a_key_is_made_once_and_its_secret_is_not_kept_for_a_repeat(server: Served) -> None:
    boss = bearer(make(server.database, "boss", "admin"))
    server.app.state.keyring.forget()
    body = {"name": "ci", "scopes": ["write", "write"], "expires_at": "2999-01-01T00:00:00Z"}
    problem(server.http.post("/v1/keys", json=body, headers=boss), 422)
    body["expires_at"] = (datetime.now(UTC) + timedelta(days=3)).isoformat()
    made = server.http.post("/v1/keys", json=body, headers={**boss, "Idempotency-Key": "one"})
    assert made.status_code == 201, made.text
    assert made.json()["scopes"] == ["write"]
    problem(server.http.post("/v1/keys", json=body, headers={**boss, "Idempotency-Key": "one"}), 409)
    with server.database.engine.connect() as connection:
        rows = [str(row) for table in Base.metadata.sorted_tables for row in connection.execute(select(table))]
    assert not any(made.json()["token"] in row for row in rows)
    listed = server.http.get("/v1/keys", headers=boss)
    assert made.json()["token"] not in listed.text
    assert [key["name"] for key in listed.json()["items"]] == ["boss", "ci"]
    for wrong in ({"scopes": []}, {"scopes": ["all"]}, {"name": "A B"}, {"expires_at": "2030-01-01T00:00:00"}):
        problem(server.http.post("/v1/keys", json={**body, "name": "other", **wrong}, headers=boss), 422)


def test_the_typed_client_sends_its_key_and_says_what_is_wrong(server: Served) -> None:
    boss = make(server.database, "boss", "admin")
    server.app.state.keyring.forget()
    with Client(server.url, boss) as client:
        made = client.keys.create(KeyIn(name="ci", scopes=[Scope.READ]))
        assert [key.name for key in client.keys.list()] == ["boss", "ci"]
        with Client(server.url, made.token) as other:
            assert list(other.studies.list()) == []
            with pytest.raises(Forbidden, match="scope admin"):
                list(other.keys.list())
        assert client.keys.revoke(made.id).revoked_at is not None
        with Client(server.url, made.token) as other, pytest.raises(Unauthorized, match="revoked"):
            list(other.studies.list())


# ---------------------------------------------------------------------- limits


def test_many_wrong_keys_are_asked_to_wait_and_right_ones_are_not(server: Served) -> None:
    token = make(server.database, "reader", "read")
    server.app.state.keyring.forget()
    assert server.http.get("/v1/studies", headers=bearer(token)).status_code == 200
    statuses = [
        server.http.get("/v1/studies", headers=bearer(f"frontier_{number:043}")).status_code for number in range(11)
    ]
    assert statuses[:10] == [401] * 10
    answer = server.http.get("/v1/studies", headers=bearer("frontier_" + "y" * 43))
    assert "too many wrong keys" in problem(answer, 429)["detail"]
    assert 1 <= int(answer.headers["retry-after"]) <= 6
    assert server.http.get("/v1/studies", headers=bearer(token)).status_code == 200


def test_one_caller_has_a_rate_and_others_have_their_own(database: Database, database_url: str, tmp_path: Path) -> None:
    first, second = make(database, "first", "read"), make(database, "second", "read")
    settings = Settings(home=tmp_path, port=0, database_url=database_url, rate=0.01)
    # A bucket of less than one token never lets anybody in: bursts are of twice the rate, and of one at least.
    with served(settings, create_app(settings, database)) as running:
        assert running.http.get("/v1/studies", headers=bearer(first)).status_code == 200
        answer = running.http.get("/v1/studies", headers=bearer(first))
        assert "'first'" in problem(answer, 429)["detail"]
        assert 1 <= int(answer.headers["retry-after"]) <= 100
        assert running.http.get("/v1/studies", headers=bearer(second)).status_code == 200


def test_the_client_waits_as_long_as_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr("service.client.http.time.sleep", waits.append)
    answers = [httpx.Response(429, headers={"Retry-After": "3"}, json={}), httpx.Response(200, json={"status": "ok"})]
    with Client("http://server", transport=httpx.MockTransport(lambda _: answers.pop(0))) as client:
        assert client.health() == {"status": "ok"}
    assert waits == [3.0]


def test_buckets_fill_again_and_their_memory_is_bounded() -> None:
    now = 0.0
    buckets = Buckets(2.0, 4.0, lambda: now)
    assert [buckets.take("a") for _ in range(4)] == [0.0] * 4
    assert buckets.take("a") == buckets.wait_s("a") == 0.5
    now = 0.5
    assert buckets.take("a") == 0
    assert buckets.take("a") > 0
    now = 100.0
    assert [buckets.take("a") > 0 for _ in range(5)] == [False] * 4 + [True]
    for number in range(MOST + 50):
        buckets.take(str(number))
    assert len(buckets) == MOST
    off = Buckets(0.0, 0.0)
    assert [off.take("a") for _ in range(100)] == [0.0] * 100


# ---------------------------------------------------------------------- binding and hosts


def test_other_machines_are_let_in_when_there_are_keys(server: Served, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, host="0.0.0.0", port=0)

    def guarded() -> bool:
        with server.database.read() as s:
            return keys.guarded(s)

    with pytest.raises(Invalid, match="frontier keys create"):
        bind(settings, guarded)
    make(server.database, "boss", "admin")
    bind(settings, guarded).close()


@pytest.mark.parametrize(
    ("given", "host", "status"),
    [
        ({}, "frontier.example", 403),
        ({"hosts": "frontier.example, other.example"}, "Frontier.example:8470", 200),
        ({"hosts": "frontier.example"}, "evil.example", 403),
        ({"hosts": "frontier.example"}, "localhost", 200),
        ({"host": "0.0.0.0"}, "anything.example", 200),
        ({"host": "0.0.0.0", "hosts": "frontier.example"}, "anything.example", 403),
    ],
)
def test_which_names_are_answered(
    database: Database, database_url: str, tmp_path: Path, given: dict[str, str], host: str, status: int
) -> None:
    token = make(database, "reader", "read")
    settings = Settings(home=tmp_path, port=0, database_url=database_url, **given)  # type: ignore[arg-type]
    app = create_app(settings, database)
    with served(settings.model_copy(update={"host": "127.0.0.1"}), app) as running:
        answer = running.http.get("/v1/studies", headers={"Host": host, **bearer(token)})
        assert answer.status_code == status, answer.text


def test_without_keys_a_foreign_name_is_refused_wherever_the_server_is_bound(
    database: Database, database_url: str, tmp_path: Path
) -> None:
    settings = Settings(home=tmp_path, port=0, database_url=database_url, host="0.0.0.0")
    with served(settings.model_copy(update={"host": "127.0.0.1"}), create_app(settings, database)) as running:
        problem(running.http.get("/v1/studies", headers={"Host": "evil.example"}), 403)
        assert running.http.get("/v1/studies").status_code == 200


# ---------------------------------------------------------------------- logs


@pytest.fixture
def logged() -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """Structured logs as a process of the server writes them."""
    root, before = logging.getLogger(), structlog.get_config()
    handlers, level = root.handlers[:], root.level
    configure("DEBUG", "test")
    structlog.configure(cache_logger_on_first_use=False)
    written = io.StringIO()
    (handler,) = root.handlers
    assert isinstance(handler, logging.StreamHandler)
    handler.setStream(written)

    def read() -> list[dict[str, Any]]:
        # Whole lines: the server's thread may be writing one.
        return [json.loads(line) for line in written.getvalue().rpartition("\n")[0].splitlines()]

    yield read
    root.handlers, root.level = handlers, level
    structlog.configure(**before)


def test_every_change_leaves_a_line_that_says_who(server: Served, logged: Callable[[], list[dict[str, Any]]]) -> None:
    token = make(server.database, "boss", "admin")
    server.app.state.keyring.forget()
    mine = bearer(token)
    server.http.post("/v1/spaces", json=SPACE, headers={**mine, "X-Request-ID": "mine-1"}).raise_for_status()
    server.http.post("/v1/workers", json=worker_in().model_dump(mode="json"), headers=mine).raise_for_status()
    server.http.post("/v1/jobs:lease", json={"worker": "w1"}, headers=mine).raise_for_status()
    server.http.post("/v1/spaces", json={}, headers=mine)
    server.http.get("/v1/spaces", headers=mine)
    made = server.http.post("/v1/keys", json={"name": "ci", "scopes": ["read"]}, headers=mine).json()
    wanted = {"/v1/spaces", "/v1/workers", "/v1/jobs:lease", "/v1/keys"}
    # An answer is sent before its line is written.
    lines = until("the lines", lambda: wanted <= {line.get("route") for line in logged()} and logged(), 10)
    audits = {line["route"]: line for line in lines if line["event"] == "audit"}
    assert audits.keys() == wanted
    space = audits["/v1/spaces"]
    assert (space["principal"], space["method"], space["path"], space["status"]) == ("boss", "POST", "/v1/spaces", 201)
    assert space["request_id"] == "mine-1"
    assert space["level"] == "info"
    assert audits["/v1/jobs:lease"]["level"] == "debug"
    for secret in (token, made["token"]):
        assert secret not in json.dumps(lines)


def test_secrets_are_taken_out_of_log_lines(logged: Callable[[], list[dict[str, Any]]]) -> None:
    token = keys.PREFIX + "Ab-_" + "x" * 39
    url = "postgresql+psycopg://frontier:s3cr3t@db:5432/frontier"
    try:
        raise RuntimeError(f"with {token} at {url}")
    except RuntimeError:
        structlog.get_logger("frontier.test").exception("failed", token=token, nested={"url": url})
    logging.getLogger("uvicorn.error").warning("of another library: %s %s", token, url)
    lines = logged()
    text = json.dumps(lines)
    assert len(lines) == 2
    assert token not in text
    assert "s3cr3t" not in text
    assert text.count("frontier_***") == 3
    assert text.count("frontier:***@db:5432/frontier") == 3


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("host=db password=s3cr3t user=x", "host=db password=*** user=x"),
        ("postgresql://u:p@ss@db/x", "postgresql://u:***@db/x"),
        ("http://127.0.0.1:8470/v1", "http://127.0.0.1:8470/v1"),
        ("frontier_http_requests", "frontier_http_requests"),
    ],
)
def test_what_is_redacted(text: str, shown: str) -> None:
    assert redact(text) == shown
