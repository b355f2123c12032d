"""How jobs end or come back, and what follows from it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session
from sqlalchemy.orm.attributes import set_committed_value

from service.core.states import OPEN, State
from service.db import outcomes, trial_ends
from service.db.jobs import announce
from service.db.outcomes import Ended
from service.db.rows import update_all
from service.db.tables import Job, Search
from service.wire.jobs import JobKind

_CHANGED = ("state", "reason", "leased_until", "ended_at", "result")


def end(s: Session, searches: dict[int, Search], ended: Sequence[Ended], time: datetime) -> None:
    """Puts jobs into the state of their verdicts, and lets follow what follows."""
    again: dict[int, float] = {}
    without: dict[JobKind, list[Ended]] = {}
    changes: list[dict[str, Any]] = []
    for each in ended:
        job, verdict = each.job, each.verdict
        ended_at = job.ended_at
        if verdict.state not in OPEN:
            ended_at = time
            if verdict.state is not State.SUCCEEDED:
                without.setdefault(JobKind(job.kind), []).append(each)
        elif job.trial_id is not None:
            again[job.trial_id] = verdict.seconds
        result = job.result if each.result is None else each.result
        changed = (verdict.state.value, verdict.reason, None, ended_at, result)
        changes.append({"id": job.id, **dict(zip(_CHANGED, changed, strict=True))})
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
