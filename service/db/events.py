"""What happened, with gapless numbers in commit order on both databases; `service.db.ending` writes it."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.db.ending import emit
from service.db.paging import checked_id
from service.db.tables import Counter, Event, Study
from service.wire.jobs import EventOut

__all__ = ["after", "emit", "last"]


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


def last(s: Session) -> int:
    """The number of the newest event, 0 before the first."""
    return s.scalars(select(Counter.value).where(Counter.name == "events")).one()
