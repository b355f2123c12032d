"""What several repositories do with rows: write many at once, insert unless there, compare bodies, cut long lists."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, TypeVar, cast, final

from sqlalchemy import (
    Boolean,
    ColumnElement,
    Dialect,
    FromClause,
    String,
    Table,
    Text,
    TypeDecorator,
    bindparam,
    column,
    func,
    insert,
    select,
    update,
)
from sqlalchemy import cast as cast_to
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import DeclarativeBase, InstrumentedAttribute, Session
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from service.core.errors import Conflict
from service.wire.base import Json, Wire

Item = TypeVar("Item")

_NONE: Mapping[str, Any] = {}
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
    s: Session,
    table: type[DeclarativeBase],
    rows: Sequence[Mapping[str, Any]],
    *returned: Any,
    shared: Mapping[str, Any] = _NONE,
) -> list[Any]:
    """Inserts the rows that break no unique constraint; the others stay as they are stored.

    Two writers never wait for each other in a circle if both give their rows in the same order: sort them. All rows
    have the ``shared`` values too. Returns the ``returned`` columns of the rows that were new, in no order.
    """
    if not rows:
        return []
    if s.get_bind().dialect.name == "postgresql":
        statement = _insert_given(table, tuple(rows[0]), tuple(shared), returned, unless_there=True)
        result = s.execute(statement, _given_rows(rows, shared))
        return list(result.all()) if returned else []
    statement, each = sqlite.insert(table_of(table)).on_conflict_do_nothing(), [{**row, **shared} for row in rows]
    if returned:
        return list(s.execute(statement.returning(*returned), each).all())
    s.execute(statement, each)
    return []


def insert_all(
    s: Session, table: type[DeclarativeBase], rows: Sequence[Mapping[str, Any]], shared: Mapping[str, Any] = _NONE
) -> None:
    """Inserts rows that give the same columns, in their order, in one statement. All have the ``shared`` values too."""
    if not rows:
        return
    if s.get_bind().dialect.name == "postgresql":
        s.execute(_insert_given(table, tuple(rows[0]), tuple(shared), ()), _given_rows(rows, shared))
    else:
        s.execute(insert(table_of(table)), [{**row, **shared} for row in rows])


def update_all(
    s: Session,
    table: type[DeclarativeBase],
    rows: Sequence[Mapping[str, Any]],
    shared: Mapping[str, Any] = _NONE,
    added: Collection[str] = (),
) -> None:
    """Changes rows by their ``id``, each to its own values of the same columns and all to the ``shared`` ones, in one
    statement. Values of ``added`` columns are added to what is there.

    Past the unit of work: objects of this session do not learn of it.
    """
    if not rows:
        return
    names, added = tuple(rows[0]), tuple(added)
    if s.get_bind().dialect.name == "postgresql":
        s.execute(_update_given(table, names, tuple(shared), added), _given_rows(rows, shared))
    else:
        each = [{f"to_{n}": v for n, v in {**row, **shared}.items()} for row in rows]
        s.execute(_update_each(table, (*names, *shared), added), each)


# PostgreSQL is sent all rows as one JSON text: a list of VALUES has a parameter for every field, arrays are put
# together in Python, and executemany has a message for every row; each takes the client longer than the server needs
# to write them.


def _given_rows(rows: Sequence[Mapping[str, Any]], shared: Mapping[str, Any]) -> dict[str, Any]:
    return {"rows": _encoded(rows), **{f"all_{name}": value for name, value in shared.items()}}


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
    shared: tuple[str, ...],
    returned: tuple[ColumnElement[Any], ...],
    *,
    unless_there: bool = False,
) -> Any:
    values = _values(table, names, shared)
    statement = postgresql.insert(table_of(table)).from_select(list(values), select(*values.values()))
    if unless_there:
        statement = statement.on_conflict_do_nothing()
    return statement.returning(*returned) if returned else statement


@lru_cache(maxsize=64)
def _update_given(
    table: type[DeclarativeBase], names: tuple[str, ...], shared: tuple[str, ...], added: tuple[str, ...]
) -> Any:
    return _update(table, _values(table, names, shared), added)


@lru_cache(maxsize=64)
def _update_each(table: type[DeclarativeBase], names: tuple[str, ...], added: tuple[str, ...]) -> Any:
    return _update(table, {name: bindparam(f"to_{name}", type_=table_of(table).c[name].type) for name in names}, added)


def _values(table: type[DeclarativeBase], names: tuple[str, ...], shared: tuple[str, ...]) -> dict[str, Any]:
    """Column → its value in PostgreSQL's statements."""
    given, columns = _given(table, names), table_of(table).c
    same = {name: bindparam(f"all_{name}", type_=columns[name].type) for name in shared}
    return {**{name: given.c[name] for name in names}, **same}


def _update(table: type[DeclarativeBase], values: Mapping[str, Any], added: tuple[str, ...]) -> Any:
    target = table_of(table)
    changes = {n: target.c[n] + value if n in added else value for n, value in values.items() if n != "id"}
    return update(target).where(target.c.id == values["id"]).values(changes)


# ---------------------------------------------------------------------- lists of ids


@final
class _Ids(TypeDecorator[Collection[int]]):
    """A list of ids as one text, as `among` reads it."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Collection[int] | None, dialect: Dialect) -> str:
        given = ",".join(map(str, value or ()))
        return f"{{{given}}}" if dialect.name == "postgresql" else f"[{given}]"


@final
class _Among(FunctionElement[bool]):
    """``column`` is among the ids of a parameter."""

    type = Boolean()
    inherit_cache = True


@compiles(_Among)
def _any(element: _Among, compiler: SQLCompiler, **options: Any) -> str:
    column, ids = (compiler.process(each, **options) for each in element.clauses)
    return f"{column} = ANY (CAST({ids} AS BIGINT[]))"


@compiles(_Among, "sqlite")
def _in_json(element: _Among, compiler: SQLCompiler, **options: Any) -> str:
    column, ids = (compiler.process(each, **options) for each in element.clauses)
    return f"{column} IN (SELECT value FROM json_each({ids}))"  # noqa: S608 (both are the compiler's)


def among(column: ColumnElement[int] | InstrumentedAttribute[int], name: str) -> ColumnElement[bool]:
    """Whether the column is among the ids that are given as the parameter ``name``.

    They are sent as one text: a statement with a parameter for each takes longer to put together than to run, and is
    another one for each number of them.
    """
    return _Among(column, bindparam(name, type_=_Ids()))


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
