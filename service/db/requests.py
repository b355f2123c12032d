"""Answers to requests that may come again, kept for a day with what the request wrote."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from service.core.errors import Invalid
from service.db.rows import insert_new
from service.db.tables import Request, now

KEPT = timedelta(hours=24)
_OPEN = 0
"""Status of a request whose transaction is still open: nobody else ever sees it."""


def claim(s: Session, principal: str, route: str, key: str, body_hash: str) -> tuple[int, str] | None:
    """Takes a key for the request of this transaction; (status, response) if it was answered before.

    While another transaction holds the key this waits for its end. Raises `Invalid` if the key came with another body.
    """
    place = (Request.principal == principal, Request.route == route, Request.key == key)
    s.execute(delete(Request).where(*place, Request.created_at < now() - KEPT))
    row = {
        "principal": principal,
        "route": route,
        "key": key,
        "body_hash": body_hash,
        "status": _OPEN,
        "response": "",
        "created_at": now(),
    }
    if insert_new(s, Request, [row], Request.key):
        return None
    stored = s.execute(select(Request.body_hash, Request.status, Request.response).where(*place)).one()
    if stored.body_hash != body_hash:
        raise Invalid("Idempotency-Key", "was sent before with another body: each request needs a key of its own")
    return stored.status, stored.response


def keep(s: Session, principal: str, route: str, key: str, status: int, response: str) -> None:
    """Keeps the answer under the claimed key."""
    place = (Request.principal == principal, Request.route == route, Request.key == key)
    s.execute(update(Request).where(*place).values(status=status, response=response))


def forget(s: Session) -> int:
    """Deletes answers that are older than a day; returns how many."""
    old = delete(Request).where(Request.created_at < now() - KEPT)
    return int(s.execute(old, execution_options={"synchronize_session": False}).rowcount)  # type: ignore[attr-defined]
