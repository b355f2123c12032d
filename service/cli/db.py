"""``frontier db``"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from service.cli.common import CommandError, Home, settings_with
from service.cli.processes import DatabaseUrl

if TYPE_CHECKING:
    from service.db.session import Database

app = typer.Typer(help="The database.", no_args_is_help=True)


@app.command("upgrade")
def upgrade(home: Home = None, database_url: DatabaseUrl = None) -> None:
    """Bring the schema to this release's."""
    with opened(home=home, database_url=database_url) as database:
        database.upgrade()
    typer.echo("the schema is up to date")


@app.command("check")
def check(home: Home = None, database_url: DatabaseUrl = None) -> None:
    """Say whether the database can be reached and has this release's schema."""
    with opened(home=home, database_url=database_url) as database:
        problem = database.schema_problem()
    if problem is not None:
        raise CommandError(f"the database {problem}; `frontier db upgrade` brings it up to date")
    typer.echo("ok")


@contextmanager
def opened(**given: object) -> Iterator[Database]:
    """The settings' database. What the driver raises becomes one line."""
    from sqlalchemy.exc import SQLAlchemyError

    from service.db.session import Database

    database = Database(settings_with(**given).database)
    try:
        yield database
    except SQLAlchemyError as error:
        raise CommandError(f"the database cannot be used: {error.__cause__ or error}") from error
    finally:
        database.dispose()
