"""How alembic reaches the database: over the connection that `service.db.session` hands it, else by the settings."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection

from service.db.session import Database
from service.db.tables import Base
from service.settings import Settings


def run(connection: Connection) -> None:
    """Migrates in the connection's transaction."""
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        # SQLite alters most things by copying the table.
        render_as_batch=connection.dialect.name == "sqlite",
        compare_server_default=True,
    )
    with context.begin_transaction():
        context.run_migrations()


given = context.config.attributes.get("connection")
if given is not None:
    run(given)
else:
    database = Database(Settings().database)
    with database.engine.connect() as opened, opened.begin():
        run(opened)
    database.dispose()
