"""Sessions on SQLite and PostgreSQL, and the schema's migrations."""

from __future__ import annotations

import json
import math
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL, Connection, Engine, NullPool, create_engine, event, make_url
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.orm import Session
from sqlalchemy.pool import ConnectionPoolEntry

import service
from service.core.errors import Conflict, Invalid
from service.db import ending, fronts, tallies

BUSY_S = 30.0
"""How long a SQLite transaction waits for the writer before it."""

_PATIENCE = "frontier_busy_s"
_TURN_S = 0.002
"""How often it looks whether that one has ended. SQLite's own handler sleeps up to 100 ms between its looks, so that it
misses the gaps between the transactions of somebody who writes a lot."""

_IDLE_SINCE = "frontier_idle_since"
_TRUSTED_S = 1.0
"""A connection that was idle for less is taken to be there still."""

_CONNECTIONS = 16
"""Connections that a process keeps; under load it opens as many again."""

_WRITES = "frontier_writes"
# Any number that no other program on the same PostgreSQL server uses for its advisory locks.
_UPGRADE_LOCK = 0x46524F4E54
_MIGRATIONS = Path(service.__file__).parent.parent / "migrations"


class Database:
    """Opens sessions. One per process; threads share it.

    A read session sees one snapshot from its first to its last query. A write session is one transaction; on SQLite
    it begins IMMEDIATE, so whatever it reads stays true until it commits. Nothing is retried.
    """

    def __init__(self, url: str) -> None:
        parsed = make_url(url)
        self.dialect = parsed.get_backend_name()
        if self.dialect not in _ENGINES:
            raise Invalid("database_url", f"must be one of {sorted(_ENGINES)}, is {self.dialect!r}")
        self._url = parsed
        self._engine = _ENGINES[self.dialect](parsed, pool_size=_CONNECTIONS, max_overflow=_CONNECTIONS)
        self._reader = self._engine
        if self.dialect == "postgresql":
            self._reader = self._engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        self._writer = self._engine.execution_options(**{_WRITES: True})
        self._info: dict[Any, Any] = {fronts.INFO: fronts.Fronts(), tallies.INFO: tallies.Tallies()}
        # Threads of one process queue here instead of in SQLite's busy handler, which sleeps between its tries.
        self._turn: AbstractContextManager[object] = threading.RLock() if self.dialect == "sqlite" else nullcontext()

    @property
    def engine(self) -> Engine:
        """For those who watch statements; queries go through `read` and `write`."""
        return self._engine

    @contextmanager
    def read(self) -> Iterator[Session]:
        """One snapshot. What was loaded stays readable after the session."""
        committed = {**self._info, tallies.KEPT: True}
        with Session(self._reader, info=committed, expire_on_commit=False, autoflush=False) as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """One transaction: commits at the end, rolls back on any error."""
        with self._turn, Session(self._writer, info=self._info, expire_on_commit=False) as session:
            yield session
            session.flush()
            # Last: the counter of the events is locked from here to the commit, and everybody wants it.
            ending.flush(session)
            session.commit()

    def upgrade(self) -> None:
        """Brings the schema to the newest revision. Safe when several processes do so at once.

        Raises `Conflict` if the schema was written by a newer release.
        """
        engine = _ENGINES[self.dialect](self._url, poolclass=NullPool)
        try:
            with engine.execution_options(**{_WRITES: True}).connect() as connection:
                if self.dialect == "sqlite":
                    # Batch migrations replace tables; with keys enforced that would delete what refers to them.
                    _outside_transaction(connection, "PRAGMA foreign_keys = OFF")
                with connection.begin():
                    if self.dialect == "postgresql":
                        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_UPGRADE_LOCK})")
                    _refuse_unknown(connection)
                    command.upgrade(_config(connection), "head")
        finally:
            engine.dispose()

    def schema_problem(self) -> str | None:
        """What is wrong with the schema, in words; None if this release can work with it."""
        head = _head()
        with self._reader.connect() as connection:
            heads = MigrationContext.configure(connection).get_current_heads()
        if heads == (head,):
            return None
        return f"has schema {', '.join(heads) or 'none'}, needed is {head}"

    def dispose(self) -> None:
        """Closes all connections."""
        self._engine.dispose()


def _config(connection: Connection | None) -> Config:
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    return config


@cache
def _head() -> str | None:
    return ScriptDirectory.from_config(_config(None)).get_current_head()


def _refuse_unknown(connection: Connection) -> None:
    script = ScriptDirectory.from_config(_config(connection))
    known = {revision.revision for revision in script.walk_revisions()}
    unknown = set(MigrationContext.configure(connection).get_current_heads()) - known
    if unknown:
        raise Conflict(
            f"the database has schema {', '.join(sorted(unknown))}, which this release does not know "
            f"(its newest is {script.get_current_head()}): a newer release wrote it"
        )


def _outside_transaction(connection: Connection, statement: str) -> None:
    cursor = connection.connection.cursor()
    cursor.execute(statement)
    cursor.close()


def _sqlite(url: URL, **options: Any) -> Engine:
    if url.database:
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(url, connect_args={"timeout": BUSY_S}, json_serializer=_dumps, **options)

    @event.listens_for(engine, "connect")
    def _connect(connection: Any, _record: object) -> None:
        # The driver opens no transactions of its own: `_begin` says which kind.
        connection.isolation_level = None
        cursor = connection.cursor()
        _switch_to_wal(cursor)
        for pragma in ("synchronous = NORMAL", "foreign_keys = ON"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        if connection.get_execution_options().get(_WRITES, False):
            _begin_writing(connection)
        else:
            _wait_at_most(connection, BUSY_S)
            connection.exec_driver_sql("BEGIN")

    return engine


def _begin_writing(connection: Connection) -> None:
    # SQLite's own waiting sleeps ever longer between its tries, and misses the pauses of an import.
    _wait_at_most(connection, 0)
    cursor = connection.connection.cursor()
    deadline = time.monotonic() + BUSY_S
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


def _switch_to_wal(cursor: Any) -> None:
    # SQLite's busy timeout does not hold for this switch: of several processes that make it on a new file at the
    # same moment, all but one are told at once that it is locked.
    deadline = time.monotonic() + BUSY_S
    while True:
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _postgresql(url: URL, **options: Any) -> Engine:
    # What the planner thinks of a plan that it was told to avoid makes it compile statements of a millisecond.
    engine = create_engine(url, json_serializer=_dumps, connect_args={"options": "-c jit=off"}, **options)

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        if connection.get_execution_options().get(_WRITES, False):
            connection.exec_driver_sql(_BY_INDEX)

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


# All statements that write find their rows by an index. Statistics know nothing of a queue that was filled a second ago:
# going by them PostgreSQL reads and sorts all of it at each lease.
_BY_INDEX = "SET LOCAL enable_seqscan = off; SET LOCAL enable_sort = off"

_dumps = json.JSONEncoder(allow_nan=False).encode
_ENGINES = {"sqlite": _sqlite, "postgresql": _postgresql}
