"""Workers."""

from __future__ import annotations

from fastapi import APIRouter

from service.api.deps import COMMON, DEFAULT_PAGE, Db, NameInPath, PageSize, PageToken
from service.api.documents import problems
from service.db import workers
from service.wire.base import Page
from service.wire.jobs import WorkerIn, WorkerOut

router = APIRouter(prefix="/v1", tags=["workers"], dependencies=COMMON)


@router.post("/workers")
def announce_worker(body: WorkerIn, db: Db) -> WorkerOut:
    """Announce a worker.

    To be done before leasing, and again whenever what it has or can do changes.
    """
    with db.write() as session:
        return workers.announce(session, body)


@router.get("/workers")
def list_workers(db: Db, page_size: PageSize = DEFAULT_PAGE, page_token: PageToken = None) -> Page[WorkerOut]:
    """List workers."""
    with db.read() as session:
        return workers.page(session, page_size, page_token)


@router.get("/workers/{worker}", responses=problems(404))
def get_worker(worker: NameInPath, db: Db) -> WorkerOut:
    """Get a worker."""
    with db.read() as session:
        return workers.get(session, worker)
