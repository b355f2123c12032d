"""What the client repeats, what it never repeats, and answers that are not Frontier's. No server, no waiting."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import httpx
import pytest

from service.client import (
    ApiError,
    Client,
    ConnectionFailed,
    DigestMismatch,
    Unavailable,
    UnexpectedAnswer,
)
from service.client.http import TRIES
from service.core.states import State
from service.wire.jobs import CompleteBatch, CompleteIn, FailIn, HeartbeatIn, LeaseIn
from service.wire.searches import SearchIn
from service.wire.spaces import SpaceIn
from service.wire.studies import ExportIn, ScoreIn

JOB = {
    "id": 1,
    "kind": "export",
    "state": "QUEUED",
    "reason": "",
    "study": "s",
    "search": None,
    "trial": None,
    "worker": None,
    "attempts": 0,
    "progress": {},
    "result": None,
    "traceback": None,
    "created_at": "2026-01-01T00:00:00Z",
    "leased_at": None,
    "ended_at": None,
}
Fault = Callable[[httpx.Request], httpx.Response]


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that were made, none of which was waited for."""
    made: list[float] = []
    monkeypatch.setattr("time.sleep", made.append)
    return made


def failing(times: int, fault: Fault, then: Any = None) -> tuple[Client, list[httpx.Request]]:
    """A client of a server that fails so often and then answers; and the requests it got."""
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return fault(request) if len(seen) <= times else httpx.Response(200, json=then)

    return Client("http://frontier.test", transport=httpx.MockTransport(answer)), seen


def cut(_: httpx.Request) -> httpx.Response:
    raise httpx.ReadError("the connection was cut")


def unreachable(_: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("connection refused")


def busy(_: httpx.Request) -> httpx.Response:
    body = {"title": "Service Unavailable", "status": 503, "detail": "the database is busy"}
    return httpx.Response(503, json=body, headers={"Retry-After": "3"})


def refusing(answer: httpx.Response) -> Fault:
    return lambda _: answer


REPEATABLE: list[Callable[[Client], Any]] = [
    lambda c: c.jobs.get(1),
    lambda c: c.supernets.train("net"),
    lambda c: c.jobs.cancel(1),
    lambda c: c.spaces.create(SpaceIn(name="x", plugin="y")),
    lambda c: c.searches.create("s", SearchIn(name="x", designer="random", budget=1)),
    lambda c: c.searches.create("s", SearchIn(designer="random", budget=1)),
    lambda c: c.studies.score("s", ScoreIn(proxies=["synflow"], sample=1)),
    lambda c: c.searches.pause(1),
    lambda c: c.jobs.heartbeat(1, HeartbeatIn(token=1)),
    lambda c: c.jobs.complete(CompleteBatch(worker="w", results=[CompleteIn(job=1, token=1, result={}, seconds=0)])),
    lambda c: c.jobs.fail(1, FailIn(token=1, state=State.FAILED, failure="bug", reason="")),
]
ONCE: list[Callable[[Client], Any]] = [
    lambda c: c.jobs.lease(LeaseIn(worker="w")),
]


@pytest.mark.parametrize("call", REPEATABLE)
def test_what_is_safe_to_repeat_is_repeated(call: Callable[[Client], Any], pauses: list[float]) -> None:
    client, seen = failing(2, cut, JOB)
    with suppress(UnexpectedAnswer):  # what is answered is a job; what matters is that something is
        call(client)
    assert len(seen) == 3
    assert len({(request.content, request.headers.get("Idempotency-Key")) for request in seen}) == 1


@pytest.mark.parametrize("call", ONCE)
def test_what_may_have_been_done_is_not_done_again(call: Callable[[Client], Any], pauses: list[float]) -> None:
    client, seen = failing(1, cut, JOB)
    with pytest.raises(ConnectionFailed):
        call(client)
    assert len(seen) == 1


@pytest.mark.parametrize("call", ONCE)
@pytest.mark.parametrize("fault", [unreachable, busy])
def test_what_was_certainly_not_done_is_tried_again(
    call: Callable[[Client], Any], fault: Fault, pauses: list[float]
) -> None:
    client, seen = failing(2, fault, JOB)
    with suppress(UnexpectedAnswer):
        call(client)
    assert len(seen) == 3


def test_pauses_grow_and_heed_retry_after(pauses: list[float]) -> None:
    client, _ = failing(TRIES - 1, cut, JOB)
    client.jobs.get(1)
    longest = [0.2 * 2**number for number in range(TRIES - 1)]
    assert len(pauses) == TRIES - 1
    assert all(most / 2 <= pause <= most for pause, most in zip(pauses, longest, strict=True))
    pauses.clear()
    client, _ = failing(1, busy, JOB)
    client.jobs.get(1)
    assert pauses == [3.0]


def test_patience_ends(pauses: list[float]) -> None:
    client, seen = failing(100, busy)
    with pytest.raises(Unavailable, match="busy"):
        client.jobs.get(1)
    assert len(seen) == TRIES
    client, seen = failing(100, unreachable)
    with pytest.raises(ConnectionFailed, match=r"frontier\.test"):
        client.jobs.get(1)
    assert len(seen) == TRIES


def test_refusals_are_not_repeated(pauses: list[float]) -> None:
    for status in (403, 404, 409, 413, 422, 500):
        refusal = httpx.Response(status, text="no")
        client, seen = failing(100, refusing(refusal))
        with pytest.raises(ApiError) as refused:
            client.jobs.get(1)
        assert refused.value.status == status
        assert len(seen) == 1


def test_a_newer_server_may_say_more(pauses: list[float]) -> None:
    client, _ = failing(0, cut, {**JOB, "colour": "blue"})
    assert client.jobs.get(1).id == 1


@pytest.mark.parametrize("content", [b"<html>a proxy</html>", b"{}", b"[1]", b""])
def test_answers_that_are_not_frontiers_are_said_to_be_so(content: bytes) -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(200, content=content))
    with Client("http://frontier.test", transport=transport) as client, pytest.raises(UnexpectedAnswer):
        client.jobs.get(1)


def test_defaults_are_left_to_the_server() -> None:
    """A client of a newer release must not send an older server fields that it does not know."""
    client, seen = failing(0, cut, JOB)
    client.studies.export("s", "0" * 32, ExportIn())
    assert seen[0].content == b"{}"


def test_the_key_is_sent_and_never_shown() -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        raise httpx.ConnectError("refused")

    client = Client("http://frontier.test", "secret-key", transport=httpx.MockTransport(answer), tries=1)
    with pytest.raises(ConnectionFailed) as failed:
        client.health()
    assert seen[0].headers["authorization"] == "Bearer secret-key"
    assert "secret-key" not in f"{failed.value!r} {client!r} {vars(client)}"


def test_a_download_starts_again_when_it_is_cut(pauses: list[float], tmp_path: Any) -> None:
    content = b"0123456789"
    digest = "84d89877f0d4041efb6bf91a16f0248f2fd573e6af05c19f96bedb9f882f7882"
    tries = 0

    class Cut(httpx.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            yield content[:4]
            raise httpx.ReadError("cut")

    def answer(_: httpx.Request) -> httpx.Response:
        nonlocal tries
        tries += 1
        return httpx.Response(200, stream=Cut()) if tries == 1 else httpx.Response(200, content=content)

    client = Client("http://frontier.test", transport=httpx.MockTransport(answer))
    assert client.artifacts.download(digest, tmp_path / "file").read_bytes() == content
    assert tries == 2
    with pytest.raises(DigestMismatch):
        client.artifacts.read("0" * 64)
