"""How jobs end or come back, and what follows from it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.orm import Session

from service.core.errors import NotFound
from service.core.failures import Failure
from service.core.states import OPEN, State
from service.db import outcomes, trial_ends
from service.db.job_rows import JOBS, SELECT_JOBS, JobRow, read_jobs
from service.db.jobs import announce
from service.db.outcomes import Ended
from service.db.paging import checked_id
from service.db.rows import among, update_all
from service.db.tables import Job, Search
from service.wire.jobs import JobKind

_LOCKED = SELECT_JOBS.where(among(JOBS.c.id, "jobs")).order_by(JOBS.c.id).with_for_update(key_share=True, of=JOBS)


def lock(s: Session, ids: Iterable[int]) -> tuple[dict[int, JobRow], dict[int, Search]]:
    """The jobs, by id, and their searches, locked in the order that `trial_ends.lock_searches` states.

    Trials end with their search locked, so what is read with the jobs of their states stays true. Raises `NotFound`.
    """
    wanted = sorted({checked_id(each, "job") for each in ids})
    searches = trial_ends.lock_searches_of(s, wanted)
    found = {job.id: job for job in read_jobs(s, _LOCKED, {"jobs": wanted})}
    for each in wanted:
        if each not in found:
            raise NotFound("job", each)
    return found, searches


def end(s: Session, searches: dict[int, Search], ended: Sequence[Ended], time: datetime) -> None:
    """Puts jobs into the state of their verdicts, and lets follow what follows."""
    again: dict[int, float] = {}
    without: dict[JobKind, list[Ended]] = {}
    for each in ended:
        job, verdict = each.job, each.verdict
        if verdict.state in OPEN:
            if job.trial_id is not None:
                again[job.trial_id] = verdict.seconds
        elif verdict.state is not State.SUCCEEDED:
            without.setdefault(JobKind(job.kind), []).append(each)
    update_all(s, Job, [_changes(each, time) for each in ended], {"leased_until": None})
    for kind, some in without.items():
        outcomes.abandon(s, searches, kind, some)
    trial_ends.requeue(s, again)
    for each in ended:
        announce(s, [each.job], each.verdict.state, each.verdict.reason)


def _changes(ended: Ended, time: datetime) -> dict[str, Any]:
    job, verdict = ended.job, ended.verdict
    waits = verdict.state in OPEN
    return {
        "id": job.id,
        "state": verdict.state.value,
        "reason": verdict.reason,
        # No failure: the one before it stays known.
        "failure": job.failure if verdict.failure is Failure.DRAINED else verdict.failure,
        "not_before": time + timedelta(seconds=verdict.delay_s) if waits and verdict.delay_s else None,
        "needs_memory_mb": verdict.memory_mb or job.needs_memory_mb,
        "ended_at": None if waits else time,
        "result": ended.result,
    }
