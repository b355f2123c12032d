"""What several repositories do with rows: insert unless there, compare bodies, cut long lists."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import DeclarativeBase, Session

from service.core.errors import Conflict
from service.wire.base import Json, Wire

Item = TypeVar("Item")

CHUNK = 5000
"""Values in one IN list: SQLite takes 32,766 parameters, PostgreSQL 65,535."""

_INSERT: Mapping[str, Any] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}


def upsert(table: type[DeclarativeBase], dialect: str) -> Any:
    """The dialect's INSERT of a table, with its ON CONFLICT clauses."""
    return _INSERT[dialect](table.__table__)


def insert_new(
    s: Session, table: type[DeclarativeBase], rows: Sequence[Mapping[str, Any]], *returned: Any
) -> list[Any]:
    """Inserts the rows that break no unique constraint; the others stay as they are stored.

    Two writers never wait for each other in a circle if both give their rows in the same order: sort them. Returns
    the ``returned`` columns of the rows that were new, in no order.
    """
    if not rows:
        return []
    statement = upsert(table, s.get_bind().dialect.name).on_conflict_do_nothing()
    if returned:
        return list(s.execute(statement.returning(*returned), list(rows)))
    s.execute(statement, list(rows))
    return []


def chunks(items: Sequence[Item], size: int = CHUNK) -> Iterator[Sequence[Item]]:
    """The items, at most ``size`` at a time."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def body_of(given: Wire) -> Json:
    """A request's body as it is kept, defaults filled in, to be compared when the name comes again."""
    body: Json = given.model_dump(mode="json")
    return body


def refuse_other(kind: str, name: object, stored: Json, given: Json) -> None:
    """Raises `Conflict` with the fields in which the two bodies differ, if they do."""
    fields = sorted(_differences(stored, given, ""))
    if fields:
        raise Conflict(f"{kind} {name!r} exists with another {', '.join(fields)}", fields=fields)


def _differences(stored: Any, given: Any, path: str) -> Iterator[str]:
    if isinstance(stored, dict) and isinstance(given, dict):
        for field in stored.keys() | given.keys():
            inner = f"{path}.{field}" if path else field
            yield from _differences(stored.get(field), given.get(field), inner)
    elif stored != given:
        yield path
