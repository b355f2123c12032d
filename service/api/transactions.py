"""POST handlers as one write transaction each, which answers a repeated request with its first answer.

`transaction` opens the transaction, hands the session to the handler, and keeps what it answered under the request's
``Idempotency-Key`` before it commits: either both are there or neither. Handlers run in one thread from begin to
commit; as a dependency with ``yield`` the session would need a thread of its own, and a full pool would hold open
transactions that nobody can finish.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from threading import Lock
from typing import Annotated, Any, TypeAlias, final, get_type_hints

from fastapi import Depends, Header, Request, Response
from pydantic import TypeAdapter
from sqlalchemy.orm import Session

from service.access import Principal
from service.api.deps import Caller, Db
from service.api.documents import IDEMPOTENCY_KEY
from service.core.errors import StillRunning
from service.db import requests
from service.db.session import Database

Write: TypeAlias = Session
"""The session of a handler's transaction; a handler under `transaction` takes exactly one."""

REPLAYED = "Idempotency-Replayed"

_Key = Annotated[
    str | None,
    Header(
        alias=IDEMPOTENCY_KEY,
        min_length=1,
        max_length=255,
        pattern=r"^[\x21-\x7e]+$",
        description="Names this request, for example by a random UUID. Sent again within 24 hours with the same body, "
        "it does nothing and is answered as the first was, with the header `Idempotency-Replayed: true`.",
    ),
]


@dataclass(frozen=True, slots=True)
class Asked:
    """The request as its key names it; ``key`` is None where it came without."""

    path: str
    key: str | None
    body_hash: str


async def _asked(request: Request, idempotency_key: _Key = None) -> Asked:
    if idempotency_key is None:
        return Asked(request.url.path, None, "")
    digest = hashlib.sha256(request.url.query.encode() + b"\0" + await request.body())
    return Asked(request.url.path, idempotency_key, digest.hexdigest())


@final
class _Running:
    """Requests with a key that this process is answering now."""

    def __init__(self) -> None:
        self._held: set[tuple[str, str, str]] = set()
        self._lock = Lock()

    def enter(self, place: tuple[str, str, str]) -> None:
        with self._lock:
            if place in self._held:
                raise StillRunning(place[2])
            self._held.add(place)

    def leave(self, place: tuple[str, str, str]) -> None:
        with self._lock:
            self._held.discard(place)


_running = _Running()


def transaction(handler: Callable[..., Any]) -> Callable[..., Any]:
    """The handler with its `Write` session replaced by what opens one.

    An error rolls everything back, the key included, so that the same request can be made again. A key that comes
    again with another body is refused (422), one whose first request is being answered at that moment too (409; at
    another process it waits for the first one's commit instead).
    """
    hints = get_type_hints(handler, include_extras=True)
    answer = TypeAdapter(hints.pop("return"))
    sessions = [name for name, kind in hints.items() if kind is Session]
    if len(sessions) != 1:
        raise TypeError(f"{handler.__name__} must take one session, takes {sessions}")
    takes_response = "response" in hints

    @wraps(handler)
    def answering(
        *, _db: Database, _caller: Principal, _asked: Asked, _request: Request, response: Response, **given: Any
    ) -> Response:
        if takes_response:
            given["response"] = response

        def run(s: Session) -> tuple[int, str]:
            result = handler(**given, **{sessions[0]: s})
            status = response.status_code or _request.scope["route"].status_code or 200
            return status, answer.dump_json(result).decode()

        if _asked.key is None:
            with _db.write() as s:
                return _json(*run(s))
        place = (_caller.name, _asked.path, _asked.key)
        _running.enter(place)
        try:
            with _db.write() as s:
                kept = requests.claim(s, *place, _asked.body_hash)
                if kept is not None:
                    return _json(*kept, {REPLAYED: "true"})
                status, body = run(s)
                requests.keep(s, *place, status, body)
            return _json(status, body)
        finally:
            _running.leave(place)

    own = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=kind, default=_default(handler, name))
        for name, kind in hints.items()
        if name not in (*sessions, "response")
    ]
    added = {
        "_db": Db,
        "_caller": Caller,
        "_asked": Annotated[Asked, Depends(_asked)],
        "_request": Request,
        "response": Response,
    }
    extra = [inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY, annotation=kind) for n, kind in added.items()]
    returned = get_type_hints(handler, include_extras=True)["return"]
    answering.__signature__ = inspect.Signature(own + extra, return_annotation=returned)  # type: ignore[attr-defined]
    # FastAPI reads the signature of what a wrapper wraps.
    del answering.__wrapped__
    return answering


def _default(handler: Callable[..., Any], name: str) -> Any:
    return inspect.signature(handler).parameters[name].default


def _json(status: int, body: str, headers: dict[str, str] | None = None) -> Response:
    return Response(body, status, headers, "application/json")
