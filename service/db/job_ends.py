"""How jobs end or come back, and what follows from it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.orm import Session
from sqlalchemy.orm.attributes import set_committed_value

from service.core.failures import Failure
from service.core.states import OPEN, State
from service.db import outcomes, trial_ends
from service.db.jobs import announce
from service.db.outcomes import Ended
from service.db.rows import update_all
from service.db.tables import Job, Search
from service.wire.jobs import JobKind

_CHANGED = ("state", "reason", "failure", "leased_until", "not_before", "needs_memory_mb", "ended_at", "result")


def end(s: Session, searches: dict[int, Search], ended: Sequence[Ended], time: datetime) -> None:
    """Puts jobs into the state of their verdicts, and lets follow what follows."""
    again: dict[int, float] = {}
    without: dict[JobKind, list[Ended]] = {}
    changes: list[dict[str, Any]] = []
    for each in ended:
        job, verdict = each.job, each.verdict
        if verdict.state in OPEN:
            if job.trial_id is not None:
                again[job.trial_id] = verdict.seconds
        elif verdict.state is not State.SUCCEEDED:
            without.setdefault(JobKind(job.kind), []).append(each)
        changes.append({"id": job.id, **_changes(each, time)})
    update_all(s, Job, changes)
    for each, change in zip(ended, changes, strict=True):
        for name in _CHANGED:
            set_committed_value(each.job, name, change[name])
    s.flush()
    for kind, some in without.items():
        outcomes.abandon(s, searches, kind, some)
    trial_ends.requeue(s, again)
    announce(s, [each.job for each in ended])
    s.flush()


def _changes(ended: Ended, time: datetime) -> dict[str, Any]:
    job, verdict = ended.job, ended.verdict
    waits = verdict.state in OPEN
    failure = verdict.failure
    if failure is Failure.DRAINED:
        failure = None if job.failure is None else Failure(job.failure)  # no failure: the one before it stays known
    changed = (
        verdict.state.value,
        verdict.reason,
        failure,
        None,
        time + timedelta(seconds=verdict.delay_s) if waits and verdict.delay_s else None,
        verdict.memory_mb or job.needs_memory_mb,
        job.ended_at if waits else time,
        job.result if ended.result is None else ended.result,
    )
    return dict(zip(_CHANGED, changed, strict=True))
