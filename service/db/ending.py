"""What is written last in a transaction, in commit order on both databases: events, and links of measurements.

Both wait in the session and get their numbers when everything else has been written: the counter's row, which all
writers share, is locked for the shortest time, and always last, so that no two transactions wait for each other.
(Sequences would not do: their numbers become visible out of order.)
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import bindparam, insert, literal, select, text, update
from sqlalchemy.orm import Session

from service.db.rows import insert_all, table_of
from service.db.tables import Counter, Event, StudyMeasurement, now
from service.wire.base import Json

_EVENTS = "frontier_events"
_LINKS = "frontier_links"
_COPIES = "frontier_copies"


def emit(
    s: Session, kind: str, study_id: int | None = None, search_id: int | None = None, body: Json | None = None
) -> None:
    """Writes an event with the transaction of this session (`Database.write`)."""
    waiting: list[dict[str, Any]] = s.info.setdefault(_EVENTS, [])
    waiting.append({"kind": kind, "study_id": study_id, "search_id": search_id, "body": body or {}})


def link(s: Session, study_id: int, measurements: Iterable[int]) -> None:
    """Links measurements, by their ids, to a study with the transaction of this session."""
    waiting: dict[int, set[int]] = s.info.setdefault(_LINKS, {})
    waiting.setdefault(study_id, set()).update(measurements)


def copy_links(s: Session, source_id: int, target_id: int) -> None:
    """Links to a new study, with the transaction of this session, all that another one links by then."""
    waiting: list[tuple[int, int]] = s.info.setdefault(_COPIES, [])
    waiting.append((source_id, target_id))


def flush(s: Session) -> None:
    """Numbers and writes what waits: one statement for each kind, however much there is."""
    happened: list[dict[str, Any]] = s.info.pop(_EVENTS, [])
    links: dict[int, set[int]] = s.info.pop(_LINKS, {})
    copies: list[tuple[int, int]] = s.info.pop(_COPIES, [])
    if not happened and not links and not copies:
        return
    if not happened:
        # Links need a number that no commit before had.
        happened = [
            {"kind": "measurements.linked", "study_id": study, "search_id": None, "body": {}}
            for study in sorted(links.keys() | {target for _, target in copies})
        ]
    newest = s.execute(_TAKE_NUMBERS, {"taken": len(happened)}).scalar_one()
    first, time = newest - len(happened) + 1, now()
    insert_all(s, Event, [{"number": first + i, **each} for i, each in enumerate(happened)], {"created_at": time})
    for source, target in copies:
        there = select(literal(target), StudyMeasurement.measurement_id, literal(newest))
        columns = ["study_id", "measurement_id", "number"]
        s.execute(insert(StudyMeasurement).from_select(columns, there.where(StudyMeasurement.study_id == source)))
    for study, ids in sorted(links.items()):
        given = ",".join(map(str, sorted(ids)))
        s.execute(_LINK[s.get_bind().dialect.name], {"study": study, "number": newest, "ids": given})


_COUNTERS = table_of(Counter)
_TAKE_NUMBERS = (
    update(_COUNTERS)
    .where(_COUNTERS.c.name == "events")
    .values(value=_COUNTERS.c.value + bindparam("taken"))
    .returning(_COUNTERS.c.value)
)
# As one text: a statement with a parameter for each link takes several times as long.
_LINK = {
    "sqlite": text(
        "INSERT INTO study_measurements (study_id, measurement_id, number) "
        "SELECT :study, value, :number FROM json_each('[' || :ids || ']') WHERE true ON CONFLICT DO NOTHING"
    ),
    "postgresql": text(
        "INSERT INTO study_measurements (study_id, measurement_id, number) "
        "SELECT :study, each, :number FROM unnest(CAST('{' || :ids || '}' AS bigint[])) AS each ON CONFLICT DO NOTHING"
    ),
}
