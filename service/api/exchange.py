"""Measurements in and out as files."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, Annotated

from anyio import to_thread
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse

from service.api.artifacts import received
from service.api.deps import Db, NameInPath, Services, State
from service.api.documents import problems
from service.api.problems import problem_response
from service.core.errors import Invalid
from service.db import imports
from service.exchange import Layout, Line, write
from service.exchange.report import describe
from service.importer import Outcome, Plan, import_file
from service.wire.base import FieldProblem
from service.wire.exchange import MEDIA_TYPES, ExportFormat, ImportOut, ImportPayload, TableFormat
from service.wire.jobs import JobOut

# Without the dependencies of other routes: they read whole bodies of JSON into memory.
router = APIRouter(prefix="/v1", tags=["studies"])

AT_ONCE_BYTES = 2**20
"""Files up to this size are imported by the request that brings them."""

_PIECE = 2**20
_TEXT = {"schema": {"type": "string"}}
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_FILES = {media: _BINARY if kind == "parquet" else _TEXT for kind, media in MEDIA_TYPES.items()}
_EXPORTED = {media: described for media, described in _FILES.items() if media != MEDIA_TYPES["json"]}

Mapping = Annotated[
    list[str] | None,
    Query(
        max_length=10_000,
        description="Reads a field of the rows from another column, as `FIELD:COLUMN`, split at the last colon; "
        "`FIELD:` leaves out the column of the field's name. Columns that mean nothing are then passed over.",
    ),
]


@router.post(
    "/studies/{study}/measurements:import",
    response_model=ImportOut,
    responses={
        202: {"model": JobOut, "description": "The file is larger than 1 MiB: a job imports it."},
        **problems(400, 404, 413),
    },
    openapi_extra={"requestBody": {"required": True, "content": {**_FILES, "application/octet-stream": _BINARY}}},
)
async def import_measurements(
    study: NameInPath,
    request: Request,
    services: State,
    format: Annotated[  # noqa: A002 - the parameter's public name
        TableFormat | None, Query(description="Format of the file; that of the Content-Type if left out.")
    ] = None,
    skip_bad: Annotated[bool, Query(description="Leave out rows with errors instead of refusing the file.")] = False,
    column: Mapping = None,
    metric: Annotated[
        list[str] | None,
        Query(
            max_length=10_000,
            description="Reads a metric from a column, as `METRIC:COLUMN`, split at the last colon. Only metrics that "
            "are mapped are read then.",
        ),
    ] = None,
) -> Response:
    """Import measurements.

    The body is the file: NDJSON, a JSON list, CSV with a header, or Parquet, at most 4 GiB. A row names an
    architecture by `config`, `config.CHOICE`, `genes` or `arch` (the space's own notation), and holds values as
    `metric` and `value`, as an object `metrics` or as `metrics.NAME`. It may also say `split`, `seed`, `fidelity`,
    `device`, `seconds` (for all its values together), `attempt`, `worker`, `created_at`, `key` (checked) and `context`
    (as exported; without it the measurement is recorded in the study's own circumstances).

    All rows are checked before the first is written, and a file with errors changes nothing unless `skip_bad` is set.
    A row that says what is stored changes nothing, so importing twice is importing once: equal replicates are told
    apart by `attempt` or `seed`. Up to 1 MiB is imported at once, more by a job whose result is the same.
    """
    plan = Plan(
        study,
        format or _format(request.headers.get("content-type", "")),
        skip_bad,
        _pairs("column", column),
        _pairs("metric", metric),
    )
    await to_thread.run_sync(_check, services, plan)
    async with received(request, services) as file:
        return await to_thread.run_sync(_take_in, services, plan, file)


@router.get(
    "/studies/{study}/measurements:export",
    response_class=StreamingResponse,
    responses={200: {"description": "The file, as it is read.", "content": _EXPORTED}, **problems(404)},
)
def export_measurements(
    study: NameInPath,
    db: Db,
    services: State,
    format: Annotated[ExportFormat, Query(description="Format of the file.")] = "ndjson",  # noqa: A002
) -> StreamingResponse:
    """Export measurements.

    One row for each measurement that the study links: key, config (in CSV one column `config.CHOICE` for each choice),
    genes, metric, value, attempt, seconds, worker, created_at and context. Ordered by key, metric, context and attempt,
    so that the same measurements make the same file. Importing it changes nothing.
    """
    with db.read() as session:
        into = imports.target(session, study)

    def lines() -> Iterator[list[Line]]:
        key: str | None = ""
        while key is not None:
            # A session for each piece: a slow reader must not hold a snapshot open.
            with db.read() as s:
                some, key = imports.lines_after(s, into, key)
            yield some

    content = write(format, lines(), into.space.choices, services.settings.artifact_folder)
    headers = {"Content-Disposition": f'attachment; filename="{study}.{format}"'}
    return StreamingResponse(content, media_type=MEDIA_TYPES[format], headers=headers)


def _format(content_type: str) -> TableFormat:
    media = content_type.partition(";")[0].strip().lower()
    kinds = {each: kind for kind, each in MEDIA_TYPES.items()}
    if media not in kinds:
        raise Invalid(
            "format",
            f"say ndjson, json, csv or parquet, or send the Content-Type of one: {', '.join(MEDIA_TYPES.values())}",
        )
    return kinds[media]


def _pairs(parameter: str, given: list[str] | None) -> dict[str, str]:
    result: dict[str, str] = {}
    for index, each in enumerate(given or []):
        target, colon, source = each.rpartition(":")
        if not colon or not target:
            raise Invalid(f"{parameter}.{index}", f"must be TARGET:COLUMN, is {each!r}")
        if target in result:
            raise Invalid(f"{parameter}.{index}", f"{target!r} is there twice")
        result[target] = source
    return result


def _check(services: Services, plan: Plan) -> None:
    """Refuses what needs no look at the file, before it arrives."""
    with services.database.read() as s:
        into = imports.target(s, plan.study)
    Layout([choice.name for choice in into.space.choices], plan.columns, plan.metrics)


def _take_in(services: Services, plan: Plan, file: IO[bytes]) -> Response:
    if file.tell() <= AT_ONCE_BYTES:
        outcome = import_file(services.database, plan, file, services.settings.artifact_folder)
        return _refusal(outcome) if outcome.refused else _json(outcome.out, 200)
    digest, size = _keep(services, file)
    payload = ImportPayload(
        artifact=digest, format=plan.format, skip_bad=plan.skip_bad, columns=plan.columns, metrics=plan.metrics
    )
    with services.database.write() as s:
        return _json(imports.enqueue(s, plan.study, payload, size), 202)


def _keep(services: Services, file: IO[bytes]) -> tuple[str, int]:
    def pieces() -> Iterator[bytes]:
        file.seek(0)
        while piece := file.read(_PIECE):
            yield piece

    return services.artifacts.put(pieces())


def _refusal(outcome: Outcome) -> Response:
    out = outcome.out
    errors = [
        FieldProblem(
            field=".".join(filter(None, (f"rows.{each.row}" if each.row else "", each.field))), message=each.message
        )
        for each in out.errors
    ]
    return problem_response(422, describe(out.errors, out.errors_total), kind="urn:frontier:invalid", errors=errors)


def _json(body: ImportOut | JobOut, status: int) -> Response:
    return Response(body.model_dump_json(), status, media_type="application/json")
