"""Whether the process lives, whether it can serve, and its metrics."""

from __future__ import annotations

import tempfile
from pathlib import Path

from fastapi import APIRouter, Response
from pydantic import Field
from sqlalchemy.exc import SQLAlchemyError

from service.api.deps import Db, State
from service.api.metrics import CONTENT_TYPE
from service.db import queue, searches
from service.db.session import Database
from service.wire.base import Wire

router = APIRouter(tags=["operation"])


class Health(Wire):
    """The process answers."""

    status: str = Field(description="`ok`.")


class Readiness(Wire):
    """What the process needs to serve requests."""

    ready: bool = Field(description="Whether all is there.")
    checks: dict[str, str] = Field(description="What was checked → `ok`, or what is wrong with it.")


@router.get("/healthz")
async def health() -> Health:
    """Is the process alive?

    Needs neither database nor thread.
    """
    return Health(status="ok")


@router.get("/readyz", responses={503: {"description": "Not ready."}})
def readiness(services: State, response: Response) -> Readiness:
    """Can the process serve?"""
    checks = {"database": _database(services.database), "artifacts": _folder(services.settings.artifact_folder)}
    ready = all(found == "ok" for found in checks.values())
    response.status_code = 200 if ready else 503
    return Readiness(ready=ready, checks=checks)


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
def metrics(services: State, db: Db) -> Response:
    """Metrics in Prometheus' text format."""
    with db.read() as session:
        text = services.metrics.text(queue.counts(session), searches.counts(session))
    return Response(text, media_type=CONTENT_TYPE)


def _database(db: Database) -> str:
    try:
        return db.schema_problem() or "ok"
    except SQLAlchemyError:
        return "cannot be reached"


def _folder(folder: Path) -> str:
    try:
        with tempfile.TemporaryFile(dir=folder):
            return "ok"
    except OSError as error:
        return f"cannot be written: {error.strerror}"
