"""Super-networks."""

from __future__ import annotations

from fastapi import APIRouter, Response

from service.api.deps import COMMON, DEFAULT_PAGE, Db, NameInPath, PageSize, PageToken, created
from service.api.documents import problems
from service.api.spaces import NEW
from service.api.transactions import Write, transaction
from service.db import supernets
from service.wire.base import Page
from service.wire.jobs import JobOut
from service.wire.spaces import SupernetIn, SupernetOut

router = APIRouter(prefix="/v1", tags=["super-networks"], dependencies=COMMON)


@router.post("/supernets", status_code=201, responses={**NEW, **problems(404, 409)})
@transaction
def create_supernet(body: SupernetIn, s: Write, response: Response) -> SupernetOut:
    """Create a super-network.

    It is not trained yet. The same body under the same name answers the stored one.
    """
    supernet, new = supernets.create(s, body)
    created(response, new)
    return supernet


@router.get("/supernets")
def list_supernets(db: Db, page_size: PageSize = DEFAULT_PAGE, page_token: PageToken = None) -> Page[SupernetOut]:
    """List super-networks."""
    with db.read() as session:
        return supernets.page(session, page_size, page_token)


@router.get("/supernets/{supernet}", responses=problems(404))
def get_supernet(supernet: NameInPath, db: Db) -> SupernetOut:
    """Get a super-network."""
    with db.read() as session:
        return supernets.get(session, supernet)


@router.post("/supernets/{supernet}:train", status_code=202, responses=problems(404, 409))
@transaction
def train_supernet(supernet: NameInPath, s: Write) -> JobOut:
    """Train a super-network.

    Answers the job that trains it; while it is training, or once it is trained, that is the job there was.
    """
    return supernets.train(s, supernet)
