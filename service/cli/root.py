"""Puts the commands together, and turns errors into one line and an exit code."""

from __future__ import annotations

import os
import sys
from importlib.metadata import version
from typing import Annotated

import structlog
import typer
from pydantic import ValidationError
from pydantic_settings import SettingsError

from service.cli import (
    confirm,
    db,
    demo,
    devices,
    exchange,
    export,
    jobs,
    keys,
    predictors,
    processes,
    proxies,
    searches,
    serve,
    spaces,
    standing,
    studies,
    supernets,
    verify,
    workers,
)
from service.cli.common import CommandError
from service.cli.parent import end_with_parent
from service.client import ApiError, FrontierClientError
from service.core.errors import FrontierError, Invalid
from service.logs import configure, redact

OURS = frozenset({"predictors", "search_spaces", "service"})

log = structlog.get_logger("frontier.cli")
app = typer.Typer(
    name="frontier",
    help="Frontier: neural architecture search as a service.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("serve")(serve.serve)
app.command("api")(processes.api)
app.command("controller")(processes.controller)
app.command("worker")(processes.worker)
app.add_typer(spaces.app, name="spaces")
app.add_typer(supernets.app, name="supernets")
app.add_typer(studies.app, name="studies")
app.add_typer(searches.app, name="search")
app.add_typer(predictors.app, name="predictors")
app.add_typer(proxies.app, name="proxies")
proxies.app.command("compare")(standing.compare)
searches.app.command("confirm")(confirm.confirm)
searches.app.command("verify")(verify.verify)
app.command("import")(exchange.import_measurements)
app.command("export")(export.export)
app.add_typer(jobs.app, name="jobs")
app.add_typer(workers.app, name="workers")
app.add_typer(devices.app, name="devices")
app.add_typer(keys.app, name="keys")
app.add_typer(db.app, name="db")
app.command("demo")(demo.demo)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(version("frontier-nas"))
        raise typer.Exit


@app.callback()
def root(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    """Frontier: neural architecture search as a service."""


def main() -> None:
    """The entry point. Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    end_with_parent()
    try:
        app()
    except BrokenPipeError:
        # Whoever read our output has enough; Python must not fail again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        line, code = describe(error)
        typer.echo(f"frontier: {redact(' '.join(line.split()))}", err=True)
        sys.exit(code)


def describe(error: Exception) -> tuple[str, int]:
    """What went wrong in one line, and the exit code. The log gets the traceback of what nobody expected."""
    match error:
        case ApiError() if error.status >= 500 and error.request_id:
            return f"{error} (request {error.request_id})", 1
        case ApiError() if error.status == 401:
            return f"{error}; commands send the one in the variable FRONTIER_KEY", 1
        case CommandError() | FrontierClientError() | OSError():
            return str(error), 1
        case Invalid():
            return f"{error.field}: {error.message}", 1
        case FrontierError():
            return error.message, 1
        case ValidationError():
            first = error.errors(include_url=False)[0]
            return f"FRONTIER_{'_'.join(str(part) for part in first['loc']).upper()}: {first['msg']}", 2
        case SettingsError():
            return str(error), 2
        case ModuleNotFoundError() if (error.name or "").partition(".")[0] not in OURS:
            return f"{error}: this command needs another extra, frontier-nas[server] or frontier-nas[worker]", 1
        case _:
            if not structlog.is_configured():
                configure("WARNING", "frontier")  # its own way to print tracebacks shows local variables
            log.error("unexpected_error", exc_info=error)
            return f"unexpected {type(error).__name__}: {error}", 1
