"""Artifacts: files by their SHA-256."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import IO, Annotated

from anyio import to_thread
from fastapi import APIRouter, Path, Request, Response
from fastapi.responses import FileResponse

from service.api.deps import COMMON, Db, Services, State, created
from service.api.documents import problems
from service.db import artifacts
from service.wire.base import Digest
from service.wire.studies import ArtifactOut

router = APIRouter(prefix="/v1", tags=["artifacts"], dependencies=COMMON)

MAX_ARTIFACT_BYTES = 4 * 2**30
_PIECE = 2**20

DigestInPath = Annotated[Digest, Path(description="SHA-256 of the file, 64 hex digits.")]
_BYTES = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}


@router.put(
    "/artifacts/{digest}",
    status_code=201,
    responses={200: {"description": "It was there already."}, **problems(400, 413)},
    openapi_extra={"requestBody": {"required": True, "content": _BYTES}},
)
async def put_artifact(digest: DigestInPath, request: Request, services: State, response: Response) -> ArtifactOut:
    """Store a file.

    The body is the file, at most 4 GiB; it is refused if its SHA-256 is another. Storing it again changes nothing.
    """
    async with received(request, services) as spool:
        stored, new = await to_thread.run_sync(_keep, services, spool, digest)
    created(response, new)
    return stored


@asynccontextmanager
async def received(request: Request, services: Services) -> AsyncIterator[IO[bytes]]:
    """The body of a request in a nameless file, written as it arrives; its position is its size."""
    with tempfile.TemporaryFile(dir=services.settings.artifact_folder) as spool:
        pending = bytearray()
        async for chunk in request.stream():
            pending += chunk
            if len(pending) >= _PIECE:
                await to_thread.run_sync(spool.write, bytes(pending))
                pending.clear()
        await to_thread.run_sync(spool.write, bytes(pending))
        yield spool


def _keep(services: Services, spool: IO[bytes], digest: str) -> tuple[ArtifactOut, bool]:
    spool.seek(0)
    new = not services.artifacts.has(digest)
    _, size = services.artifacts.put(_pieces(spool), digest)
    with services.database.write() as session:
        return artifacts.register(session, digest, size), new


def _pieces(file: IO[bytes]) -> Iterator[bytes]:
    while piece := file.read(_PIECE):
        yield piece


@router.get(
    "/artifacts/{digest}",
    response_class=FileResponse,
    responses={200: {"description": "The file; ranges are served.", "content": _BYTES}, **problems(404)},
)
def get_artifact(digest: DigestInPath, db: Db, services: State) -> FileResponse:
    """Fetch a file."""
    return _file(digest, db, services)


@router.head(
    "/artifacts/{digest}",
    response_class=FileResponse,
    responses={200: {"description": "It is there."}, **problems(404)},
)
def head_artifact(digest: DigestInPath, db: Db, services: State) -> FileResponse:
    """Ask whether a file is there."""
    return _file(digest, db, services)


def _file(digest: str, db: Db, services: Services) -> FileResponse:
    with db.read() as session:
        artifacts.get(session, digest)
    # A digest names its content for ever.
    headers = {"ETag": f'"{digest}"', "Cache-Control": "private, max-age=31536000, immutable"}
    return FileResponse(services.artifacts.path(digest), media_type="application/octet-stream", headers=headers)
