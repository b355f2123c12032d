"""Keys and browser sessions.

Only SHA-256 of a secret is kept. That is enough here, where it would not be for passwords: secrets are drawn with 256
bits of randomness, so nobody finds one by hashing guesses, and a slow hash would only slow each request.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Select, delete, exists, or_, select, update
from sqlalchemy.orm import Session

from service.core.errors import Conflict, Invalid, NotFound
from service.core.scopes import Scope, granted
from service.db.paging import checked_id, slice_of
from service.db.rows import insert_new, upsert
from service.db.tables import BrowserSession, Key, now
from service.wire.base import Page
from service.wire.keys import KeyIn, KeyMade, KeyOut

PREFIX = "frontier_"
"""Tokens begin with it, so that scanners of repositories and logs find those that were left lying about."""
LOCAL = "local"
"""The name of callers without a key. Keys never have it, nor names that begin with it and a dash (see `renew`)."""
SESSION = timedelta(hours=12)
"""A browser's session ends after this time, or with its key."""
LONGEST = timedelta(days=36_525)
_USED_EVERY = timedelta(minutes=1)
_ENTROPY_BYTES = 32


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a secret: the key's id and name, its scopes with all they imply, and until when it counts."""

    id: int
    name: str
    scopes: frozenset[Scope]
    expires_at: datetime | None
    revoked_at: datetime | None

    def problem(self, time: datetime) -> str | None:
        """Why the key is not usable at a time; None if it is."""
        if self.revoked_at is not None:
            return f"key {self.name!r} was revoked at {self.revoked_at:%Y-%m-%d %H:%M} UTC"
        if self.expires_at is not None and self.expires_at <= time:
            return f"key {self.name!r} expired at {self.expires_at:%Y-%m-%d %H:%M} UTC"
        return None


def hash_of(secret: str) -> str:
    """What is kept of a secret."""
    return hashlib.sha256(secret.encode()).hexdigest()


# ---------------------------------------------------------------------- keys


def create(s: Session, body: KeyIn) -> KeyMade:
    """A new key. Raises `Conflict` if the name was ever used, `Invalid` for a reserved name or an impossible end."""
    time = now()
    if body.name == LOCAL or body.name.startswith(f"{LOCAL}-"):
        raise Invalid("name", f"{LOCAL!r} and names that begin with '{LOCAL}-' are the server's own")
    if body.expires_at is not None and body.expires_at <= time:
        raise Invalid("expires_at", f"must be in the future, is {body.expires_at.isoformat()}")
    if body.expires_at is not None and body.expires_at > time + LONGEST:
        raise Invalid("expires_at", "must be within 100 years; leave it out for a key that does not expire")
    token, values = _made(body.scopes, time)
    row = {"name": body.name, "expires_at": body.expires_at, **values}
    if not insert_new(s, Key, [row], Key.id):
        raise Conflict(
            f"there is a key {body.name!r}, or there was one: names of keys are not used again, not even of revoked "
            "ones, because logs name them"
        )
    stored = s.scalars(_named(body.name)).one()
    return KeyMade(**_view(stored).model_dump(), token=token)


def renew(s: Session, name: str, scopes: list[Scope]) -> str:
    """The token of a key of the server's own, as its local workers need; the one before stops working.

    Such keys never make a server ask for keys: see `guarded`.
    """
    token, values = _made(scopes, now())
    values = {**values, "expires_at": None, "revoked_at": None, "last_used_at": None}
    statement = upsert(Key, s.get_bind().dialect.name).values(name=f"{LOCAL}-{name}", **values)
    s.execute(statement.on_conflict_do_update(index_elements=["name"], set_=values))
    return token


def revoke_own(s: Session, name: str) -> None:
    """Ends a key that `renew` made."""
    s.execute(update(Key).where(Key.name == f"{LOCAL}-{name}", Key.revoked_at.is_(None)).values(revoked_at=now()))


def revoke(s: Session, key: int) -> KeyOut:
    """Ends a key and its browser sessions, for ever. Repeatable. `NotFound` if there is none."""
    return _revoke(s, select(Key).where(Key.id == checked_id(key, "key")), key)


def revoke_named(s: Session, name: str) -> KeyOut:
    """`revoke`, by name."""
    return _revoke(s, _named(name), name)


def page(s: Session, size: int, token: str | None = None) -> Page[KeyOut]:
    """Keys in the order in which they were made."""
    rows, following = slice_of(s, select(Key), [Key.id], size, token)
    return Page(items=[_view(found[0]) for found in rows], next_page_token=following)


def guarded(s: Session) -> bool:
    """Whether callers need a key: there is one that somebody made and did not revoke.

    An expired one counts. Time passing must never open a server; revoking the last key does, and is somebody's act.
    """
    own = Key.name.startswith(f"{LOCAL}-", autoescape=True)
    return bool(s.scalar(select(exists().where(Key.revoked_at.is_(None), ~own))))


def holder(s: Session, secret_hash: str) -> Holder | None:
    """Who holds the token with this hash."""
    found = s.scalars(select(Key).where(Key.hash == secret_hash)).one_or_none()
    return None if found is None else _holder(found, found.expires_at)


def used(s: Session, key: int, time: datetime) -> None:
    """A key was used. Written at most once a minute, however many processes say so."""
    late = or_(Key.last_used_at.is_(None), Key.last_used_at < time - _USED_EVERY)
    s.execute(update(Key).where(Key.id == key, late).values(last_used_at=time))


# ---------------------------------------------------------------------- browser sessions


def begin_session(s: Session, key: int) -> tuple[str, datetime]:
    """A cookie's secret for a key, and when it ends; sessions that have ended are deleted."""
    time = now()
    s.execute(delete(BrowserSession).where(BrowserSession.expires_at <= time))
    stored = s.scalars(select(Key).where(Key.id == key)).one()
    ends = min(time + SESSION, stored.expires_at or time + SESSION)
    secret = secrets.token_urlsafe(_ENTROPY_BYTES)
    s.add(BrowserSession(hash=hash_of(secret), key_id=key, created_at=time, expires_at=ends))
    return secret, ends


def session_holder(s: Session, secret_hash: str) -> Holder | None:
    """Who holds the cookie with this hash; it expires with the session."""
    joined = select(Key, BrowserSession.expires_at).join(BrowserSession, BrowserSession.key_id == Key.id)
    found = s.execute(joined.where(BrowserSession.hash == secret_hash)).one_or_none()
    return None if found is None else _holder(*found)


def end_session(s: Session, secret_hash: str) -> None:
    """Ends a browser's session. Repeatable."""
    s.execute(delete(BrowserSession).where(BrowserSession.hash == secret_hash))


# ---------------------------------------------------------------------- inside


def _made(scopes: list[Scope], time: datetime) -> tuple[str, dict[str, Any]]:
    token = PREFIX + secrets.token_urlsafe(_ENTROPY_BYTES)
    return token, {"hash": hash_of(token), "scopes": sorted(set(scopes)), "created_at": time}


def _named(name: str) -> Select[Key]:
    return select(Key).where(Key.name == name)


def _revoke(s: Session, query: Select[Key], name: object) -> KeyOut:
    stored = s.scalars(query).one_or_none()
    if stored is None:
        raise NotFound("key", name)
    if stored.revoked_at is None:
        stored.revoked_at = now()
    s.execute(delete(BrowserSession).where(BrowserSession.key_id == stored.id))
    return _view(stored)


def _holder(key: Key, expires_at: datetime | None) -> Holder:
    scopes = granted([Scope(scope) for scope in key.scopes])
    return Holder(key.id, key.name, scopes, expires_at, key.revoked_at)


def _view(key: Key) -> KeyOut:
    return KeyOut.model_validate(key)
