"""What commands share: the server's address, output for people and programs, progress, and errors of one line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer
from pydantic import BaseModel, TypeAdapter, ValidationError
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from service.client import Client, ConnectionFailed
from service.settings import Settings
from service.wire.jobs import JobOut

Url: TypeAlias = Annotated[
    str | None,
    typer.Option("--url", envvar="FRONTIER_URL", help="The server's address; that of the running server by default."),
]
AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Home: TypeAlias = Annotated[
    Path | None, typer.Option("--home", envvar="FRONTIER_HOME", help="Folder of database, artifacts and logs.")
]

KEY_LENGTH = 32

out = Console()
err = Console(stderr=True)


class CommandError(Exception):
    """What a command says before it ends with exit code 1."""


def settings_with(**given: Any) -> Settings:
    """The settings, with those options that were given on the command line."""
    return Settings(**{name: value for name, value in given.items() if value is not None})


def server_file(settings: Settings) -> Path:
    """Where `frontier serve` writes its address for the other commands."""
    return settings.home / "server.json"


def connect(url: str | None) -> Client:
    """A client of the server: ``--url`` or FRONTIER_URL, else the server that runs at home, else the settings'.

    Somebody waits at the terminal: a server that is not there is said at once. One that goes away later is waited for.
    """
    settings = Settings()
    if url is None:
        url = running_url(server_file(settings)) or settings.server_url
    with Client(url, tries=1, timeout=10) as probe:
        try:
            probe.health()
        except ConnectionFailed as error:
            raise CommandError(f"{error}; start a server with `frontier serve`, or name one with --url") from error
    return Client(url, settings.bearer)


def running_url(file: Path) -> str | None:
    """The address in `server_file`, if a server wrote one."""
    try:
        url = json.loads(file.read_text())["url"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return url if isinstance(url, str) else None


def parse_json(text: str, option: str) -> dict[str, Any]:
    """A JSON object given on the command line, or in the file after ``@``."""
    try:
        if text.startswith("@"):
            text = Path(text[1:]).read_text()
        value = json.loads(text)
    except (OSError, ValueError) as error:
        raise typer.BadParameter(f"is not JSON: {error}", param_hint=option) from error
    if not isinstance(value, dict):
        raise typer.BadParameter("must be a JSON object", param_hint=option)
    return value


def body(kind: type[Any], /, **fields: Any) -> Any:
    """A request's body; what cannot be one is a usage error that names the field."""
    try:
        return kind(**{name: value for name, value in fields.items() if value is not None})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "body"
        raise typer.BadParameter(f"{where}: {first['msg']}") from error


DeviceType = Annotated[str | None, typer.Option(help="Type that the worker's device must be of: cpu or cuda.")]
MemoryMb = Annotated[int | None, typer.Option(min=1, help="Memory that the worker's device must have, MiB.")]


def show_json(value: Any) -> None:
    """Wire types as JSON on standard output."""
    kind = type(value) if isinstance(value, BaseModel) else Any
    typer.echo(TypeAdapter(kind).dump_json(value, indent=2).decode())


def show_fields(value: BaseModel, as_json: bool, without: frozenset[str] = frozenset()) -> None:
    """One object: field and value per line, except those in ``without``; or JSON."""
    if as_json:
        show_json(value)
        return
    table = Table(show_header=False, box=None, pad_edge=False)
    for name, field in value.model_dump(mode="json", exclude=set(without)).items():
        table.add_row(f"[bold]{name}[/bold]", escape(cell(field)))
    out.print(table)


def show_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A table for people."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        # Keys are there to be copied. Of what is long no part is left out: a notation is one word.
        least = KEY_LENGTH if name == "key" else None
        table.add_column(name, no_wrap=name == "key", min_width=least, overflow="fold")
    for row in rows:
        table.add_row(*(escape(cell(value)) for value in row))
    out.print(table)


def cell(value: Any) -> str:
    """A value as people read it."""
    if value is None or value in ("", [], {}):
        return "-"
    match value:
        case bool():
            return "yes" if value else "no"
        case float():
            # Counts are floats on the wire: 159,552 MACs are not 1.5955e+05.
            return str(int(value)) if value.is_integer() and abs(value) < 2**53 else f"{value:.5g}"
        case dict() | list():
            return json.dumps(value)
        case BaseModel():
            return value.model_dump_json()
        case _:
            return str(value)


def progress_bar() -> Progress:
    """A bar on standard error, so that standard output stays data."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
        console=err,
        transient=False,
    )


def wait(client: Client, job: JobOut, what: str) -> JobOut:
    """Waits for a job under a progress bar."""
    with progress_bar() as bar:
        task = bar.add_task(what, total=None, note=job.state.lower())

        def update(found: JobOut) -> None:
            said = found.progress
            note = str(said.get("note") or found.state.lower())
            bar.update(task, completed=said.get("done", 0), total=said.get("total"), note=note)

        ended = client.jobs.wait(job.id, update)
        said = ended.progress
        total = said.get("total") or 1
        bar.update(task, completed=total, total=total, note="done")
    return ended


def wait_all(client: Client, jobs: Sequence[int], what: str) -> list[JobOut]:
    """Waits for several jobs under one progress bar."""
    with progress_bar() as bar:
        task = bar.add_task(what, total=len(jobs), note="")
        ended = []
        for job in jobs:
            ended.append(client.jobs.wait(job))
            bar.advance(task)
    return ended
