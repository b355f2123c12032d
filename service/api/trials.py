"""Trials for pipelines that evaluate for themselves: taken, reported on, ended."""

from __future__ import annotations

from fastapi import APIRouter, Request

from service.api.deps import COMMON, Db, Id, State
from service.api.documents import problems
from service.api.waiting import poll
from service.db import own
from service.wire.trials import (
    ReportIn,
    ReportOut,
    SuggestIn,
    SuggestOut,
    TrialCompleteIn,
    TrialEndOut,
    TrialFailIn,
)

router = APIRouter(prefix="/v1", tags=["trials"], dependencies=COMMON)


@router.post("/searches/{search}/trials:suggest", responses=problems(404))
async def suggest_trials(search: Id, body: SuggestIn, services: State, request: Request) -> SuggestOut:
    """Take trials to evaluate.

    Hands out up to `count` trials of the search that are ready, waiting up to `wait_s` seconds for the first. They are
    yours for `lease_s` seconds, and as long again with each report. Not repeatable: a lost answer leaves its trials
    leased until the leases run out.
    """
    answer = await poll(
        services,
        request,
        body.wait_s,
        lambda: services.queue.suggest((search, body)),
        lambda found: bool(found.trials) or found.done,
    )
    services.metrics.leased(len(answer.trials))
    return answer


@router.post("/trials/{trial}:report", responses=problems(404, 409))
def report_trial(trial: Id, body: ReportIn, db: Db) -> ReportOut:
    """Report intermediate metrics.

    Extends the lease, and answers whether to go on. Reports without metrics are heartbeats.
    """
    with db.write() as session:
        return own.report(session, trial, body)


@router.post("/trials/{trial}:complete", responses=problems(404, 409))
def complete_trial(trial: Id, body: TrialCompleteIn, services: State) -> TrialEndOut:
    """Report the result of a trial.

    Repeatable. If a metric is missing the answer is 422 and the trial stays yours, so that the result can be sent
    again. A stale token never changes the trial; its measurements are kept as replicates.
    """
    with services.database.write() as session:
        answer = own.complete(session, trial, body, services.settings.latency_age_s)
    services.metrics.busy(body.worker or "pipeline", body.seconds)
    return answer


@router.post("/trials/{trial}:fail", responses=problems(404, 409))
def fail_trial(trial: Id, body: TrialFailIn, db: Db) -> TrialEndOut:
    """End a trial without a result, or hand it back.

    Repeatable. The answer says what became of the trial.
    """
    with db.write() as session:
        return own.fail(session, trial, body)
