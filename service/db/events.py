"""What happened, with gapless numbers in commit order on both databases.

Events wait in the session and get their numbers when everything else of the transaction has been written: the
counter's row, which all writers share, is locked for the shortest time, and always last, so that no two transactions
wait for each other.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import insert, select, update
from sqlalchemy.orm import Session

from service.db.paging import checked_id
from service.db.tables import Counter, Event, Study, now
from service.wire.base import Json
from service.wire.jobs import EventOut

_WAITING = "frontier_events"


def emit(
    s: Session, kind: str, study_id: int | None = None, search_id: int | None = None, body: Json | None = None
) -> None:
    """Writes an event with the transaction of this session (`Database.write`)."""
    waiting: list[dict[str, Any]] = s.info.setdefault(_WAITING, [])
    waiting.append({"kind": kind, "study_id": study_id, "search_id": search_id, "body": body or {}})


def flush(s: Session) -> None:
    """Numbers and writes what waits: two statements, however many events there are."""
    waiting: list[dict[str, Any]] = s.info.pop(_WAITING, [])
    if not waiting:
        return
    taken = update(Counter).where(Counter.name == "events").values(value=Counter.value + len(waiting))
    newest = s.execute(taken.returning(Counter.value), execution_options={"synchronize_session": False}).scalar_one()
    first, time = newest - len(waiting) + 1, now()
    s.execute(insert(Event), [{"number": first + i, "created_at": time, **e} for i, e in enumerate(waiting)])


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
