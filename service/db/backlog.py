"""What is in the queue, by kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import case, func, select
from sqlalchemy.orm import Session

from service.core.states import State
from service.db.tables import Job, now
from service.wire.jobs import JobKind


@dataclass(slots=True)
class Backlog:
    """The jobs of one kind: how many in each state. ``later`` of those that are QUEUED wait for another try, the first
    of them until ``next_at``."""

    kind: JobKind
    counts: dict[State, int] = field(default_factory=dict)
    later: int = 0
    next_at: datetime | None = None

    def count(self, *states: str) -> int:
        """How many are in one of these states."""
        return sum(self.counts.get(State(state), 0) for state in states)

    @property
    def ready(self) -> int:
        """How many wait for a worker alone."""
        return self.count(State.QUEUED) - self.later


def by_kind(s: Session) -> list[Backlog]:
    """One for each kind of which there ever was a job, in the order of `JobKind`."""
    delayed = Job.not_before > now()
    query = select(
        Job.kind,
        Job.state,
        func.count(),
        func.sum(case((delayed, 1), else_=0)),
        func.min(case((delayed, Job.not_before))),
    ).group_by(Job.kind, Job.state)
    found: Mapping[JobKind, Backlog] = {kind: Backlog(kind) for kind in JobKind}
    for kind, state, count, later, next_at in s.execute(query):
        each = found[JobKind(kind)]
        each.counts[State(state)] = count
        if state == State.QUEUED:
            each.later, each.next_at = int(later), next_at
    return [each for each in found.values() if each.counts]
