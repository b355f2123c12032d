"""Connections to SQLite and PostgreSQL: how each is opened, begins a transaction, waits, is replaced once broken."""

from __future__ import annotations

import json
import math
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, final

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.pool import ConnectionPoolEntry

from service.db.outages import TurnTimeout

__all__ = ["BUSY_S", "ENGINES", "WRITES", "Turn"]

BUSY_S = 20.0
"""How long a transaction waits for others: for SQLite's only writer, for a lock of PostgreSQL, for a connection of the
pool. Clients wait 30 s for an answer: they are to hear that the database is busy."""

_PATIENCE = "frontier_busy_s"
_TURN_S = 0.002
"""How often it looks whether that one has ended. SQLite's own handler sleeps up to 100 ms between its looks, so that it
misses the gaps between the transactions of somebody who writes a lot."""

_IDLE_SINCE = "frontier_idle_since"
_TRUSTED_S = 1.0
"""A connection that was idle for less is taken to be there still."""

_NETWORK = {
    "connect_timeout": 10,
    "keepalives_idle": 15,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
"""libpq's: a machine that vanished without a word is noticed within half a minute, not after two hours."""
_FORGOTTEN_MS = 300_000
"""PostgreSQL ends a transaction that was left alone for so long: whoever opened it was stopped, and holds locks."""

WRITES = "frontier_writes"
"""The execution option of connections whose transactions write."""


@final
class Turn:
    """Who writes next, and how long each waits for that.

    SQLite has one writer. Threads of one process queue here for it (``alone``) instead of in SQLite's busy handler,
    which sleeps between its tries. However many queue, each waits ``busy_s`` altogether, here and at the database:
    behind a lock of another process they would otherwise wait one after the other.

    Without ``busy_s`` locks of PostgreSQL are waited for as long as it takes: an upgrade waits for another one.
    """

    def __init__(self, busy_s: float | None, *, alone: bool) -> None:
        self.busy_s = busy_s
        self._lock = threading.RLock() if alone else None
        self._deadline = math.inf  # of the thread whose turn it is

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Holds the turn. Raises `TurnTimeout` if it does not come."""
        if self._lock is None:
            yield
            return
        busy_s = BUSY_S if self.busy_s is None else self.busy_s
        deadline = time.monotonic() + busy_s
        if not self._lock.acquire(timeout=busy_s):
            raise TurnTimeout(f"waited {busy_s} s for this process's other writers")
        try:
            self._deadline = deadline
            yield
        finally:
            self._lock.release()

    def deadline(self) -> float:
        """Until when the thread whose turn it is waits, by the monotonic clock."""
        return time.monotonic() + BUSY_S if self._lock is None else self._deadline


def _sqlite(url: URL, turn: Turn, **options: Any) -> Engine:
    if url.database:
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    busy_s = BUSY_S if turn.busy_s is None else turn.busy_s
    engine = create_engine(url, connect_args={"timeout": busy_s}, **_JSON, **options)

    @event.listens_for(engine, "connect")
    def _connect(connection: Any, _record: object) -> None:
        # The driver opens no transactions of its own: `_begin` says which kind.
        connection.isolation_level = None
        cursor = connection.cursor()
        _switch_to_wal(cursor, busy_s)
        for pragma in ("synchronous = NORMAL", "foreign_keys = ON"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        if connection.get_execution_options().get(WRITES, False):
            _begin_writing(connection, turn.deadline())
        else:
            _wait_at_most(connection, busy_s)
            connection.exec_driver_sql("BEGIN")

    return engine


def _begin_writing(connection: Connection, deadline: float) -> None:
    # SQLite's own waiting sleeps ever longer between its tries, and misses the pauses of an import.
    _wait_at_most(connection, 0)
    cursor = connection.connection.cursor()
    try:
        while time.monotonic() < deadline:
            try:
                cursor.execute("BEGIN IMMEDIATE")
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                    break
                time.sleep(_TURN_S)
    finally:
        cursor.close()
    # Once more, for the error as SQLAlchemy raises it.
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _wait_at_most(connection: Connection, seconds: float) -> None:
    if connection.info.get(_PATIENCE) != seconds:
        cursor = connection.connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout = {int(seconds * 1000)}")
        cursor.close()
        connection.info[_PATIENCE] = seconds


def _switch_to_wal(cursor: Any, busy_s: float) -> None:
    # SQLite's busy timeout does not hold for this switch: of several processes that make it on a new file at the
    # same moment, all but one are told at once that it is locked.
    deadline = time.monotonic() + busy_s
    while True:
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _postgresql(url: URL, turn: Turn, **options: Any) -> Engine:
    # What the planner thinks of a plan that it was told to avoid makes it compile statements of a millisecond.
    session = "-c jit=off -c enable_seqscan=off -c enable_sort=off"
    if turn.busy_s is not None:
        session += f" -c lock_timeout={int(turn.busy_s * 1000)} -c idle_in_transaction_session_timeout={_FORGOTTEN_MS}"
    # What the address says goes before.
    network = {name: value for name, value in _NETWORK.items() if name not in url.query}
    engine = create_engine(url, connect_args={"options": session, **network}, **_JSON, **options)

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        if not connection.get_execution_options().get(WRITES, False):
            connection.exec_driver_sql(_AS_STATISTICS_SAY)

    @event.listens_for(engine, "checkin")
    def _checkin(_connection: Any, record: ConnectionPoolEntry) -> None:
        record.info[_IDLE_SINCE] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def _checkout(connection: Any, record: ConnectionPoolEntry, _fairy: object) -> None:
        # Replaces connections that a restart of the server has cut. To ask before each use costs a round trip.
        if time.monotonic() - record.info.get(_IDLE_SINCE, math.inf) < _TRUSTED_S:
            return
        try:
            engine.dialect.do_ping(connection)
        except engine.dialect.loaded_dbapi.Error as error:
            raise DisconnectionError from error

    return engine


# All statements that write find their rows by an index. Statistics know nothing of a queue that was filled a moment
# ago: going by them PostgreSQL reads and sorts all of it at each lease. Statements that only read go by them.
_AS_STATISTICS_SAY = "SET LOCAL enable_seqscan = on; SET LOCAL enable_sort = on"


def _loads(text: str | bytes) -> Any:
    # What is stored is short, UTF-8 and without spaces around it: `json.loads` takes longer to look for those.
    return _DECODER.raw_decode(text if isinstance(text, str) else text.decode())[0]


_DECODER = json.JSONDecoder()
_JSON: Mapping[str, Any] = {"json_serializer": json.JSONEncoder(allow_nan=False).encode, "json_deserializer": _loads}
ENGINES: Mapping[str, Callable[..., Engine]] = {"sqlite": _sqlite, "postgresql": _postgresql}
"""Dialect → what makes its engine, from a URL, a `Turn` and options of SQLAlchemy."""
