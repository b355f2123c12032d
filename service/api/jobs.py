"""The queue: leases, heartbeats, results, and what people see of jobs."""

from __future__ import annotations

import asyncio
from typing import Annotated

import structlog
from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Query, Request

from service.api.deps import (
    COMMON,
    DEFAULT_PAGE,
    Db,
    Id,
    PageSize,
    PageToken,
    SearchFilter,
    Services,
    State,
    StudyFilter,
)
from service.api.documents import problems
from service.api.transactions import Write, transaction
from service.api.waiting import poll
from service.core import states
from service.core.failures import Failure
from service.db import queue, requests
from service.wire.base import Name, Page
from service.wire.jobs import (
    CompleteBatch,
    Completed,
    CompletedBatch,
    FailIn,
    HeartbeatIn,
    HeartbeatOut,
    JobKind,
    JobOut,
    LeaseIn,
    LeasesOut,
)

log = structlog.get_logger("frontier.api")
router = APIRouter(prefix="/v1", tags=["jobs"], dependencies=COMMON)

LONGEST_EXPIRY_S = 5.0


@router.post("/jobs:lease", responses=problems(404))
async def lease_jobs(body: LeaseIn, services: State, request: Request) -> LeasesOut:
    """Lease jobs.

    Hands out up to `count` jobs that the worker can run, waiting up to `wait_s` seconds for the first. Not repeatable:
    a lost answer leaves its jobs leased until the leases run out.
    """
    leases = await poll(services, request, body.wait_s, lambda: services.queue.lease(body), bool)
    services.metrics.leased(len(leases))
    return LeasesOut(leases=leases)


async def take_back(services: Services) -> None:
    """Returns leases that ran out to the queue, and forgets old answers, for as long as the application runs.

    Several processes may do so.
    """

    def expire() -> None:
        with services.database.write() as session:
            requests.forget(session)
            queue.expire(session)

    threads = CapacityLimiter(1)  # its own: a pool full of slow requests holds up no lease
    while not services.feed.closing:
        try:
            await to_thread.run_sync(expire, limiter=threads)
        except Exception as error:
            log.warning("lease_expiry_failed", error=str(error))
        await asyncio.sleep(min(services.settings.lease_s / 4, LONGEST_EXPIRY_S))


@router.post("/jobs:complete", responses=problems(404))
async def complete_jobs(body: CompleteBatch, services: State) -> CompletedBatch:
    """Report results.

    Repeatable: a result that was accepted is accepted again. A stale token never changes the job; its measurements are
    kept as replicates.
    """
    answer = await services.queue.complete(body)
    services.metrics.busy(body.worker, sum(each.seconds for each in body.results))
    return answer


@router.post("/jobs/{job}:heartbeat", responses=problems(404, 409))
def heartbeat(job: Id, body: HeartbeatIn, db: Db) -> HeartbeatOut:
    """Extend a lease, and report progress."""
    with db.write() as session:
        return queue.heartbeat(session, job, body)


@router.post("/jobs/{job}:fail", responses=problems(404, 409))
def fail_job(job: Id, body: FailIn, db: Db) -> Completed:
    """End a job without a result, or hand it back.

    Repeatable. The answer says what became of the job: one that is handed back waits again until its attempts are used
    up.
    """
    with db.write() as session:
        return queue.fail(session, job, body)


@router.post("/jobs/{job}:cancel", responses=problems(404, 409))
@transaction
def cancel_job(job: Id, s: Write) -> JobOut:
    """Cancel a job.

    A worker that has it hears of it with its next heartbeat.
    """
    return queue.cancel(s, job)


@router.get("/jobs", responses=problems(404))
def list_jobs(
    db: Db,
    state: Annotated[states.State | None, Query(description="Only those in this state.")] = None,
    kind: Annotated[JobKind | None, Query(description="Only those of this kind.")] = None,
    study: StudyFilter = None,
    search: SearchFilter = None,
    worker: Annotated[Name | None, Query(description="Only those that this worker has, or had last.")] = None,
    failure: Annotated[Failure | None, Query(description="Only those whose last failure was of this class.")] = None,
    dead: Annotated[bool, Query(description="Only dead letters: FAILED or LOST.")] = False,
    page_size: PageSize = DEFAULT_PAGE,
    page_token: PageToken = None,
) -> Page[JobOut]:
    """List jobs, newest first."""
    with db.read() as session:
        return queue.page(
            session,
            page_size,
            page_token,
            state=state,
            kind=kind,
            study=study,
            search=search,
            worker=worker,
            failure=failure,
            dead=dead,
        )


@router.get("/jobs/{job}", responses=problems(404))
def get_job(job: Id, db: Db) -> JobOut:
    """Get a job."""
    with db.read() as session:
        return queue.get(session, job)
