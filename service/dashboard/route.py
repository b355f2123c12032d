"""What all of the dashboard's routes share: who looks, the headers of their answers, errors as pages."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Annotated, Any, TypeAlias

from fastapi import Depends, HTTPException, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from sqlalchemy.exc import SQLAlchemyError

from service.core.errors import Conflict, Forbidden, Invalid, NotFound
from service.dashboard.rendering import VISITOR, page
from service.db.outages import outage
from service.db.session import Database
from service.wire.base import MetricName, Name

# Plotly and the browser set styles on elements; scripts come from files of this server alone.
SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
        "connect-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}


async def _database(request: Request) -> Database:
    database: Database = request.app.state.database
    return database


Db: TypeAlias = Annotated[Database, Depends(_database)]
StudyName: TypeAlias = Annotated[Name, Path()]
Token: TypeAlias = Annotated[str | None, Query(max_length=500)]
Metric: TypeAlias = Annotated[MetricName | None, Query()]

Handler: TypeAlias = Callable[[Request], Coroutine[Any, Any, Response]]


class PageRoute(APIRoute):
    """A route for people: its errors are pages."""

    def get_route_handler(self) -> Handler:
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            # Only what `Authenticated` let in has one; what is open to everybody has none.
            VISITOR.set(getattr(request.state, "principal", None))
            try:
                response = await handler(request)
            except (NotFound, Invalid, Conflict, Forbidden, RequestValidationError, HTTPException) as error:
                response = error_page(error)
            except SQLAlchemyError as error:
                response = _outage_page(error)
            response.headers.update(SECURITY_HEADERS)
            response.headers.setdefault("Cache-Control", "no-store")
            return response

        return handle


def error_page(error: Exception) -> Response:
    """What went wrong, in words, and where to go from there."""
    status, detail = 500, "The server failed."
    match error:
        case NotFound():
            status, detail = 404, f"There is no {error.kind} named “{error.name}” here."
        case Invalid():
            status, detail = 422, f"{error.field}: {error.message}"
        case Conflict():
            status, detail = 409, error.message
        case Forbidden():
            status, detail = 403, error.message
        case RequestValidationError():
            status, detail = _invalid(error)
        case HTTPException():
            status, detail = error.status_code, error.detail
    return page("error.html", status, code=status, title=HTTPStatus(status).phrase, detail=detail)


def _outage_page(error: SQLAlchemyError) -> Response:
    """What is wrong with the database, if waiting helps; raises the error again if not."""
    found = outage(error)
    if found is None:
        raise error
    response = page("error.html", 503, code=503, title=found.title, detail=f"The database {found.state}.")
    response.headers["Retry-After"] = str(found.retry_s)
    return response


def _invalid(error: RequestValidationError) -> tuple[int, str]:
    first = error.errors()[0]
    where = [str(part) for part in first["loc"]]
    if where[0] == "path":
        return 404, f"“{str(first.get('input', ''))[:80]}” cannot be the name of a {where[-1]}."
    return 422, f"{where[-1]}: {first['msg']}"
