"""What a database's errors mean: which of them pass by waiting, and what is wrong meanwhile.

Sources: https://www.sqlite.org/rescode.html, https://www.postgresql.org/docs/current/errcodes-appendix.html.
"""

from __future__ import annotations

import re
import sqlite3
from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy.exc import DBAPIError, DisconnectionError, IntegrityError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as TurnTimeout

__all__ = ["Cause", "Outage", "TurnTimeout", "collided", "outage"]


class Cause(StrEnum):
    """Why a database does not do what it is asked to."""

    AWAY = "database-away"
    FULL = "database-full"
    BUSY = "database-busy"
    CROWDED = "database-crowded"
    READ_ONLY = "database-read-only"
    SCHEMA = "database-schema"


@dataclass(frozen=True, slots=True)
class Outage:
    """Something that ends without anybody changing the request; nothing of its transaction was written, unless the
    connection broke at the commit itself.

    Attributes:
        title: The same for every outage of this cause.
        state: What the database is like; neither statement nor address nor values are in it.
        advice: What to do.
        retry_s: Whole seconds after which it is worth trying again.
    """

    cause: Cause
    title: str
    state: str
    advice: str
    retry_s: int

    @property
    def detail(self) -> str:
        """A sentence for whoever asked."""
        return f"the database {self.state}: {self.advice}"


_OUTAGES = {
    each.cause: each
    for each in (
        Outage(Cause.AWAY, "Database away", "cannot be reached", "ask again", 2),
        Outage(Cause.FULL, "Database full", "has no space left to write", "somebody must make room", 10),
        Outage(Cause.BUSY, "Database busy", "is busy with others", "ask again", 1),
        Outage(Cause.CROWDED, "Database crowded", "takes no more connections", "ask again", 2),
        Outage(Cause.READ_ONLY, "Database read-only", "cannot be written", "ask again", 5),
        Outage(
            Cause.SCHEMA,
            "Database not ready",
            "does not have this release's schema",
            "/readyz says more, `frontier db upgrade` brings it",
            10,
        ),
    )
}

_SQLITE = {
    sqlite3.SQLITE_BUSY: Cause.BUSY,
    sqlite3.SQLITE_LOCKED: Cause.BUSY,
    sqlite3.SQLITE_PROTOCOL: Cause.BUSY,
    sqlite3.SQLITE_FULL: Cause.FULL,
    sqlite3.SQLITE_READONLY: Cause.READ_ONLY,
    sqlite3.SQLITE_PERM: Cause.READ_ONLY,
    sqlite3.SQLITE_CANTOPEN: Cause.AWAY,
    sqlite3.SQLITE_IOERR: Cause.AWAY,
    sqlite3.SQLITE_NOMEM: Cause.BUSY,
    sqlite3.SQLITE_INTERRUPT: Cause.BUSY,
}
"""Primary result codes."""
_SQLITE_SCHEMA = re.compile(r"no such (table|column)|has no column named")

_POSTGRESQL = {
    "08": Cause.AWAY,  # connection exceptions
    "57P": Cause.AWAY,  # shut down, crashed, or starting; idle connections that were closed
    "58": Cause.AWAY,  # errors of its disk
    "25P03": Cause.BUSY,  # this process was stopped in the middle of a transaction, which ended meanwhile
    "53": Cause.BUSY,  # insufficient resources
    "53100": Cause.FULL,
    "53300": Cause.CROWDED,
    "40": Cause.BUSY,  # deadlocks, serialisation failures
    "55P03": Cause.BUSY,  # a lock was not to be had in time
    "57014": Cause.BUSY,  # cancelled: by a timeout, or by somebody
    "25006": Cause.READ_ONLY,
    "42P01": Cause.SCHEMA,
    "42703": Cause.SCHEMA,
}
"""The beginnings of SQLSTATEs; the longest that fits counts."""
# What refuses a new connection has no SQLSTATE in psycopg, only words.
_CROWDED = re.compile(r"too many (clients|connections)|remaining connection slots")

_UNIQUE = frozenset({"23505", "23503"})
_SQLITE_UNIQUE = frozenset(
    {sqlite3.SQLITE_CONSTRAINT_UNIQUE, sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY, sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY}
)


def outage(error: BaseException) -> Outage | None:
    """What an error says of the database; None for what waiting does not mend: a statement that is wrong, a broken
    constraint, or an error of something else."""
    cause = _cause(error)
    return None if cause is None else _OUTAGES[cause]


def collided(error: BaseException) -> bool:
    """Whether two transactions made the same, or one removed what the other refers to, at the same moment: what the
    other has committed by now is seen when it is tried again."""
    if not isinstance(error, IntegrityError):
        return False
    if isinstance(error.orig, sqlite3.Error):
        return error.orig.sqlite_errorcode in _SQLITE_UNIQUE
    return getattr(error.orig, "sqlstate", None) in _UNIQUE


def _cause(error: BaseException) -> Cause | None:
    if isinstance(error, TurnTimeout):
        return Cause.BUSY
    if isinstance(error, DisconnectionError):
        return Cause.AWAY
    if not isinstance(error, DBAPIError):
        return None
    raised = error.orig
    if isinstance(raised, sqlite3.Error):
        # Errors that the driver itself raises have no code.
        code = getattr(raised, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
        return Cause.SCHEMA if _SQLITE_SCHEMA.search(str(raised)) else _SQLITE.get(code)
    state = getattr(raised, "sqlstate", None)
    if state is not None:
        fitting = [start for start in _POSTGRESQL if state.startswith(start)]
        return _POSTGRESQL[max(fitting, key=len)] if fitting else None
    if _CROWDED.search(str(raised)):
        return Cause.CROWDED
    return Cause.AWAY if isinstance(error, OperationalError | InterfaceError) else None
