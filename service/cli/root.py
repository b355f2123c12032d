"""Puts the commands together, and turns errors into one line and an exit code."""

from __future__ import annotations

import os
import sys
from importlib.metadata import version
from typing import Annotated

import typer
from pydantic import ValidationError
from pydantic_settings import SettingsError

from service.cli import (
    db,
    demo,
    export,
    jobs,
    predictors,
    processes,
    proxies,
    searches,
    serve,
    spaces,
    studies,
    supernets,
    verify,
)
from service.cli.common import CommandError
from service.cli.parent import end_with_parent
from service.client import ApiError, FrontierClientError
from service.core.errors import FrontierError

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
searches.app.command("verify")(verify.verify)
app.command("export")(export.export)
app.add_typer(jobs.app, name="jobs")
app.add_typer(db.app, name="db")
app.command("demo")(demo.demo)


@app.callback()
def root(
    show_version: Annotated[bool, typer.Option("--version", help="Print the version and end.")] = False,
) -> None:
    if show_version:
        typer.echo(version("frontier-nas"))
        raise typer.Exit


def main() -> None:
    """The entry point. Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    end_with_parent()
    try:
        app()
    except (CommandError, FrontierClientError, FrontierError) as error:
        _fail(_line(error))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        _fail(f"FRONTIER_{'_'.join(str(part) for part in first['loc']).upper()}: {first['msg']}", code=2)
    except SettingsError as error:
        _fail(str(error), code=2)
    except BrokenPipeError:
        # Whoever read our output has enough; Python must not fail again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        _fail(str(error))


def _line(error: Exception) -> str:
    match error:
        case ApiError() if error.status >= 500 and error.request_id:
            return f"{error} (request {error.request_id})"
        case _:
            return str(error)


def _fail(line: str, code: int = 1) -> None:
    typer.echo(f"frontier: {' '.join(line.split())}", err=True)
    sys.exit(code)
