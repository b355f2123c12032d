"""The parts of a server as processes of their own: ``frontier api | controller | worker``."""

from __future__ import annotations

import importlib
import inspect
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from service.cli.common import CommandError, Home, Url, running_url, server_file, settings_with
from service.client import Function
from service.core.evaluators import EXTERNAL
from service.listening import bind
from service.logs import configure
from service.settings import Settings
from service.wire.jobs import JobKind

# Each command imports what it runs: a worker's machine has no database driver, an API's has no torch.

Host = Annotated[
    str | None, typer.Option(help="Address to bind; without keys (`frontier keys`) it must be a loopback address.")
]
Port = Annotated[int | None, typer.Option(min=0, max=65535, help="Port to bind; 0 picks a free one.")]
DatabaseUrl = Annotated[
    str | None, typer.Option("--database-url", envvar="FRONTIER_DATABASE_URL", help="SQLite below home by default.")
]


def api(
    home: Home = None,
    host: Host = None,
    port: Port = None,
    database_url: DatabaseUrl = None,
    listener: Annotated[int | None, typer.Option("--fd", hidden=True, help="A bound socket to serve.")] = None,
) -> None:
    """Run the REST API and the dashboard."""
    from service.cli.keys import guarded

    settings = settings_with(home=home, host=host, port=port, database_url=database_url)
    bound = bind(settings, lambda: guarded(settings)) if listener is None else socket.socket(fileno=listener)
    _refuse_misfit(settings)
    configure(settings.log_level, "api")

    from service import app

    name, number = bound.getsockname()[:2]
    typer.echo(f"Serving http://{f'[{name}]' if ':' in name else name}:{number}", err=True)
    app.serve(settings, bound)


def controller(home: Home = None, database_url: DatabaseUrl = None) -> None:
    """Run a controller, which advances searches."""
    from service.controller import run_controller

    settings = settings_with(home=home, database_url=database_url)
    _refuse_misfit(settings)
    configure(settings.log_level, "controller")
    run_controller(settings)


def worker(
    home: Home = None,
    url: Url = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1 ...")] = "cpu",
    name: Annotated[str | None, typer.Option(help="Unique name; machine and process if left out.")] = None,
    kinds: Annotated[str | None, typer.Option(help="Kinds of jobs to take, comma-separated; all by default.")] = None,
    datasets: Annotated[
        str | None, typer.Option(help="Data sets it has, comma-separated: digits, name=npz:FILE ...")
    ] = None,
    evaluator: Annotated[
        str | None,
        typer.Option(help="A Python function that evaluates, as MODULE:FUNCTION: all that this worker runs."),
    ] = None,
    evaluator_name: Annotated[str, typer.Option(help="The evaluator that studies name to have it called.")] = EXTERNAL,
) -> None:
    """Run a worker, which trains and measures networks."""
    wanted = _kinds(kinds)
    if evaluator is not None and (kinds is not None or datasets is not None):
        said = "takes neither --kinds nor --datasets: the function is all that the worker runs"
        raise typer.BadParameter(said, param_hint="--evaluator")
    function = None if evaluator is None else _function(evaluator)

    from service.worker import run_worker

    settings = settings_with(home=home, url=url, datasets=datasets)
    if not settings.url:
        # The address may be that of a server that picked its port itself.
        settings = settings_with(home=home, url=running_url(server_file(settings)), datasets=datasets)
    configure(settings.log_level, name or "worker")
    try:
        run_worker(settings, name, device, wanted, None if function is None else {evaluator_name: function})
    except ValueError as error:  # a device or data set that is not there
        raise CommandError(str(error)) from error


def _refuse_misfit(settings: Settings) -> None:
    """Raises `Conflict` for a database with another schema than this release's, before anything is done with it.

    One that cannot be reached at this moment is left to the process, which waits for it.
    """
    from sqlalchemy.exc import OperationalError

    from service.db.session import Database

    database = Database(settings.database)
    try:
        with suppress(OperationalError):
            database.require_schema()
    finally:
        database.dispose()


def _function(path: str) -> Function:
    """``module:function``, found from the current folder first, as by ``python -m``."""
    module, _, name = path.partition(":")
    if not module or not name.isidentifier():
        raise typer.BadParameter(f"must be MODULE:FUNCTION, is {path!r}", param_hint="--evaluator")
    sys.path.insert(0, str(Path.cwd()))
    try:
        loaded = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise CommandError(f"{module} needs a module that is not installed: {error}") from error
        raise CommandError(
            f"there is no module {module!r} in {Path.cwd()} or among the installed ones: name it as `import` would"
        ) from error
    except Exception as error:
        raise CommandError(f"{module} cannot be imported: {type(error).__name__}: {error}") from error
    found = getattr(loaded, name, None)
    if not callable(found):
        there = [each for each, value in vars(loaded).items() if inspect.isfunction(value) and each[0] != "_"]
        raise CommandError(f"{module} has no function {name!r}; it has {', '.join(there) or 'none'}")
    function: Function = found
    return function


def _kinds(text: str | None) -> list[JobKind] | None:
    if text is None:
        return None
    try:
        return [JobKind(part.strip()) for part in text.split(",")]
    except ValueError as error:
        allowed = ", ".join(kind.value for kind in JobKind)
        raise typer.BadParameter(f"{error}; allowed: {allowed}", param_hint="--kinds") from error
