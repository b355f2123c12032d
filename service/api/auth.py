"""Who may do what, decided before anything of a request's body is read.

`needed` is the one place that says which scope a route asks for. What is not named there asks for read if it only
looks and for write if it changes something, and nothing but `OPEN` is served to people without a key.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import final
from urllib.parse import quote

from sqlalchemy.exc import SQLAlchemyError
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import compile_path
from starlette.types import ASGIApp, Receive, Scope, Send

from service import access
from service.access import COOKIE, LOCAL, Keyring, Principal
from service.api import problems
from service.core.errors import Forbidden, FrontierError, Unauthorized
from service.core.scopes import Scope as KeyScope

SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
OPEN = re.compile(r"/healthz|/readyz|/openapi\.json|/login|/favicon\.ico|/static/.*")
"""Served to everybody: whether the server lives, what is the same for every server, and the way in."""
LOGOUT = "/logout"
"""Its form holds the CSRF token; everything else sends it as a header."""
_DATA = re.compile(r"/studies/[^/]+/data/.*")

_WORKER = (KeyScope.WORKER,)
_RESULTS = (KeyScope.WORKER, KeyScope.WRITE)
_ADMIN = (KeyScope.ADMIN,)


@dataclass(frozen=True, slots=True)
class Rule:
    """Scopes of which a caller needs one. ``steady``: workers send it all the time, so its audit is for debugging."""

    scopes: tuple[KeyScope, ...]
    steady: bool = False


RULES: dict[tuple[str, str], Rule] = {
    ("POST", "/v1/workers"): Rule(_WORKER),
    ("POST", "/v1/jobs:lease"): Rule(_WORKER, steady=True),
    ("POST", "/v1/jobs:complete"): Rule(_WORKER, steady=True),
    ("POST", "/v1/jobs/{job}:heartbeat"): Rule(_WORKER, steady=True),
    ("POST", "/v1/jobs/{job}:fail"): Rule(_WORKER, steady=True),
    ("PUT", "/v1/artifacts/{digest}"): Rule(_RESULTS),
    ("POST", "/v1/searches/{search}/trials:suggest"): Rule(_RESULTS, steady=True),
    ("POST", "/v1/trials/{trial}:report"): Rule(_RESULTS, steady=True),
    ("POST", "/v1/trials/{trial}:complete"): Rule(_RESULTS, steady=True),
    ("POST", "/v1/trials/{trial}:fail"): Rule(_RESULTS, steady=True),
    ("GET", "/v1/keys"): Rule(_ADMIN),
    ("POST", "/v1/keys"): Rule(_ADMIN),
    ("POST", "/v1/keys/{key}:revoke"): Rule(_ADMIN),
}
"""(method, route) → what it asks for, where that is not the default."""
_LOOK = Rule((KeyScope.READ,))
_CHANGE = Rule((KeyScope.WRITE,))
_COMPILED = [(method, compile_path(template)[0], rule) for (method, template), rule in RULES.items()]


def needed(method: str, path: str) -> Rule:
    """What a request asks for. ``path`` may be a route's template too: what stands in braces is like a value."""
    looked = "GET" if method in SAFE else method
    for known, pattern, rule in _COMPILED:
        if known == looked and pattern.fullmatch(path):
            return rule
    return _LOOK if method in SAFE else _CHANGE


@final
class Authenticated:
    """Finds out who calls (``request.state.principal``) and refuses those who may not.

    While no key is needed, requests of this machine under one of its own names are let in.
    """

    def __init__(self, app: ASGIApp, keyring: Keyring, own_hosts: Collection[str]) -> None:
        self._app = app
        self._keyring = keyring
        self._own_hosts = frozenset(own_hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or OPEN.fullmatch(scope["path"]):
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        try:
            principal = await self._principal(request)
            self._keyring.admit(principal)
            _authorise(principal, request)
        except SQLAlchemyError as error:
            await problems.database_problem(error)(scope, receive, send)
        except FrontierError as error:
            await _refusal(error, request)(scope, receive, send)
        else:
            request.state.principal = principal
            await self._app(scope, receive, send)

    async def _principal(self, request: Request) -> Principal:
        address = request.client.host if request.client else ""
        if not await self._keyring.guarded():
            if (
                not access.is_loopback(address)
                or access.hostname(request.headers.get("host", "")) not in self._own_hosts
            ):
                raise Forbidden("without keys the server answers to its own machine only")
            return LOCAL
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return await self._keyring.bearer(token.strip(), address)
        secret = request.cookies.get(COOKIE)
        if secret is None:
            raise Unauthorized("this server needs a key: send it as `Authorization: Bearer KEY`")
        found = await self._keyring.session(secret)
        if found is None:
            raise Unauthorized("the session has ended: log in again at /login")
        return found


def _authorise(principal: Principal, request: Request) -> None:
    path = request.scope["path"]
    if principal.csrf is not None and request.method not in SAFE:
        if not access.from_same_site(request.headers):
            raise Forbidden("a browser's session changes things from this server's own pages only")
        sent = request.headers.get("x-csrf-token", "")
        if path != LOGOUT and not access.same_secret(sent, principal.csrf):
            raise Forbidden("the header X-CSRF-Token must hold the token of the session's pages")
    wanted = needed(request.method, path).scopes
    if path != LOGOUT and principal.scopes.isdisjoint(wanted):
        names = ", ".join(sorted(principal.scopes))
        raise Forbidden(f"this needs a key with scope {' or '.join(wanted)}; {principal.name!r} has {names}")


def _refusal(error: FrontierError, request: Request) -> Response:
    """A problem; people who look at pages are sent to log in."""
    path = request.scope["path"]
    page = request.method in ("GET", "HEAD") and "hx-request" not in request.headers
    page = page and not (path.startswith("/v1/") or path == "/metrics" or _DATA.fullmatch(path))
    if isinstance(error, Unauthorized) and not error.presented and (page or path == LOGOUT):
        here = quote(path) + (f"?{request.url.query}" if request.url.query else "")
        place = "/login" if path == LOGOUT else f"/login?next={quote(here, safe='')}"
        return RedirectResponse(place, 303, headers={"Cache-Control": "no-store"})
    return problems.answer(error)
