"""Jobs by the many: what failed, tried again, cancelled."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import AwareDatetime

from service.api.deps import COMMON, Db, SearchFilter, StudyFilter
from service.api.documents import problems
from service.api.transactions import Write, transaction
from service.db import failures, retries
from service.wire.jobs import CancelledOut, FailuresOut, JobKind, JobsIn, RetriedOut

router = APIRouter(prefix="/v1", tags=["jobs"], dependencies=COMMON)


@router.get("/jobs:failures", responses=problems(404))
def list_failures(
    db: Db,
    kind: Annotated[JobKind | None, Query(description="Only those of this kind.")] = None,
    study: StudyFilter = None,
    search: SearchFilter = None,
    since: Annotated[
        AwareDatetime | None, Query(description="Only failures from this time on, with its time zone.")
    ] = None,
) -> FailuresOut:
    """List failures by reason.

    Dead letters (jobs that are FAILED or LOST) and jobs that wait for another try. Those that failed alike are one
    group: of one kind, with one class of failure and, but for numbers, digests, paths and workers, one reason. The
    newest 2,000 of either are looked at; `more` says whether there are older ones.
    """
    with db.read() as session:
        return failures.groups(session, kind=kind, study=study, search=search, since=since)


@router.post("/jobs:retry", responses=problems(404))
@transaction
def retry_jobs(body: JobsIn, s: Write) -> RetriedOut:
    """Try dead letters again.

    They wait again with all their attempts, and so does what they were for: a trial is open again, a super-network is
    trained again, a search that failed runs again. What nobody waits for any more is left alone, and the answer says
    why. At least one filter must be given.
    """
    return retries.retry(s, body)


@router.post("/jobs:cancel", responses=problems(404))
@transaction
def cancel_jobs(body: JobsIn, s: Write) -> CancelledOut:
    """Cancel jobs.

    Those that wait end at once; workers hear of those at work with their next heartbeat. At least one filter must be
    given.
    """
    return retries.cancel(s, body)
