"""What a key may be used for."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from enum import StrEnum


class Scope(StrEnum):
    """`read` sees everything; `write` changes studies and searches; `worker` leases and reports; `admin` does all."""

    READ = "read"
    WRITE = "write"
    WORKER = "worker"
    ADMIN = "admin"


ALL = frozenset(Scope)

_IMPLIED: Mapping[Scope, frozenset[Scope]] = {
    Scope.READ: frozenset({Scope.READ}),
    Scope.WRITE: frozenset({Scope.READ, Scope.WRITE}),
    Scope.WORKER: frozenset({Scope.READ, Scope.WORKER}),
    Scope.ADMIN: ALL,
}


def granted(scopes: Collection[Scope]) -> frozenset[Scope]:
    """The scopes with all that they imply."""
    return frozenset().union(*(_IMPLIED[scope] for scope in scopes))
