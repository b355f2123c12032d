"""Keys, for those whose key has scope admin. The first is made at the database, by ``frontier keys create``."""

from __future__ import annotations

from fastapi import APIRouter

from service.api.deps import COMMON, DEFAULT_PAGE, Db, Id, PageSize, PageToken, State
from service.api.documents import problems
from service.db import keys
from service.wire.base import Page
from service.wire.keys import KeyIn, KeyMade, KeyOut

router = APIRouter(prefix="/v1", tags=["keys"], dependencies=COMMON)


# No `transaction`: it would keep the answer for a repeated request, and with it the secret.
@router.post("/keys", status_code=201, responses=problems(409))
def create_key(body: KeyIn, services: State) -> KeyMade:
    """Make a key.

    The answer alone holds its secret: only a hash is kept. Names are never used again. An `Idempotency-Key` is not
    heeded here: a repeated request is a 409, and the key of a lost answer is to be revoked. The first key that is made
    is needed from then on, by every caller, on the server's own machine too.
    """
    with services.database.write() as session:
        made = keys.create(session, body)
    services.keyring.forget()
    return made


@router.get("/keys")
def list_keys(db: Db, page_size: PageSize = DEFAULT_PAGE, page_token: PageToken = None) -> Page[KeyOut]:
    """List keys, in the order in which they were made; revoked and expired ones too."""
    with db.read() as session:
        return keys.page(session, page_size, page_token)


@router.post("/keys/{key}:revoke", responses=problems(404))
def revoke_key(key: Id, services: State) -> KeyOut:
    """Revoke a key.

    For ever, and with the browser sessions that were begun with it. Repeatable. This process refuses it at once, others
    within a second. When the last key is revoked the server answers its own machine again without.
    """
    with services.database.write() as session:
        revoked = keys.revoke(session, key)
    services.keyring.forget()
    return revoked
