"""A database at one moment, whole, while everything goes on; and what a database that was put back needs."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from sqlalchemy import inspect, select, text, update
from sqlalchemy.orm import Session

from service.core.errors import Conflict
from service.db import events
from service.db.session import Database, known_revision
from service.db.tables import Artifact, Counter, Event

_PAGES = 4096
"""Pages of a SQLite file copied between two reports of progress."""

_JUMP = 2**40
"""More events than a server writes in its life; 8,000 restores stay below what a browser's numbers hold."""


@dataclass(frozen=True, slots=True)
class Contents:
    """What goes with the tables: their revision, the number of the newest event, and artifacts as digest → bytes."""

    revision: str
    events: int
    artifacts: Mapping[str, int]


def contents(s: Session) -> Contents:
    """Reads only what every released schema has, so that an old database can be saved before it is upgraded.

    Raises `Conflict` for a database without a schema, or with a newer one than this release knows.
    """
    revision = known_revision(s.connection())
    if revision is None:
        raise Conflict("the database has no schema: there is nothing to back up")
    stored = select(Artifact.digest, Artifact.size).order_by(Artifact.digest)
    return Contents(revision, events.last(s), dict(s.execute(stored).all()))


def copy_sqlite(s: Session, target: Path, report: Callable[[int, int], None]) -> None:
    """Copies the SQLite file that this session reads, as it was at the session's first query.

    The session's snapshot is open meanwhile, so that writers, who write to the log beside the file, neither wait nor
    make the copy begin again. ``report`` is told bytes copied and bytes in all.
    """
    source = cast(sqlite3.Connection, s.connection().connection.driver_connection)
    (size,) = source.execute("PRAGMA page_size").fetchone()
    with closing(sqlite3.connect(target)) as copy:
        source.backup(copy, pages=_PAGES, progress=lambda _, left, total: report(size * (total - left), size * total))


def share_postgresql(s: Session) -> str:
    """A name under which ``pg_dump`` sees exactly what this session sees, while it is open."""
    return str(s.execute(text("SELECT pg_export_snapshot()")).scalar_one())


def postgresql_version(s: Session) -> int:
    """The major version of the server."""
    return int(s.execute(text("SHOW server_version_num")).scalar_one()) // 10_000


def tables(database: Database) -> list[str]:
    """Names of the tables that are there, whosever they are."""
    return sorted(inspect(database.engine).get_table_names())


def begin_anew(s: Session) -> int:
    """Moves the events of a database that was put back to numbers that nobody was ever given; the newest of them.

    What happened between the backup and its restore has numbers too, and readers who know them. Were these numbers
    given again, such a reader would go on in the middle of what it has not seen. So every reader is told to begin anew.
    """
    s.execute(update(Event).values(number=Event.number + _JUMP), execution_options={"synchronize_session": False})
    moved = update(Counter).where(Counter.name == "events").values(value=Counter.value + _JUMP)
    s.execute(moved, execution_options={"synchronize_session": False})
    if s.get_bind().dialect.name == "postgresql":
        # The planner knows nothing of tables that were just filled.
        s.execute(text("ANALYZE"))
    return events.last(s)
