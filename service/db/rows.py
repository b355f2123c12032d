"""What several repositories do with rows: write many at once, insert unless there, compare bodies, cut long lists."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, TypeVar, cast

from sqlalchemy import ColumnElement, FromClause, String, Table, Text, bindparam, column, func, insert, select, update
from sqlalchemy import cast as cast_to
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
    return _INSERT[dialect](table_of(table))


def table_of(entity: type[DeclarativeBase]) -> Table:
    """The table itself: statements on it read and write plain rows, past the unit of work."""
    return cast(Table, entity.__table__)


def insert_new(
    s: Session, table: type[DeclarativeBase], rows: Sequence[Mapping[str, Any]], *returned: Any
) -> list[Any]:
    """Inserts the rows that break no unique constraint; the others stay as they are stored.

    Two writers never wait for each other in a circle if both give their rows in the same order: sort them. Returns
    the ``returned`` columns of the rows that were new, in no order.
    """
    if not rows:
        return []
    if s.get_bind().dialect.name == "postgresql":
        result = s.execute(_insert_given(table, tuple(rows[0]), returned, unless_there=True), _rows(rows))
        return list(result) if returned else []
    statement = sqlite.insert(table_of(table)).on_conflict_do_nothing()
    if returned:
        return list(s.execute(statement.returning(*returned), list(rows)))
    s.execute(statement, list(rows))
    return []


def insert_all(s: Session, table: type[DeclarativeBase], rows: Sequence[Mapping[str, Any]]) -> None:
    """Inserts rows that give the same columns, in their order, in one statement."""
    if not rows:
        return
    if s.get_bind().dialect.name == "postgresql":
        s.execute(_insert_given(table, tuple(rows[0]), ()), _rows(rows))
    else:
        s.execute(insert(table_of(table)), list(rows))


def update_all(s: Session, table: type[DeclarativeBase], rows: Sequence[Mapping[str, Any]]) -> None:
    """Changes rows by their ``id``, each to its own values of the same columns, in one statement.

    Past the unit of work: objects of this session do not learn of it.
    """
    if not rows:
        return
    if s.get_bind().dialect.name == "postgresql":
        s.execute(_update_given(table, tuple(rows[0])), _rows(rows))
    else:
        s.execute(_update_each(table, tuple(rows[0])), [{f"to_{n}": v for n, v in row.items()} for row in rows])


# PostgreSQL is sent all rows as one JSON text: a list of VALUES has a parameter for every field, arrays are put
# together in Python, and executemany has a message for every row; each takes the client longer than the server needs
# to write them.


def _rows(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    return {"rows": _encoded(rows)}


def _plain(value: object) -> str:
    match value:
        case datetime():
            return value.isoformat()
        case bytes():
            return f"\\x{value.hex()}"
    raise TypeError(f"{type(value).__name__} is no value of a column")


_encoded = json.JSONEncoder(allow_nan=False, default=_plain).encode


def _given(table: type[DeclarativeBase], names: Sequence[str]) -> FromClause:
    columns = [table_of(table).c[name] for name in names]
    # VARCHAR(n) would cut what is too long instead of refusing it.
    typed = [column(c.name, Text() if isinstance(c.type, String) else c.type) for c in columns]
    rows = cast_to(bindparam("rows", type_=Text()), postgresql.JSONB)
    return func.jsonb_to_recordset(rows).table_valued(*typed).render_derived("given", with_types=True)


@lru_cache(maxsize=256)
def _insert_given(
    table: type[DeclarativeBase],
    names: tuple[str, ...],
    returned: tuple[ColumnElement[Any], ...],
    *,
    unless_there: bool = False,
) -> Any:
    given = _given(table, names)
    statement = postgresql.insert(table_of(table)).from_select(names, select(*(given.c[name] for name in names)))
    if unless_there:
        statement = statement.on_conflict_do_nothing()
    return statement.returning(*returned) if returned else statement


@lru_cache(maxsize=64)
def _update_given(table: type[DeclarativeBase], names: tuple[str, ...]) -> Any:
    given, target = _given(table, names), table_of(table)
    return update(target).where(target.c.id == given.c.id).values({n: given.c[n] for n in names if n != "id"})


@lru_cache(maxsize=64)
def _update_each(table: type[DeclarativeBase], names: tuple[str, ...]) -> Any:
    target = table_of(table)
    values: dict[str, Any] = {name: bindparam(f"to_{name}") for name in names if name != "id"}
    return update(target).where(target.c.id == bindparam("to_id")).values(values)


def chunks(items: Sequence[Item], size: int = CHUNK) -> Iterator[Sequence[Item]]:
    """The items, at most ``size`` at a time."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def body_of(given: Wire) -> Json:
    """A request's body as it is kept, defaults filled in, to be compared when the name comes again."""
    body: Json = given.model_dump(mode="json")
    return body


def refuse_other(kind: str, name: object, stored: Json, given: Json, shape: type[Wire] | None = None) -> None:
    """Raises `Conflict` with the fields in which the two bodies differ, if they do.

    With the bodies' ``shape``, fields that did not exist when one was stored have their defaults there.
    """
    if shape is not None:
        kept = {name: value for name, value in stored.items() if name in shape.model_fields}
        stored = {**stored, **body_of(shape.model_validate(kept))}
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
