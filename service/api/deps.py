"""What handlers are given: the process's services, the caller, and the parameters that many routes share."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias

from fastapi import Depends, Path, Query, Request, Response
from fastapi.concurrency import run_in_threadpool

from service.access import Keyring, Principal
from service.api.feed import Feed
from service.api.metrics import Metrics
from service.api.together import Queue
from service.core.errors import Invalid
from service.db.artifacts import ArtifactStore
from service.db.session import Database
from service.settings import Settings
from service.wire.base import Name

LONGEST_INTEGER = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Services:
    """One per application; kept in ``app.state.services``.

    ``queue`` has threads of its own, so that many waiting workers never fill the pool that all other handlers share.
    """

    settings: Settings
    database: Database
    artifacts: ArtifactStore
    feed: Feed
    metrics: Metrics
    queue: Queue
    keyring: Keyring


async def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


async def _database(services: Annotated[Services, Depends(_services)]) -> Database:
    return services.database


async def _principal(request: Request) -> Principal:
    """Whom `Authenticated` let in."""
    principal: Principal = request.state.principal
    return principal


_ALIKE = bytes.maketrans(b"E123456789", b"e000000000")
_SUSPECT = (b"NaN", b"Infinity", b"0" * 19, b"e000", b"e+000")
"""In bodies whose digits are all 0."""
_SUSPECT_ESCAPE = re.compile(rb"\\u(?:[dD][89a-fA-F]|0000)")

_LARGE = 2**16
"""Bodies beyond it are looked through in a thread: others wait for the event loop."""


async def _storable_body(request: Request) -> None:
    """Refuses JSON that parses in Python but that no database stores: NaN, infinities, lone surrogates, NUL,
    integers beyond 64 bits. A quick look at the bytes spares all other bodies a second parse."""
    if not request.headers.get("content-type", "").startswith("application/json"):
        return
    body = await request.body()
    if not _suspect(body):
        return
    if len(body) > _LARGE:
        await run_in_threadpool(_check_body, body)
    else:
        _check_body(body)


def _suspect(body: bytes) -> bool:
    # One expression for all of it takes five times as long.
    alike = body.translate(_ALIKE)
    return any(each in alike for each in _SUSPECT) or _SUSPECT_ESCAPE.search(body) is not None


def _check_body(body: bytes) -> None:
    try:
        parsed = json.loads(body)
    except ValueError:
        return  # reported with its position when the handler's own body is parsed
    _check_storable(parsed, "")


def _check_storable(value: Any, path: str) -> None:
    field = path or "body"
    match value:
        case dict():
            for key, item in value.items():
                _check_storable(key, path)
                _check_storable(item, f"{path}.{key}" if path else key)
        case list():
            for index, item in enumerate(value):
                _check_storable(item, f"{path}.{index}" if path else str(index))
        case float() if not math.isfinite(value):
            raise Invalid(field, "must be a finite number")
        case int() if not -LONGEST_INTEGER <= value <= LONGEST_INTEGER:
            raise Invalid(field, "must be an integer of at most 64 bits")
        case str() if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
            raise Invalid(field.encode(errors="replace").decode(), "must be Unicode text without NUL characters")


def created(response: Response, new: bool) -> None:
    """201 for what was made now, 200 for what was there already."""
    response.status_code = 201 if new else 200


Caller: TypeAlias = Annotated[Principal, Depends(_principal)]
State: TypeAlias = Annotated[Services, Depends(_services)]
# Handlers open the transaction themselves: begin, work and commit then happen in one thread of the pool. As a
# dependency with `yield` each would wait for a thread of its own, and a full pool would hold open transactions that
# nobody can finish.
Db: TypeAlias = Annotated[Database, Depends(_database)]

COMMON = [Depends(_storable_body)]
"""Dependencies of every route under /v1."""

PageSize: TypeAlias = Annotated[int, Query(ge=1, le=200, description="Items on a page, at most 200.")]
PageToken: TypeAlias = Annotated[
    str | None, Query(max_length=500, description="`next_page_token` of the page before; left out for the first.")
]
DEFAULT_PAGE = 50

Id: TypeAlias = Annotated[int, Path(ge=1, le=LONGEST_INTEGER, description="Id.")]
NameInPath: TypeAlias = Annotated[Name, Path(description="Name.")]
StudyFilter: TypeAlias = Annotated[Name | None, Query(description="Only those of this study.")]
SearchFilter: TypeAlias = Annotated[
    int | None, Query(ge=1, le=LONGEST_INTEGER, description="Only those of the search with this id.")
]
