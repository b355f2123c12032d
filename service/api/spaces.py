"""Search spaces and the data sets that workers announced."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response

from service.api.deps import COMMON, DEFAULT_PAGE, Db, NameInPath, PageSize, PageToken, created
from service.api.documents import problems
from service.api.transactions import Write, transaction
from service.db import spaces, workers
from service.wire.base import Page
from service.wire.spaces import DatasetOut, SpaceIn, SpaceOut

router = APIRouter(prefix="/v1", dependencies=COMMON)

NEW: dict[int | str, dict[str, Any]] = {200: {"description": "It was there already, with the same body."}}
"""The second answer of a creation by name."""


@router.post("/spaces", tags=["spaces"], status_code=201, responses={**NEW, **problems(409)})
@transaction
def create_space(body: SpaceIn, s: Write, response: Response) -> SpaceOut:
    """Create a search space.

    Names a plug-in with options. The same body under the same name answers the stored space.
    """
    space, new = spaces.create(s, body)
    created(response, new)
    return space


@router.get("/spaces", tags=["spaces"])
def list_spaces(db: Db, page_size: PageSize = DEFAULT_PAGE, page_token: PageToken = None) -> Page[SpaceOut]:
    """List search spaces."""
    with db.read() as session:
        return spaces.page(session, page_size, page_token)


@router.get("/spaces/{space}", tags=["spaces"], responses=problems(404))
def get_space(space: NameInPath, db: Db) -> SpaceOut:
    """Get a search space."""
    with db.read() as session:
        return spaces.get(session, space)


@router.get("/datasets", tags=["workers"])
def list_datasets(db: Db, page_size: PageSize = DEFAULT_PAGE, page_token: PageToken = None) -> Page[DatasetOut]:
    """List data sets.

    All that workers have announced; studies name one of them.
    """
    with db.read() as session:
        return workers.datasets_page(session, page_size, page_token)
