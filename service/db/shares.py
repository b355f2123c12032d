"""Fair shares: searches of one priority share the workers' time in proportion to their ``share``.

Start-time fair queueing (Goyal, Vin and Cheng, 1996): each job gets a *turn*, the virtual time at which it is due, and
the smallest turn is served first. A search's next turn lies behind its last one by the seconds that one of its trials
takes, divided by its share; a search that comes anew, or had nothing to do, starts at the present virtual time, so that
it neither waits behind long queues nor catches up on what it did not ask for. The work is done where trials are queued:
leases only follow an index. Jobs of no search (a person asked for them) have turn 0: they are first in their priority.
"""

from __future__ import annotations

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from service.core.states import State
from service.db.tables import Job, Search, Trial

_RECENT = 50
"""Trials of a search that tell how long its next ones take."""
_UNKNOWN_S = 1.0
_LEAST_S = 1e-3


def turns(s: Session, search: Search, count: int) -> list[float]:
    """Turns of the next ``count`` jobs of a (locked) search, ascending; the search remembers where it stands."""
    step = _seconds(s, search) / search.share
    first = max(search.turn, present(s, search.priority))
    search.turn = first + count * step
    return [first + index * step for index in range(count)]


def present(s: Session, priority: int) -> float:
    """The virtual time among jobs of a priority: the turn of those at work, or of who is next.

    Where nothing is open it is where the search stands that has had most.
    """
    at_work = s.scalar(select(func.max(Job.turn)).where(Job.state == State.LEASED, Job.priority == priority))
    next_ = s.scalar(select(func.min(Job.turn)).where(Job.state == State.QUEUED, Job.priority == priority))
    if at_work is not None:
        return float(at_work)
    if next_ is not None:
        return float(next_)
    return float(s.scalar(select(func.coalesce(func.max(Search.turn), 0.0))) or 0.0)


def _seconds(s: Session, search: Search) -> float:
    """Seconds that one of its trials takes, by the last ones that were paid for."""
    recent = select(func.avg(Trial.paid_s)).where(
        Trial.search_id == search.id, Trial.completion > search.completions - _RECENT, Trial.paid_s > 0
    )
    return max(float(s.scalar(recent) or _UNKNOWN_S), _LEAST_S)
