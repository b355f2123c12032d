"""Who calls, and how often they may: what the REST interface and the dashboard both ask.

Answers of the database are kept for a second at most, and dropped at once in the process that revokes a key: that is
the longest a revoked key lives in another process. Nothing here holds up the event loop: the database is read in
threads of their own, so that a full pool of slow requests keeps nobody out either.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Any, Literal, TypeVar, final
from urllib.parse import urlsplit

import structlog
from anyio import CapacityLimiter, to_thread
from sqlalchemy.orm import Session

from service.core.errors import TooMany, Unauthorized
from service.core.scopes import ALL, Scope
from service.db import keys
from service.db.keys import Holder
from service.db.session import Database
from service.db.tables import now
from service.limits import Buckets

COOKIE = "frontier_session"
FRESH_S = 1.0
"""Answers of the database are kept so long."""
FAILURES_PER_MINUTE = 10
"""Wrong keys that one address may present."""
NOTED_S = 5.0
"""Seconds between writing down which keys were used."""
_REMEMBERED = 4096
_READERS = 2
_TOKEN = re.compile(re.escape(keys.PREFIX) + r"[A-Za-z0-9_\-]{43}")
_CSRF = b"frontier csrf"
_UNKNOWN = "the key is not known here"

Answer = TypeVar("Answer")

log = structlog.get_logger("frontier.access")


@dataclass(frozen=True, slots=True)
class Credential:
    """What was shown: a key's token or a session's cookie, by its hash."""

    kind: Literal["key", "session"]
    hash: str


@dataclass(frozen=True, slots=True)
class Principal:
    """Who calls. ``scopes`` hold all that they imply.

    ``credential`` is None for callers of this machine where no key is needed; ``csrf`` is what a browser's session
    must send with each change.
    """

    name: str
    scopes: frozenset[Scope]
    credential: Credential | None = field(default=None, repr=False)
    csrf: str | None = field(default=None, repr=False)


LOCAL = Principal(keys.LOCAL, ALL)


@final
class Keyring:
    """One per application; its coroutines belong to the event loop.

    Args:
        database: Where keys are.
        rate: Requests a second that one principal may make, with bursts of twice as many; 0 limits neither these nor
            wrong keys.
    """

    def __init__(self, database: Database, rate: float) -> None:
        self._database = database
        self._requests = Buckets(rate, max(1.0, 2 * rate))
        self._failures = Buckets(FAILURES_PER_MINUTE / 60 if rate else 0, FAILURES_PER_MINUTE)
        self._kept: dict[object, tuple[float, Any]] = {}
        self._changes = 0
        self._welcome: set[Credential] = set()
        self._used: dict[int, datetime] = {}
        self._noted: dict[int, float] = {}
        self._readers = CapacityLimiter(_READERS)
        self._writer = CapacityLimiter(1)  # apart: it may wait for the database's other writers

    async def guarded(self) -> bool:
        """Whether callers need a key."""
        return await self._fresh("guarded", keys.guarded)

    async def bearer(self, token: str, address: str) -> Principal:
        """Who sends this token. Raises `Unauthorized`, and `TooMany` to an address that showed many wrong ones.

        Keys that were right the last time are looked at even then: addresses are shared, by proxies for example.
        """
        shown = Credential("key", keys.hash_of(token))
        if shown not in self._welcome and (wait := self._failures.wait_s(address)):
            raise TooMany("too many wrong keys came from this address", wait)
        found = await self._holder(shown) if _TOKEN.fullmatch(token) else None
        problem = _UNKNOWN if found is None else found.problem(now())
        if found is None or problem is not None:
            self._welcome.discard(shown)
            self._failures.take(address)
            raise Unauthorized(problem or _UNKNOWN, presented=True)
        self._welcome.add(shown)
        self._used[found.id] = now()
        return Principal(found.name, found.scopes, shown)

    async def session(self, secret: str) -> Principal | None:
        """Who sends this cookie; None if its session has ended."""
        shown = Credential("session", keys.hash_of(secret))
        found = await self._holder(shown)
        if found is None or found.problem(now()) is not None:
            return None
        self._used[found.id] = now()
        return Principal(found.name, found.scopes, shown, csrf_token(secret))

    async def holds(self, principal: Principal) -> bool:
        """Whether somebody who was let in may stay: for answers that go on for long."""
        if principal.credential is None:
            return not await self.guarded()
        found = await self._holder(principal.credential)
        return found is not None and found.problem(now()) is None

    def admit(self, principal: Principal) -> None:
        """Counts a request. Raises `TooMany` beyond the limit."""
        if wait := self._requests.take(principal.name):
            raise TooMany(f"{principal.name!r} sends more requests than this server takes from one caller", wait)

    # ------------------------------------------------------------------ sessions

    async def begin_session(self, principal: Principal) -> tuple[str, datetime]:
        """A cookie's secret for a key's holder, and when it ends."""
        assert principal.credential is not None  # noqa: S101 - only who showed a key comes here
        found = await self._holder(principal.credential)
        if found is None:
            raise Unauthorized(_UNKNOWN, presented=True)
        return await self._write(lambda s: keys.begin_session(s, found.id))

    async def end_session(self, principal: Principal) -> None:
        """Ends the session whose cookie was shown."""
        if principal.credential is not None and principal.credential.kind == "session":
            shown = principal.credential.hash
            await self._write(lambda s: keys.end_session(s, shown))
            self.forget()

    # ------------------------------------------------------------------ what is kept

    def forget(self) -> None:
        """Keys or sessions changed: ask the database anew. Any thread may call it, after its commit."""
        self._changes += 1
        self._kept.clear()

    def note_uses(self) -> None:
        """Writes down which keys were used, each at most once a minute."""
        due = []
        while self._used:
            key, used_at = self._used.popitem()
            if time.monotonic() - self._noted.get(key, -60.0) >= 60.0:
                due.append((key, used_at))
        if not due:
            return
        with self._database.write() as s:
            for key, used_at in sorted(due):
                keys.used(s, key, used_at)
        self._noted.update((key, time.monotonic()) for key, _ in due)

    async def keep_noting(self) -> None:
        """`note_uses`, again and again, until it is cancelled. Apart from requests: none of them waits for it."""
        while True:
            await asyncio.sleep(NOTED_S)
            try:
                await to_thread.run_sync(self.note_uses, limiter=self._writer)
            except Exception as error:
                log.warning("key_uses_not_noted", error=str(error))

    async def _holder(self, shown: Credential) -> Holder | None:
        find = keys.holder if shown.kind == "key" else keys.session_holder
        return await self._fresh(shown, lambda s: find(s, shown.hash))

    async def _fresh(self, what: object, read: Callable[[Session], Answer]) -> Answer:
        """What ``read`` gives, or gave within `FRESH_S`."""
        kept = self._kept.get(what)
        if kept is not None and kept[0] > time.monotonic():
            answer: Answer = kept[1]
            return answer

        def look() -> Answer:
            with self._database.read() as s:
                return read(s)

        until, changes = time.monotonic() + FRESH_S, self._changes
        answer = await to_thread.run_sync(look, limiter=self._readers)
        if changes == self._changes:  # else it may be from before the change
            if len(self._kept) >= _REMEMBERED:
                self._kept.clear()
            self._kept[what] = (until, answer)
        return answer

    async def _write(self, change: Callable[[Session], Answer]) -> Answer:
        def run() -> Answer:
            with self._database.write() as s:
                return change(s)

        return await to_thread.run_sync(run, limiter=self._writer)


def csrf_token(secret: str) -> str:
    """What a page of a session sends back with each change. It follows from the cookie, and tells nothing of it."""
    return hmac.new(secret.encode(), _CSRF, hashlib.sha256).hexdigest()


def same_secret(given: str, expected: str) -> bool:
    """Compares in a time that does not depend on where they differ."""
    return hmac.compare_digest(given.encode(), expected.encode())


def from_same_site(headers: Mapping[str, str]) -> bool:
    """Whether a browser says that a page of this server makes the request: by Origin, or else by Referer."""
    source = headers.get("origin") or headers.get("referer") or ""
    return urlsplit(source).netloc.lower() == headers.get("host", "").lower() != ""


def hostname(authority: str) -> str:
    """The name in a Host header, lower-case and without its port; empty if it cannot be one."""
    try:
        return (urlsplit(f"//{authority}").hostname or "").lower()
    except ValueError:
        return ""


@lru_cache(maxsize=1024)
def is_loopback(address: str) -> bool:
    """Whether an IP address is this machine's own."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False
