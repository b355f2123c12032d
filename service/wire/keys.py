"""Wire types of keys."""

from __future__ import annotations

from datetime import datetime

from pydantic import AwareDatetime, Field

from service.core.scopes import Scope
from service.wire.base import Name, Time, Wire


class KeyIn(Wire):
    """A key to be made."""

    name: Name
    scopes: list[Scope] = Field(
        min_length=1,
        max_length=len(Scope),
        description="What it may be used for. `write` and `worker` include `read`, `admin` includes all.",
    )
    expires_at: AwareDatetime | None = Field(
        default=None, description="Not usable from then on, with its offset from UTC; null: until it is revoked."
    )


class KeyOut(Wire):
    """A key, without its secret."""

    id: int = Field(description="Id.")
    name: Name
    scopes: list[Scope] = Field(description="What it may be used for.")
    created_at: Time
    expires_at: datetime | None = Field(description="Not usable from then on, UTC; null: until it is revoked.")
    revoked_at: datetime | None = Field(description="When it was revoked, UTC; null while it was not.")
    last_used_at: datetime | None = Field(description="When it was last used, UTC, to about a minute; null: never.")


class KeyMade(KeyOut):
    """A new key with its secret, which is shown this once: only a hash is kept."""

    token: str = Field(description="The secret, to be sent as `Authorization: Bearer TOKEN`.")
