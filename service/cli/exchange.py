"""``frontier import``, and ``frontier export`` without a key"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, cast, get_args

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from service.cli.common import AsJson, CommandError, Url, connect, err, progress_bar, show_json
from service.client import Client, Invalid, JobFailed
from service.client.tables import SUFFIXES, format_of
from service.wire.exchange import ExportFormat, ImportOut, RowError, TableFormat
from service.wire.jobs import JobOut

_SHOWN = 20


def import_measurements(
    study: Annotated[str, typer.Argument(help="Name of the study.")],
    file: Annotated[str, typer.Argument(help="NDJSON, JSON, CSV or Parquet; - for standard input.")],
    format: Annotated[  # noqa: A002 - the option's name
        str | None, typer.Option("--format", help="ndjson, json, csv or parquet; by the file's name if left out.")
    ] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave out rows with errors.")] = False,
    column: Annotated[
        list[str] | None, typer.Option(help="FIELD=COLUMN: reads a field of the rows from that column; repeat it.")
    ] = None,
    metric: Annotated[
        list[str] | None, typer.Option(help="METRIC=COLUMN: reads a metric from that column; repeat it.")
    ] = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Import measurements from a file. Importing the same again changes nothing."""
    path = None if file == "-" else Path(file)
    kind = _format(format, path)
    columns, metrics = _pairs(column, "--column"), _pairs(metric, "--metric")
    if path is not None and not path.is_file():
        raise CommandError(f"{path} is no file")
    with connect(url) as client:
        try:
            out = _send(client, study, path, kind, skip_bad, columns, metrics)
        except Invalid as error:
            _list([f"{each.field}: {each.message}" for each in error.problem.errors])
            raise CommandError(f"nothing was imported: {error}") from error
        except JobFailed as error:
            if error.job.result is not None:
                _list([_line(each) for each in ImportOut.model_validate(error.job.result).errors])
            raise
    if as_json:
        show_json(out)
    else:
        skipped = f", {out.skipped} skipped" if out.skipped else ""
        typer.echo(f"{out.rows} rows: {out.new} new measurements, {out.unchanged} unchanged{skipped}")
    _list([_line(each) for each in out.errors])


def export_measurements(study: str, out: Path | None, formats: Sequence[str], url: str | None) -> None:
    """Writes a study's measurements to a file, or to standard output."""
    kinds = get_args(ExportFormat)
    named = list(formats) or [(format_of(out) if out is not None else None) or "ndjson"]
    if len(named) != 1 or named[0] not in kinds:
        raise typer.BadParameter(f"must be one of {', '.join(kinds)} for measurements", param_hint="--format")
    if out is not None and out.is_dir():
        out = out / f"{study}.{named[0]}"
    with connect(url) as client:
        client.studies.export_measurements(study, out or sys.stdout.buffer, cast(ExportFormat, named[0]))
    sys.stdout.flush()
    if out is not None:
        typer.echo(f"{out}", err=True)


def _send(
    client: Client,
    study: str,
    path: Path | None,
    kind: TableFormat,
    skip_bad: bool,
    columns: dict[str, str],
    metrics: dict[str, str],
) -> ImportOut:
    total = path.stat().st_size if path is not None else None
    sending = Progress(
        TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeElapsedColumn(), console=err
    )
    with sending, progress_bar() as working:
        upload = sending.add_task("sending", total=total)
        work: list[TaskID] = []

        def sent(size: int) -> None:
            sending.update(upload, completed=size)

        def progress(job: JobOut) -> None:
            sending.stop()
            work[:] = work or [working.add_task("importing", total=None, note="")]
            said = job.progress
            note = str(said.get("note") or job.state.lower())
            working.update(work[0], completed=said.get("done", 0), total=said.get("total"), note=note)

        return client.studies.import_measurements(
            study,
            path or sys.stdin.buffer,
            format=kind,
            skip_bad=skip_bad,
            columns=columns,
            metrics=metrics,
            on_sent=sent,
            on_progress=progress,
        )


def _format(given: str | None, path: Path | None) -> TableFormat:
    found = given or (format_of(path) if path is not None else None)
    if found is None:
        raise typer.BadParameter(f"cannot be told by the name ({', '.join(SUFFIXES)}): say it", param_hint="--format")
    if found not in get_args(TableFormat):
        raise typer.BadParameter(f"must be one of {', '.join(get_args(TableFormat))}", param_hint="--format")
    return cast(TableFormat, found)


def _pairs(given: Sequence[str] | None, option: str) -> dict[str, str]:
    result: dict[str, str] = {}
    for each in given or []:
        target, equals, source = each.partition("=")
        if not equals or not target or target in result:
            raise typer.BadParameter(f"must be NAME=COLUMN, each name once, is {each!r}", param_hint=option)
        result[target] = source
    return result


def _line(error: RowError) -> str:
    where = f"row {error.row}" if error.row else "file"
    return f"{where}, {error.field}: {error.message}" if error.field else f"{where}: {error.message}"


def _list(lines: Sequence[str]) -> None:
    for line in lines[:_SHOWN]:
        typer.echo(line, err=True)
    if len(lines) > _SHOWN:
        typer.echo(f"and {len(lines) - _SHOWN} more", err=True)
