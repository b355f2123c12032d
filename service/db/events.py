"""What happened, with gapless numbers in commit order on both databases; `service.db.ending` writes it.

The oldest events are deleted in time. What is left is always an unbroken run of numbers that ends with the newest.
"""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from service.db.ending import emit
from service.db.paging import checked_id
from service.db.tables import Counter, Event, Study, now
from service.wire.jobs import RESET, EventOut

__all__ = ["TRIMMED", "after", "emit", "follow", "last", "old", "trim"]

TRIMMED = 2000
"""Events deleted in one transaction: on SQLite nobody else writes meanwhile."""


def after(s: Session, number: int, study: str | None = None, limit: int = 100) -> list[EventOut]:
    """At most ``limit`` events behind ``number``, oldest first; those of one study, or all."""
    query = select(Event, Study.name).outerjoin(Study, Study.id == Event.study_id)
    if study is not None:
        query = query.where(Study.name == study)
    query = query.where(Event.number > checked_id(number, "event", least=0)).order_by(Event.number).limit(limit)
    return [
        EventOut(
            number=event.number,
            kind=event.kind,
            study=name,
            search=event.search_id,
            body=event.body,
            created_at=event.created_at,
        )
        for event, name in s.execute(query)
    ]


def follow(s: Session, number: int, study: str | None = None, limit: int = 100) -> tuple[list[EventOut], int]:
    """What comes next for a reader that has read up to ``number``, and the number that it has read up to then.

    That is at most ``limit`` events, like `after`. One of kind `RESET` goes before them if the reader cannot go on
    from where it is: what follows is not kept any more (it goes on with the oldest that is), or ``number`` was never
    given out, as after the restore of a backup (it goes on with the next).
    """
    newest = last(s)
    # None is kept: as if the next one were the oldest.
    oldest = s.scalars(select(func.min(Event.number))).one() or newest + 1
    start = min(max(checked_id(number, "event", least=0), oldest - 1), newest)
    found = after(s, start, study, limit)
    reached = found[-1].number if len(found) == limit else newest
    if start != number:
        body = {"oldest": oldest, "newest": newest}
        reset = EventOut(number=start, kind=RESET, study=None, search=None, body=body, created_at=now())
        found.insert(0, reset)
    return found, reached


def last(s: Session) -> int:
    """The number of the newest event, 0 before the first."""
    return s.scalars(select(Counter.value).where(Counter.name == "events")).one()


def old(s: Session, age: timedelta, keep: int) -> range:
    """Numbers of the oldest events that may go: older than ``age``, not of the newest ``keep``, at most `TRIMMED`."""
    oldest = s.scalars(select(func.min(Event.number))).one()
    if oldest is None:
        return range(0)
    end = min(oldest + TRIMMED, last(s) - keep + 1)
    # Clocks of machines differ, so times need not grow with numbers: the first young one keeps all behind it.
    young = select(func.min(Event.number)).where(Event.number < end, Event.created_at >= now() - age)
    return range(oldest, s.scalars(young).one() or end)


def trim(s: Session, age: timedelta, keep: int) -> int:
    """Deletes `old` events; returns how many. Several processes may do so at once."""
    gone = old(s, age, keep)
    if not gone:
        return 0
    # Whoever holds the oldest one deletes; others have nothing to do meanwhile.
    holding = select(Event.number).where(Event.number == gone.start).with_for_update(skip_locked=True)
    if s.scalars(holding).one_or_none() is None:
        return 0
    # The oldest is bounded too: what lies below was deleted, and no index entry of it need be looked at.
    statement = delete(Event).where(Event.number >= gone.start, Event.number < gone.stop)
    s.execute(statement, execution_options={"synchronize_session": False})
    return len(gone)
