"""Whether the process lives, whether it can serve, and its metrics."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fastapi import APIRouter, Response
from pydantic import Field
from sqlalchemy.exc import SQLAlchemyError

from service.api.deps import Db, State
from service.api.metrics import CONTENT_TYPE
from service.api.problems import unavailable
from service.db.outages import outage
from service.db.session import Database
from service.wire.base import FieldProblem, Wire

router = APIRouter(tags=["operation"])

LONGEST_CHECK_S = 5.0
# Apart from the threads of other requests: when all of those wait for the database, this must still answer.
_CHECKERS = ThreadPoolExecutor(4, thread_name_prefix="readyz")


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
async def readiness(services: State) -> Readiness | Response:
    """Can the process serve?

    503 names what is not there: the database (reachable, with this release's schema, and not refusing what is written)
    or the folder of artifacts.
    """
    folder = services.settings.artifact_folder
    found = await asyncio.gather(_answer(lambda: _database(services.database)), _answer(lambda: _folder(folder)))
    checks = dict(zip(("database", "artifacts"), found, strict=True))
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


async def _answer(check: Callable[[], str]) -> str:
    try:
        return await asyncio.wait_for(asyncio.get_running_loop().run_in_executor(_CHECKERS, check), LONGEST_CHECK_S)
    except TimeoutError:
        return f"gives no answer within {LONGEST_CHECK_S:g} s"


def _database(db: Database) -> str:
    try:
        problem = db.schema_problem()
    except SQLAlchemyError as error:
        found = outage(error)
        return "cannot be reached" if found is None else found.state
    # A full database can be read: whether it can be written, the last write has shown. There is one every few seconds.
    return problem or ("ok" if db.trouble is None else db.trouble.state)


def _folder(folder: Path) -> str:
    try:
        with tempfile.TemporaryFile(dir=folder):
            return "ok"
    except OSError as error:
        return f"cannot be written: {error.strerror}"
