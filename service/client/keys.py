"""Keys of the server, for those whose own key has scope admin."""

from __future__ import annotations

from collections.abc import Iterator
from typing import final

from service.client.http import Http
from service.client.resources import PAGE, every
from service.wire.base import Page
from service.wire.keys import KeyIn, KeyMade, KeyOut


@final
class Keys:
    """Who may call, and what for."""

    def __init__(self, http: Http) -> None:
        self._http = http

    def create(self, body: KeyIn) -> KeyMade:
        """Makes a key; only this answer holds its secret. Never repeated: a lost answer leaves a key to revoke."""
        return self._http.post(KeyMade, "/v1/keys", body, repeatable=False)

    def revoke(self, key: int) -> KeyOut:
        """Ends a key, by its id, for ever."""
        return self._http.post(KeyOut, f"/v1/keys/{key}:revoke")

    def page(self, size: int = PAGE, token: str | None = None) -> Page[KeyOut]:
        """One page of keys, in the order in which they were made."""
        return self._http.get(Page[KeyOut], "/v1/keys", {"page_size": size, "page_token": token})

    def list(self) -> Iterator[KeyOut]:
        """All keys, revoked and expired ones too."""
        return every(lambda token: self.page(token=token))
