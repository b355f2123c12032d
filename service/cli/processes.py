"""The parts of a server as processes of their own: ``frontier api | controller | worker``."""

from __future__ import annotations

import socket
from typing import Annotated

import typer

from service.cli.common import CommandError, Home, Url, running_url, server_file, settings_with
from service.listening import bind
from service.logs import configure
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
    configure(settings.log_level, "api")

    from service import app

    name, number = bound.getsockname()[:2]
    typer.echo(f"Serving http://{f'[{name}]' if ':' in name else name}:{number}", err=True)
    app.serve(settings, bound)


def controller(home: Home = None, database_url: DatabaseUrl = None) -> None:
    """Run a controller, which advances searches."""
    from service.controller import run_controller

    settings = settings_with(home=home, database_url=database_url)
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
) -> None:
    """Run a worker, which trains and measures networks."""
    wanted = _kinds(kinds)

    from service.worker import run_worker

    settings = settings_with(home=home, url=url, datasets=datasets)
    if not settings.url:
        # The address may be that of a server that picked its port itself.
        settings = settings_with(home=home, url=running_url(server_file(settings)), datasets=datasets)
    configure(settings.log_level, name or "worker")
    try:
        run_worker(settings, name, device, wanted)
    except ValueError as error:  # a device or data set that is not there
        raise CommandError(str(error)) from error


def _kinds(text: str | None) -> list[JobKind] | None:
    if text is None:
        return None
    try:
        return [JobKind(part.strip()) for part in text.split(",")]
    except ValueError as error:
        allowed = ", ".join(kind.value for kind in JobKind)
        raise typer.BadParameter(f"{error}; allowed: {allowed}", param_hint="--kinds") from error
