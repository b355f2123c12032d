"""What every request passes, outermost first: the request's id, log line and metrics; then the checks of its
origin and size.

Plain ASGI: nothing here buffers a body or a stream.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Collection
from typing import final
from urllib.parse import urlsplit

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.access import hostname
from service.api.auth import SAFE, needed
from service.api.problems import internal_problem, problem_response

LOOPBACK_HOSTS = frozenset({"127.0.0.1", "localhost", "::1"})
DRAINED_BYTES = 64 * 2**20
"""So much of a body beyond the limit is read and dropped."""
_REQUEST_ID = re.compile(r"[A-Za-z0-9._\-]{1,64}")

log = structlog.get_logger("frontier.api")
audit = structlog.get_logger("frontier.audit")


@final
class Observed:
    """Gives each request an id (the client's ``X-Request-ID`` if it is a plain one), logs and counts it.

    Log lines hold the path but neither query, headers nor body: secrets travel in those.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id)
        began = time.perf_counter()
        status, seconds = 500, 0.0

        async def noting(message: Message) -> None:
            nonlocal status, seconds
            if message["type"] == "http.response.start":
                status, seconds = message["status"], time.perf_counter() - began
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        try:
            await self._app(scope, receive, noting)
        except ClientDisconnect:
            log.info("client_gone", path=scope["path"])
        except Exception as error:
            problem = internal_problem(error)
            if not seconds:  # nothing was sent yet
                await problem(scope, receive, noting)
        finally:
            self._note(scope, status, seconds or time.perf_counter() - began)

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        route = scope.get("route")
        # Unknown paths share one label: anybody could otherwise create metrics without end.
        template = "unknown" if route is None else str(route.path)
        services = scope["app"].state.services
        services.metrics.answered(scope["method"], template, status, seconds)
        if scope["method"] not in SAFE and status < 400:
            services.feed.poke()
            _audit(scope, template, status)
        quiet = template in ("/healthz", "/readyz", "/metrics") or template.startswith("/v1/jobs")
        write = log.debug if quiet and status < 400 else log.info
        write("request", method=scope["method"], path=scope["path"], status=status, ms=round(seconds * 1000, 1))


@final
class BodyLimit:
    """Refuses bodies that are too large: far too large ones at once, by their announced length.

    FastAPI has such a limit (``max_body_size``), but what it answers is no problem+json.
    """

    def __init__(self, app: ASGIApp, limit: int, artifact_limit: int) -> None:
        self._app = app
        self._limit = limit
        self._artifact_limit = artifact_limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path: str = scope["path"]
        is_file = path.startswith("/v1/artifacts/") or path.endswith("/measurements:import")
        limit = self._artifact_limit if is_file and scope["method"] in ("PUT", "POST") else self._limit
        detail = f"the body is larger than {limit} bytes"
        announced = Headers(scope=scope).get("content-length", "")
        if announced.isdigit() and int(announced) > limit + DRAINED_BYTES:
            await problem_response(413, detail, headers={"Connection": "close"})(scope, receive, send)
            return
        size = 0

        async def counting() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size <= limit:
                return message
            # Many clients read no answer before they have sent all: let them, within reason.
            while message.get("more_body", False) and size <= limit + DRAINED_BYTES:
                message = await receive()
                size += len(message.get("body", b""))
            raise HTTPException(413, detail)

        await self._app(scope, counting, send)


@final
class OriginGuard:
    """Keeps other web sites out: a page from elsewhere can make the user's browser send requests here, by a name that
    resolves to this machine (refused by Host) or blindly (refused by Origin).

    Without ``hosts`` any name is answered: `Authenticated` lets nobody in without a key then, but under the machine's
    own names.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str] | None) -> None:
        self._app = app
        self._hosts = None if hosts is None else frozenset(host.lower() for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if self._hosts is not None and hostname(host) not in self._hosts:
            detail = f"the Host header names another machine; answered are {', '.join(sorted(self._hosts))}"
            await problem_response(403, detail)(scope, receive, send)
            return
        origin = headers.get("origin")
        if scope["method"] not in SAFE and origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            detail = "the request comes from another web site"
            await problem_response(403, detail)(scope, receive, send)
            return
        await self._app(scope, receive, send)


def _audit(scope: Scope, template: str, status: int) -> None:
    """A change that was made, and by whom. The request's id is on every line of the log."""
    principal = scope.get("state", {}).get("principal")
    write = audit.debug if needed(scope["method"], scope["path"]).steady else audit.info
    write(
        "audit",
        principal=None if principal is None else principal.name,
        method=scope["method"],
        route=template,
        path=scope["path"],
        status=status,
    )
