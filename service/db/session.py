"""Sessions on SQLite and PostgreSQL, and the schema's migrations."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, NullPool, make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

import service
from service.core.errors import Conflict, Invalid
from service.db import ending, fronts, tallies
from service.db.engines import BUSY_S, ENGINES, WRITES, Turn
from service.db.outages import Cause, Outage, outage

_CONNECTIONS = 16
"""Connections that a process keeps; under load it opens as many again."""

# Any number that no other program on the same PostgreSQL server uses for its advisory locks.
_UPGRADE_LOCK = 0x46524F4E54
_MIGRATIONS = Path(service.__file__).parent.parent / "migrations"


class Database:
    """Opens sessions. One per process; threads share it.

    A read session sees one snapshot from its first to its last query. A write session is one transaction; on SQLite
    it begins IMMEDIATE, so whatever it reads stays true until it commits. Nothing is retried: `service.db.outages` says
    which errors pass, and connections that broke are replaced.

    Args:
        url: SQLAlchemy's, of SQLite or PostgreSQL.
        busy_s: How long a transaction waits for others.
    """

    def __init__(self, url: str, busy_s: float = BUSY_S) -> None:
        parsed = make_url(url)
        self.dialect = parsed.get_backend_name()
        if self.dialect not in ENGINES:
            raise Invalid("database_url", f"must be one of {sorted(ENGINES)}, is {self.dialect!r}")
        self._url = parsed
        self._turn = Turn(busy_s, alone=self.dialect == "sqlite")
        self._trouble: Outage | None = None
        pool = {"pool_size": _CONNECTIONS, "max_overflow": _CONNECTIONS, "pool_timeout": busy_s}
        self._engine = ENGINES[self.dialect](parsed, self._turn, **pool)
        self._reader = self._engine
        if self.dialect == "postgresql":
            self._reader = self._engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        self._writer = self._engine.execution_options(**{WRITES: True})
        self._info: dict[Any, Any] = {fronts.INFO: fronts.Fronts(), tallies.INFO: tallies.Tallies()}

    @property
    def url(self) -> str:
        """Where it is, with its password: for other processes, never for logs."""
        return self._url.render_as_string(hide_password=False)

    @property
    def trouble(self) -> Outage | None:
        """Why the last write failed, if the database was the reason: a full one can still be read."""
        return self._trouble

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
        try:
            with self._turn.taken(), Session(self._writer, info=self._info, expire_on_commit=False) as session:
                yield session
                session.flush()
                # Last: the counter of the events is locked from here to the commit, and everybody wants it.
                ending.flush(session)
                session.commit()
        except SQLAlchemyError as error:
            self._note(error)
            raise
        self._trouble = None

    def _note(self, error: SQLAlchemyError) -> None:
        self._trouble = outage(error)
        if self._trouble is not None and self._trouble.cause is Cause.READ_ONLY:
            # Each connection is to what is a standby by now, or was told so when it was opened.
            self._engine.dispose()

    def upgrade(self) -> None:
        """Brings the schema to the newest revision. Safe when several processes do so at once.

        Raises `Conflict` if the schema was written by a newer release.
        """
        engine = ENGINES[self.dialect](self._url, Turn(None, alone=False), poolclass=NullPool)
        try:
            with engine.execution_options(**{WRITES: True}).connect() as connection:
                if self.dialect == "sqlite":
                    # Batch migrations replace tables; with keys enforced that would delete what refers to them.
                    _outside_transaction(connection, "PRAGMA foreign_keys = OFF")
                with connection.begin():
                    if self.dialect == "postgresql":
                        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_UPGRADE_LOCK})")
                    known_revision(connection)
                    command.upgrade(_config(connection), "head")
        finally:
            engine.dispose()

    def revision(self) -> str | None:
        """The revision of the schema; None where there is none."""
        with self._reader.connect() as connection:
            return MigrationContext.configure(connection).get_current_revision()

    def schema_problem(self) -> str | None:
        """What is wrong with the schema, in words; None if this release can work with it."""
        found = self.revision()
        if found == newest_revision():
            return None
        if found is None or found in known_revisions():
            said = f"has schema {found or 'none'}, needed is {newest_revision()}"
            return f"{said}: `frontier db upgrade` brings it up to date"
        return _newer(found)

    def require_schema(self) -> None:
        """Raises `Conflict` if this release cannot work with the schema."""
        problem = self.schema_problem()
        if problem is not None:
            raise Conflict(f"the database {problem}")

    def dispose(self) -> None:
        """Closes all connections."""
        self._engine.dispose()


def _config(connection: Connection | None) -> Config:
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    return config


@cache
def known_revisions() -> tuple[str, ...]:
    """The revisions of the schema that this release knows, the newest first."""
    return tuple(each.revision for each in ScriptDirectory.from_config(_config(None)).walk_revisions())


def newest_revision() -> str:
    """The revision that this release works with."""
    return known_revisions()[0]


def known_revision(connection: Connection) -> str | None:
    """The revision of the schema; None where there is none. Raises `Conflict` if a newer release wrote it."""
    found = MigrationContext.configure(connection).get_current_revision()
    if found is not None and found not in known_revisions():
        raise Conflict(f"the database {_newer(found)}")
    return found


def _newer(revision: str) -> str:
    return (
        f"has schema {revision}, which this release does not know (its newest is {newest_revision()}): "
        "a newer release wrote it"
    )


def _outside_transaction(connection: Connection, statement: str) -> None:
    cursor = connection.connection.cursor()
    cursor.execute(statement)
    cursor.close()
