"""``frontier db``"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from service.cli.common import AsJson, CommandError, Home, err, out, settings_with, show_json
from service.cli.processes import DatabaseUrl
from service.settings import Settings

if TYPE_CHECKING:
    from service.db.checks import Check
    from service.db.session import Database

PgBin = Annotated[
    Path | None,
    typer.Option("--pg-bin", envvar="FRONTIER_PG_BIN", help="Folder of pg_dump and pg_restore; the PATH by default."),
]

app = typer.Typer(help="The database.", no_args_is_help=True)


@app.command("upgrade")
def upgrade(home: Home = None, database_url: DatabaseUrl = None) -> None:
    """Bring the schema to this release's."""
    with opened(home=home, database_url=database_url) as database:
        database.upgrade()
    typer.echo("the schema is up to date")


@app.command("check")
def check(
    home: Home = None,
    database_url: DatabaseUrl = None,
    deep: Annotated[bool, typer.Option("--deep", help="Read every artifact and compare its digest.")] = False,
    as_json: AsJson = False,
) -> None:
    """Look for what is wrong with the database and the artifacts. Nothing is changed, and nobody is held up."""
    from service.db import checks
    from service.db.artifacts import ArtifactStore

    settings = settings_with(home=home, database_url=database_url)
    _require_file(settings)
    with opened(home=home, database_url=database_url) as database, _bytes_bar() as told:
        store = ArtifactStore(settings.artifact_folder)
        found = []
        for each in checks.run(database, store, deep=deep, report=lambda done, total: told("artifacts", done, total)):
            found.append(each)
            if not as_json:
                _show(each)
    wrong = [each for each in found if not each.ok]
    if as_json:
        listed = [
            {"name": each.name, "ok": each.ok, "problems": list(each.problems), "more": each.more} for each in found
        ]
        show_json({"ok": not wrong, "checks": listed})
    if wrong:
        number = sum(len(each.problems) + each.more for each in wrong)
        others = f"; {number - 1} more in all" if number > 1 else ""
        raise CommandError(f"{wrong[0].name}: {wrong[0].problems[0]}{others}")


@app.command("backup")
def backup(
    file: Annotated[Path, typer.Argument(help="The file to write, for example frontier-2026-01-31.zip.")],
    home: Home = None,
    database_url: DatabaseUrl = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it is there.")] = False,
    pg_bin: PgBin = None,
) -> None:
    """Write the database, as it is at one moment, and its artifacts to a file, while everything runs."""
    from service.backup import make
    from service.db.artifacts import ArtifactStore

    settings = settings_with(home=home, database_url=database_url)
    _require_file(settings)
    with opened(home=home, database_url=database_url) as database, _bytes_bar() as report:
        made = make(
            database,
            ArtifactStore(settings.artifact_folder),
            file,
            release=version("frontier-nas"),
            force=force,
            programs=pg_bin,
            report=report,
        )
    kept = made.manifest
    typer.echo(
        f"{file}: schema {kept.revision}, {len(kept.artifacts)} artifacts, "
        f"everything up to event {kept.events}; {made.size:,} bytes"
    )
    if kept.absent:
        raise CommandError(
            f"{file} was written, but without {len(kept.absent)} artifacts that are not whole in "
            f"{settings.artifact_folder} ({kept.absent[0]}, ...): `frontier db check --deep` lists them"
        )


@app.command("restore")
def restore(
    file: Annotated[Path, typer.Argument(help="A file that `frontier db backup` wrote.")],
    home: Home = None,
    database_url: DatabaseUrl = None,
    pg_bin: PgBin = None,
) -> None:
    """Put a backup into an empty database, and its artifacts into their folder. Everything else must be stopped."""
    from sqlalchemy.exc import SQLAlchemyError

    from service.backup import restore as put_back
    from service.db.artifacts import ArtifactStore
    from service.db.session import newest_revision

    settings = settings_with(home=home, database_url=database_url)
    with _bytes_bar() as report:
        try:
            store = ArtifactStore(settings.artifact_folder)
            manifest = put_back(file, settings.database, store, programs=pg_bin, report=report)
        except SQLAlchemyError as error:
            raise _unusable(error) from error
    typer.echo(f"{file} of {manifest.created_at:%Y-%m-%d %H:%M} UTC was restored, {len(manifest.artifacts)} artifacts")
    if manifest.revision != newest_revision():
        typer.echo(f"schema {manifest.revision} was upgraded to {newest_revision()}")
    if manifest.absent:
        typer.echo(f"the backup was made without {len(manifest.absent)} artifacts that were lost by then", err=True)


@contextmanager
def opened(**given: object) -> Iterator[Database]:
    """The settings' database. What the driver raises becomes one line."""
    from sqlalchemy.exc import SQLAlchemyError

    from service.db.session import Database

    database = Database(settings_with(**given).database)
    try:
        yield database
    except SQLAlchemyError as error:
        raise _unusable(error) from error
    finally:
        database.dispose()


def _unusable(error: Exception) -> CommandError:
    return CommandError(f"the database cannot be used: {error.__cause__ or error}")


def _require_file(settings: Settings) -> None:
    """Who only reads a SQLite database must not make an empty one by opening it."""
    from sqlalchemy import make_url

    url = make_url(settings.database)
    if url.get_backend_name() == "sqlite" and url.database and not Path(url.database).exists():
        raise CommandError(f"there is no file {url.database}: `frontier db upgrade` makes the database")


def _show(check: Check) -> None:
    out.print(f"{check.name:<14} {'ok' if check.ok else 'WRONG'}", highlight=False)
    for problem in check.problems:
        out.print(f"    {problem}", highlight=False, markup=False, soft_wrap=True)
    if check.more:
        out.print(f"    and {check.more} more", highlight=False)


@contextmanager
def _bytes_bar() -> Iterator[Callable[[str, int, int | None], None]]:
    """A bar for each part of the work; called with what is done now, its bytes so far and in all."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err) as bar:
        tasks: dict[str, TaskID] = {}

        def report(what: str, done: int, total: int | None) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done, total=total)

        yield report
