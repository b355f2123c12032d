"""Errors become ``application/problem+json`` here, and HTTP codes are given to the error tree nowhere else.

==================================  ======  ==================================================
raised                              status  `Problem.type`
==================================  ======  ==================================================
`Invalid`, request validation       422     ``urn:frontier:invalid``
`Unauthorized`                      401     ``urn:frontier:unauthorized``, with WWW-Authenticate
`Forbidden`                         403     ``urn:frontier:forbidden``
`TooMany`                           429     ``urn:frontier:too-many``, with Retry-After
`InvalidSpace`, `UnknownPlugin` ...  422     ``urn:frontier:invalid``
`NotFound`                          404     ``urn:frontier:not-found``
`Stale`                             409     ``urn:frontier:stale``
`StillRunning`                      409     ``urn:frontier:still-running``, with Retry-After
`Conflict`                          409     ``urn:frontier:conflict``
two requests collided in the database  409  ``urn:frontier:still-running``, with Retry-After
the database's outages              503     ``urn:frontier:database-...`` by cause, with Retry-After
`Unavailable`, full disk            503     ``urn:frontier:unavailable``, with Retry-After
anything else                       500     ``urn:frontier:internal``, with the request id and nothing else
==================================  ======  ==================================================
"""

from __future__ import annotations

import errno
import math
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException

from search_spaces.plugins import UnknownPlugin
from search_spaces.space import InvalidArchitecture, InvalidSpace, Unsupported
from service.core.errors import (
    Conflict,
    Forbidden,
    FrontierError,
    Invalid,
    NotFound,
    Stale,
    StillRunning,
    TooMany,
    Unauthorized,
    Unavailable,
)
from service.db.outages import collided, outage
from service.wire.base import FieldProblem, Problem

MEDIA_TYPE = "application/problem+json"
STILL_RUNNING = "urn:frontier:still-running"
RETRY_AFTER_S = 1
"""What is asked for where nothing is known of how long it takes."""

log = structlog.get_logger("frontier.api")


def problem_response(
    status: int,
    detail: str,
    *,
    kind: str = "about:blank",
    title: str = "",
    errors: Iterable[FieldProblem] = (),
    headers: Mapping[str, str] | None = None,
) -> Response:
    """A problem as a response. Its title is the status's phrase if none is given."""
    title = title or (HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else "Error")
    problem = Problem(type=kind, title=title, status=status, detail=detail, errors=list(errors))
    return Response(problem.model_dump_json(), status, headers, MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Registers the handlers. What is left goes to `internal_problem`, called by the outermost middleware."""
    app.add_exception_handler(FrontierError, _frontier_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)
    for error in (InvalidSpace, InvalidArchitecture, Unsupported, UnknownPlugin):
        app.add_exception_handler(error, _space_error)
    app.add_exception_handler(RecursionError, _too_deep)
    app.add_exception_handler(OSError, _system_error)
    app.add_exception_handler(SQLAlchemyError, _database_error)


async def _frontier_error(_: Request, error: Exception) -> Response:
    return answer(error)


def answer(error: Exception) -> Response:
    """The problem that an error of the tree is, for those whom no handler serves: middleware and pages."""
    match error:
        case Invalid():
            message = _with_allowed(error.message, error.details.get("allowed"))
            return _invalid([FieldProblem(field=error.field, message=message)])
        case NotFound():
            missing = FieldProblem(field=error.kind, message=error.message)
            return problem_response(404, error.message, kind="urn:frontier:not-found", errors=[missing])
        case StillRunning():
            wait = {"Retry-After": str(RETRY_AFTER_S)}
            return problem_response(409, error.message, kind=STILL_RUNNING, headers=wait)
        case Stale():
            return problem_response(409, error.message, kind="urn:frontier:stale")
        case Conflict():
            return problem_response(409, error.message, kind="urn:frontier:conflict")
        case Unauthorized():
            # RFC 6750: a request without a key is told only which scheme there is.
            asked = 'Bearer error="invalid_token"' if error.presented else "Bearer"
            headers = {"WWW-Authenticate": asked}
            return problem_response(401, error.message, kind="urn:frontier:unauthorized", headers=headers)
        case Forbidden():
            return problem_response(403, error.message, kind="urn:frontier:forbidden")
        case TooMany():
            headers = {"Retry-After": str(max(1, math.ceil(error.wait_s)))}
            return problem_response(429, error.message, kind="urn:frontier:too-many", headers=headers)
        case Unavailable():
            return unavailable(error.message)
        case _:
            return internal_problem(error)


async def _validation_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for this type only
    return _invalid([_field_problem(item) for item in error.errors()])


async def _space_error(_: Request, error: Exception) -> Response:
    match error:
        case InvalidArchitecture():
            return _invalid([FieldProblem(field=error.field or "genes", message=str(error))])
        case InvalidSpace():
            return _invalid([FieldProblem(field=error.field or "space", message=error.message)])
        case UnknownPlugin():
            message = _with_allowed(str(error), error.known)
            return _invalid([FieldProblem(field=error.group.removesuffix("s"), message=message)])
        case _:
            return _invalid([FieldProblem(field="space", message=str(error))])


async def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for this type only
    return problem_response(error.status_code, error.detail, headers=error.headers)


async def _database_error(_: Request, error: Exception) -> Response:
    return database_problem(error)


def database_problem(error: Exception) -> Response:
    """What an error of the database is to a client, who needs to know whether waiting helps; the statement and its
    parameters are for the log."""
    found = outage(error)
    if found is not None:
        log.warning("database_unavailable", cause=found.cause, error=str(error.__cause__ or error))
        headers = {"Retry-After": str(found.retry_s)}
        kind = f"urn:frontier:{found.cause}"
        return problem_response(503, found.detail, kind=kind, title=found.title, headers=headers)
    if collided(error):
        log.info("requests_collided", error=str(error.__cause__ or error))
        detail = "another request wrote the same at this moment, and this one wrote nothing: ask again"
        headers = {"Retry-After": str(RETRY_AFTER_S)}
        return problem_response(409, detail, kind=STILL_RUNNING, headers=headers)
    return internal_problem(error)


async def _too_deep(_: Request, __: Exception) -> Response:
    return _invalid([FieldProblem(field="body", message="is nested too deeply")])


async def _system_error(_: Request, error: Exception) -> Response:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        log.error("disk_full", error=str(error))
        return unavailable("the server's disk is full")
    return internal_problem(error)


def internal_problem(error: Exception) -> Response:
    """What nobody expected: the log gets everything, the client a request id to ask with."""
    log.error("internal_error", exc_info=error)
    request_id = structlog.contextvars.get_contextvars().get("request_id", "")
    return problem_response(
        500, f"the server failed; its log has more under request id {request_id}", kind="urn:frontier:internal"
    )


def unavailable(detail: str, errors: Iterable[FieldProblem] = ()) -> Response:
    """503, with a hint when to try again."""
    headers = {"Retry-After": str(RETRY_AFTER_S)}
    return problem_response(503, detail, kind="urn:frontier:unavailable", errors=errors, headers=headers)


def _invalid(errors: list[FieldProblem]) -> Response:
    first = errors[0]
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    detail = f"{first.field}: {first.message}{more}"
    return problem_response(422, detail, kind="urn:frontier:invalid", errors=errors)


def _with_allowed(message: str, allowed: object) -> str:
    if not isinstance(allowed, list | tuple | set | frozenset):
        return message
    named = [str(value) for value in allowed]
    return message if all(value in message for value in named) else f"{message}; allowed: {', '.join(named)}"


def _field_problem(item: Mapping[str, Any]) -> FieldProblem:
    where = [str(part) for part in item["loc"]]
    if item["type"] == "json_invalid":
        reason = item.get("ctx", {}).get("error", "cannot be parsed")
        return FieldProblem(field="body", message=f"is not JSON: {reason} at character {where[-1]}")
    # "body", "path" and "query" say where FastAPI looked; the rest is the path into what was sent.
    path = where[1:] if where[0] in ("body", "path", "query", "header") and len(where) > 1 else where
    return FieldProblem(field=".".join(path), message=str(item["msg"]))
