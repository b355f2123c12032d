"""Logging in to the dashboard: a key for a cookie, and what a browser's session may do with it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from sqlalchemy import select, update

from service.access import COOKIE, csrf_token
from service.app import create_app
from service.core.scopes import Scope
from service.dashboard.login import local_path
from service.db import keys
from service.db.session import Database
from service.db.tables import BrowserSession, Key
from service.settings import Settings
from service.wire.keys import KeyIn
from tests.serving import SPACE, Served, served


@pytest.fixture
def server(database: Database, database_url: str, tmp_path: Path) -> Iterator[Served]:
    settings = Settings(home=tmp_path, port=0, poll_s=0.02, database_url=database_url)
    with served(settings, create_app(settings, database)) as running:
        yield running


def make(server: Served, name: str = "me", scope: str = "write", expires_at: datetime | None = None) -> str:
    with server.database.write() as s:
        made = keys.create(s, KeyIn(name=name, scopes=[Scope(scope)], expires_at=expires_at))
    server.app.state.keyring.forget()
    return made.token


def log_in(server: Served, token: str, following: str = "/", **headers: str) -> httpx.Response:
    form = {"key": token, "next": following}
    return server.http.post("/login", data=form, headers={"Origin": server.url, **headers})


def test_without_keys_nobody_is_asked_to_log_in(server: Served) -> None:
    answer = server.http.get("/")
    assert answer.status_code == 200
    assert "logout" not in answer.text
    assert "csrf" not in answer.text
    login = server.http.get("/login")
    assert (login.status_code, login.headers["location"]) == (303, "/")


def test_pages_lead_to_the_login_and_everything_else_is_refused(server: Served) -> None:
    make(server)
    answer = server.http.get("/studies/a?x=macs&y=error")
    assert answer.status_code == 303
    place = urlsplit(answer.headers["location"])
    assert place.path == "/login"
    assert parse_qs(place.query) == {"next": ["/studies/a?x=macs&y=error"]}
    page = server.http.get(answer.headers["location"])
    assert page.status_code == 200
    assert 'value="/studies/a?x=macs&amp;y=error"' in page.text
    assert "form-action 'self'" in page.headers["content-security-policy"]
    assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
    for path, headers in (
        ("/v1/events", {"Accept": "text/event-stream"}),
        ("/studies/a/parts/front", {"HX-Request": "true"}),
        ("/studies/a/data/front", {}),
        ("/metrics", {}),
    ):
        assert server.http.get(path, headers=headers).status_code == 401, path


def test_a_key_is_traded_for_a_cookie_that_scripts_cannot_read(server: Served) -> None:
    token = make(server)
    answer = log_in(server, token, "/workers")
    assert (answer.status_code, answer.headers["location"]) == (303, "/workers")
    name, _, rest = answer.headers["set-cookie"].partition("=")
    secret, *attributes = re.split("; *", rest)
    assert name == COOKIE
    assert token not in answer.headers["set-cookie"]
    assert {"httponly", "samesite=strict", "path=/"} <= {each.lower() for each in attributes}
    (age,) = (int(each.partition("=")[2]) for each in attributes if each.lower().startswith("max-age"))
    assert 0 < age <= keys.SESSION.total_seconds()
    page = server.http.get("/workers")
    assert page.status_code == 200
    assert csrf_token(secret) in page.text
    assert secret not in page.text
    assert "Log out" in page.text
    assert server.http.get("/v1/studies").status_code == 200
    with server.database.read() as s:
        assert s.scalars(select(BrowserSession.hash)).all() == [keys.hash_of(secret)]


def test_a_session_never_outlives_its_key(server: Served) -> None:
    ends = datetime.now(UTC) + timedelta(hours=1)
    log_in(server, make(server, expires_at=ends))
    with server.database.read() as s:
        assert s.scalars(select(BrowserSession.expires_at)).one() == ends
    with server.database.write() as s:
        keys.revoke_named(s, "me")
        keys.create(s, KeyIn(name="other", scopes=[Scope.READ]))
    server.app.state.keyring.forget()
    assert server.http.get("/").status_code == 303
    assert server.http.get("/v1/studies").status_code == 401


def test_a_session_ends_by_time(server: Served) -> None:
    log_in(server, make(server))
    past = datetime.now(UTC) - timedelta(seconds=1)
    with server.database.write() as s:
        s.execute(update(BrowserSession).values(expires_at=past))
    server.app.state.keyring.forget()
    assert server.http.get("/").status_code == 303
    answer = server.http.get("/v1/studies")
    assert answer.status_code == 401
    assert "session has ended" in answer.json()["detail"]
    log_in(server, make(server, "again"))
    with server.database.read() as s:
        assert len(s.scalars(select(BrowserSession.hash)).all()) == 1  # the one that had ended is gone


def test_wrong_keys_are_told_and_counted(server: Served) -> None:
    token = make(server)
    for _ in range(10):
        answer = log_in(server, "frontier_" + "x" * 43)
        assert answer.status_code == 401
        assert "The key is not known here." in answer.text
        assert "xxx" not in answer.text
        assert "set-cookie" not in answer.headers
    answer = log_in(server, "frontier_" + "x" * 43)
    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) >= 1
    assert log_in(server, token).status_code == 429  # never seen before from here


def test_logging_in_is_refused_to_other_sites(server: Served) -> None:
    token = make(server)
    form = {"key": token}
    for headers in (
        {},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Referer": "http://evil.example/login"},
    ):
        answer = server.http.post("/login", data=form, headers=headers)
        assert answer.status_code == 403, headers
        assert "set-cookie" not in answer.headers
    assert server.http.post("/login", data=form, headers={"Referer": f"{server.url}/login"}).status_code == 303


def test_forms_that_cannot_be_read_are_refused(server: Served) -> None:
    make(server)
    for body in (b"\xff=\xfe", b"key=" + b"x" * 10_000, b"&".join(b"a=1" for _ in range(100))):
        answer = server.http.post("/login", content=body, headers={"Origin": server.url})
        assert answer.status_code == 422, body[:20]


def test_changes_by_cookie_need_the_sessions_token_and_this_site(server: Served) -> None:
    secret_of = log_in(server, make(server)).cookies[COOKIE]
    right = {"Origin": server.url, "X-CSRF-Token": csrf_token(secret_of)}
    other = {"Origin": server.url, "X-CSRF-Token": csrf_token("another session")}
    strange = {"Origin": server.url, "X-CSRF-Token": b"\xe9"}
    no_origin = {"X-CSRF-Token": csrf_token(secret_of)}
    for headers in ({}, {"Origin": server.url}, other, strange, no_origin, {**right, "Origin": "http://evil.example"}):
        answer = server.http.post("/v1/spaces", json=SPACE, headers=headers)  # type: ignore[arg-type]
        assert answer.status_code == 403, headers
    assert server.http.post("/v1/spaces", json=SPACE, headers=right).status_code == 201
    referred = {"Referer": f"{server.url}/workers", "X-CSRF-Token": csrf_token(secret_of)}
    assert server.http.post("/v1/spaces", json=SPACE, headers=referred).status_code == 200


def test_requests_with_a_key_need_no_token(server: Served) -> None:
    token = make(server)
    log_in(server, token)
    answer = server.http.post("/v1/spaces", json=SPACE, headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == 201


def test_a_session_has_the_scopes_of_its_key(server: Served) -> None:
    secret = log_in(server, make(server, scope="read")).cookies[COOKIE]
    headers = {"Origin": server.url, "X-CSRF-Token": csrf_token(secret)}
    answer = server.http.post("/v1/spaces", json=SPACE, headers=headers)
    assert answer.status_code == 403
    assert "scope write" in answer.json()["detail"]


def test_logging_out_ends_the_session(server: Served) -> None:
    secret = log_in(server, make(server, scope="read")).cookies[COOKIE]
    refused = server.http.post("/logout", data={"csrf": "wrong"}, headers={"Origin": server.url})
    assert refused.status_code == 403
    assert server.http.get("/").status_code == 200
    elsewhere = {"csrf": csrf_token(secret)}
    assert server.http.post("/logout", data=elsewhere, headers={"Origin": "http://evil.example"}).status_code == 403
    answer = server.http.post("/logout", data={"csrf": csrf_token(secret)}, headers={"Origin": server.url})
    assert (answer.status_code, answer.headers["location"]) == (303, "/login")
    again = httpx.get(f"{server.url}/v1/studies", cookies={COOKIE: secret}, trust_env=False)
    assert again.status_code == 401  # a copy of the cookie is worth nothing
    with server.database.read() as s:
        assert s.scalars(select(BrowserSession.hash)).all() == []
        assert s.scalars(select(Key.revoked_at)).all() == [None]
    assert server.http.post("/logout", headers={"Origin": server.url}).headers["location"] == "/login"


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ("/", "/"),
        ("/studies/a?x=macs", "/studies/a?x=macs"),
        ("//evil.example", "/"),
        ("/\\evil.example", "/"),
        ("https://evil.example/", "/"),
        ("javascript:alert(1)", "/"),
        ("/\t/evil.example", "/"),
        ("/a\r\nSet-Cookie: x=y", "/"),
        ("evil.example", "/"),
        ("", "/"),
        ("//[", "/"),
    ],
)
def test_the_login_leads_to_paths_of_this_server_alone(given: str, path: str) -> None:
    assert local_path(given) == path
