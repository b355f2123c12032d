"""How jobs end or come back, and what follows from it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy.orm import Session

from service.core.states import OPEN, State
from service.db import outcomes, trial_ends
from service.db.jobs import announce
from service.db.outcomes import Ended
from service.db.tables import Search
from service.wire.jobs import JobKind


def end(s: Session, searches: dict[int, Search], ended: Sequence[Ended], time: datetime) -> None:
    """Puts jobs into the state of their verdicts, and lets follow what follows."""
    again: dict[int, float] = {}
    without: dict[JobKind, list[Ended]] = {}
    for each in ended:
        job = each.job
        job.state, job.reason, job.leased_until = each.verdict.state, each.verdict.reason, None
        if each.verdict.state in OPEN:
            if job.trial_id is not None:
                again[job.trial_id] = each.verdict.seconds
            continue
        job.ended_at = time
        if each.verdict.state is not State.SUCCEEDED:
            without.setdefault(JobKind(job.kind), []).append(each)
    s.flush()
    for kind, some in without.items():
        outcomes.abandon(s, searches, kind, some)
    trial_ends.requeue(s, again)
    announce(s, [each.job for each in ended])
    s.flush()
