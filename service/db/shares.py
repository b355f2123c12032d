"""Fair shares: searches of one priority share the workers' time in proportion to their ``share``.

Start-time fair queueing (Goyal, Vin and Cheng, 1996): each job gets a *turn*, the virtual time at which it is due, and
the smallest turn is served first. A search's next turn lies behind its last one by the seconds that one of its trials
takes, divided by its share; a search that comes anew, or had nothing to do, starts at the present virtual time, so that
it neither waits behind long queues nor catches up on what it did not ask for. The work is done where trials are queued:
leases only follow an index. Jobs of no search (a person asked for them) have turn 0: they are first in their priority.
"""

from __future__ import annotations

from sqlalchemy import bindparam, func, select
from sqlalchemy.orm import Session

from service.core.states import State
from service.db.tables import Job, Search, Trial

_RECENT = 50
"""Trials of a search that tell how long its next ones take."""
_UNKNOWN_S = 1.0
_LEAST_S = 1e-3


def turns(s: Session, search: Search, count: int) -> list[float]:
    """Turns of the next ``count`` jobs of a (locked) search, ascending; the search remembers where it stands."""
    given = {"priority": search.priority, "search": search.id, "before": search.completions - _RECENT}
    present, seconds = s.execute(_NOW, given).one()
    step = max(_UNKNOWN_S if seconds is None else float(seconds), _LEAST_S) / search.share
    first = max(search.turn, float(present))
    search.turn = first + count * step
    return [first + index * step for index in range(count)]


_OF_PRIORITY = Job.priority == bindparam("priority")
_NOW = select(
    # The virtual time: the turn of those at work, or of who is next; where nothing is open, how far any search came.
    func.coalesce(
        select(func.max(Job.turn)).where(Job.state == State.LEASED, _OF_PRIORITY).scalar_subquery(),
        select(func.min(Job.turn)).where(Job.state == State.QUEUED, _OF_PRIORITY).scalar_subquery(),
        select(func.max(Search.turn)).scalar_subquery(),
    ),
    # How long the search's trials take, of those that were paid for.
    select(func.avg(Trial.paid_s))
    .where(Trial.search_id == bindparam("search"), Trial.completion > bindparam("before"), Trial.paid_s > 0)
    .scalar_subquery(),
)
