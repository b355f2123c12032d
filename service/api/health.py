"""Whether the process lives, whether it can serve, and its metrics."""

from __future__ import annotations

import tempfile
from pathlib import Path

from fastapi import APIRouter, Response
from pydantic import Field
from sqlalchemy.exc import SQLAlchemyError

from service.api.deps import Db, State
from service.api.metrics import CONTENT_TYPE
from service.api.problems import unavailable
from service.db.session import Database
from service.wire.base import FieldProblem, Wire

router = APIRouter(tags=["operation"])


class Health(Wire):
    """The process answers."""

    status: str = Field(description="`ok`.")


class Readiness(Wire):
    """What the process needs is there."""

    checks: dict[str, str] = Field(description="What was checked → `ok`.")


@router.get("/healthz")
async def health() -> Health:
    """Is the process alive?

    Needs neither database nor thread.
    """
    return Health(status="ok")


@router.get("/readyz", response_model=Readiness)
def readiness(services: State) -> Readiness | Response:
    """Can the process serve?

    503 names what is not there: the database (reachable, with this release's schema) or the folder of artifacts.
    """
    checks = {"database": _database(services.database), "artifacts": _folder(services.settings.artifact_folder)}
    wrong = [FieldProblem(field=name, message=found) for name, found in checks.items() if found != "ok"]
    if not wrong:
        return Readiness(checks=checks)
    detail = "not ready: " + "; ".join(f"{item.field} {item.message}" for item in wrong)
    return unavailable(detail, wrong)


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
def metrics(services: State, db: Db) -> Response:
    """Metrics in Prometheus' text format."""
    with db.read() as session:
        text = services.metrics.text(session)
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
