"""Files as batches of columns: NDJSON, a JSON list, CSV (RFC 4180, UTF-8, with a header) and Parquet.

Every reader works in constant memory. What is wrong with one row is told with the batch; what makes the rest of a
file unreadable raises `Invalid`.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, compress
from operator import itemgetter
from typing import IO, Any, TypeAlias

from service.core.errors import Invalid
from service.exchange.layout import Columns
from service.wire.exchange import TableFormat

ROWS = 4096
"""Rows in a batch, at most."""

LONGEST_ROW = 16 * 2**20
"""Characters of one row or cell, at most."""

_CELLS = 2**20
"""Cells in a batch, about."""

_PIECE = 2**20
_BATCH_TEXT = 8 * 2**20
_BLANK = " \t\r\n"
_DIVISION = re.compile(r"\}[ \t\r]*,[ \t\r]*\{")


@dataclass(frozen=True, slots=True)
class Batch:
    """``count`` rows as columns.

    Attributes:
        first: Number of the first row in the file, from 1.
        columns: Target (see `Layout`) → ``count`` values; None where a row says nothing.
        lines: Per row the line on which it begins; empty where a format has no lines.
        broken: Index → field and message, of rows that could not be read. Their values are None.
        texts: All values are texts (CSV).
    """

    first: int
    count: int
    columns: Mapping[str, Sequence[Any]]
    lines: Sequence[int] = ()
    broken: Mapping[int, tuple[str, str]] = field(default_factory=dict)
    texts: bool = False


def read(kind: TableFormat, file: IO[bytes], layout: Columns) -> Iterator[Batch]:
    """The rows of a file, in their order. Raises `Invalid` where the rest of the file cannot be read."""
    return _READERS[kind](file, layout)


# ---------------------------------------------------------------------- JSON

Row: TypeAlias = dict[str, Any]


def _ndjson(file: IO[bytes], layout: Columns) -> Iterator[Batch]:
    first, line = 1, 1
    for some in _lines(file):
        lines: Sequence[int] = range(line, line + len(some))
        line += len(some)
        broken: dict[int, tuple[str, str]] = {}
        rows = _at_once(some)
        if rows is None:
            filled = [text.strip(_BLANK) != "" for text in some]
            lines = list(compress(lines, filled))
            rows = _one_by_one(compress(some, filled), broken)
        yield from _objects(rows, first, lines, broken, layout)
        first += len(rows)


def _at_once(lines: Sequence[str]) -> list[Row] | None:
    """The rows of lines, read as one list; None if they have to be looked at one by one.

    Only commas between the lines may divide rows: there are as many as lines, all rows are objects, and no line holds
    a comma between objects.
    """
    text = "[" + ",\n".join(lines) + "]"
    if _DIVISION.search(text):
        return None
    try:
        rows: list[Row] = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return rows if len(rows) == len(lines) and set(map(type, rows)) == {dict} else None


def _one_by_one(lines: Iterable[str], broken: dict[int, tuple[str, str]]) -> list[Row]:
    """The rows of lines; those that cannot be read are noted as ``broken``, and empty."""
    decode = json.JSONDecoder().raw_decode
    rows: list[Row] = []
    for index, line in enumerate(lines):
        text = line.strip(_BLANK)
        row: Any = {}
        try:
            row, end = decode(text)
            if end != len(text):
                broken[index] = "", f"is not JSON: more follows after character {end}"
            elif type(row) is not dict:
                broken[index] = "", f"is {_kind(row)}, a row is an object"
        except (ValueError, RecursionError) as error:
            broken[index] = "", f"is not JSON: {_reason(error)}"
        rows.append({} if index in broken else row)
    return rows


def _lines(file: IO[bytes]) -> Iterator[list[str]]:
    """Lines, as many at a time as a batch has rows."""
    lines: list[str] = []
    rest, size = "", 0
    for piece in _text(file):
        *whole, rest = (rest + piece).split("\n")
        lines += whole
        size += len(piece)
        while len(lines) >= ROWS or size > _BATCH_TEXT:
            yield lines[:ROWS]
            lines, size = lines[ROWS:], 0
        if len(rest) > LONGEST_ROW:
            raise Invalid("file", f"has a line of more than {LONGEST_ROW} characters")
    yield [*lines, rest] if rest else lines


def _json(file: IO[bytes], layout: Columns) -> Iterator[Batch]:
    rows: list[Row] = []
    broken: dict[int, tuple[str, str]] = {}
    first, size = 1, 0
    for row, length in _items(file):
        if type(row) is not dict:
            broken[len(rows)] = "", f"is {_kind(row)}, a row is an object"
        rows.append({} if len(rows) in broken else row)
        size += length
        if len(rows) == ROWS or size > _BATCH_TEXT:
            yield from _objects(rows, first, (), broken, layout)
            first, size = first + len(rows), 0
            rows, broken = [], {}
    yield from _objects(rows, first, (), broken, layout)


def _items(file: IO[bytes]) -> Iterator[tuple[Any, int]]:
    """The items of a JSON list and their lengths in characters, read piece by piece."""
    decode = json.JSONDecoder().raw_decode
    pieces = _text(file)
    text, at, number = "", 0, 0

    def more() -> bool:
        """Reads on, dropping what was taken; False at the end of the file."""
        nonlocal text, at
        piece = next(pieces, None)
        text, at = text[at:] + (piece or ""), 0
        if len(text) > LONGEST_ROW + _PIECE:
            raise Invalid("file", f"row {number + 1} has more than {LONGEST_ROW} characters, or is not JSON")
        return piece is not None

    def after_blanks() -> str:
        """The next character that is no blank; empty at the end."""
        nonlocal at
        while True:
            while at < len(text) and text[at] in _BLANK:
                at += 1
            if at < len(text):
                return text[at]
            if not more():
                return ""

    if after_blanks() != "[":
        raise Invalid("file", "is not a JSON list of rows: it does not begin with '['")
    at += 1
    if after_blanks() == "]":
        at += 1
    else:
        while True:
            after_blanks()
            try:
                item, end = decode(text, at)
                # A number may go on in the next piece.
                complete = end < len(text)
            except (ValueError, RecursionError) as error:
                item, end, complete = error, at, False
            if not complete and more():
                continue
            if isinstance(item, ValueError | RecursionError):
                raise Invalid("file", f"is not JSON from row {number + 1} on: {_reason(item)}")
            yield item, end - at
            at, number = end, number + 1
            mark = after_blanks()
            at += 1
            if mark == "]":
                break
            if mark != ",":
                found = repr(mark) if mark else "the end of the file"
                raise Invalid("file", f"is not JSON: after row {number} comes {found}, needed is ',' or ']'")
    if after_blanks():
        raise Invalid("file", f"is not JSON: more follows after the list of {number} rows")


def _objects(
    rows: Sequence[Row],
    first: int,
    lines: Sequence[int],
    broken: Mapping[int, tuple[str, str]],
    layout: Columns,
) -> Iterator[Batch]:
    """Objects as columns."""
    if not rows:
        return
    names = set(chain.from_iterable(rows))
    if len(names) * len(rows) > 4 * _CELLS and len(rows) > 1:
        # Rows with many different fields: fewer at a time.
        half = len(rows) // 2
        later = {index - half: said for index, said in broken.items() if index >= half}
        sooner = {index: said for index, said in broken.items() if index < half}
        yield from _objects(rows[:half], first, lines[:half], sooner, layout)
        yield from _objects(rows[half:], first + half, lines[half:], later, layout)
        return
    read, unknown = layout.resolve(names)
    found = dict(broken)
    for name in sorted(unknown):
        for index, row in enumerate(rows):
            if name in row and index not in found:
                found[index] = name, layout.unknown(name)
    columns = {target: _column(rows, source) for target, source in read.items()}
    yield Batch(first, len(rows), columns, lines, found)


def _column(rows: Sequence[Row], name: str) -> list[Any]:
    try:
        return list(map(itemgetter(name), rows))
    except KeyError:
        return [row.get(name) for row in rows]


# ---------------------------------------------------------------------- CSV


def _csv(file: IO[bytes], layout: Columns) -> Iterator[Batch]:
    text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
    try:
        csv.field_size_limit(LONGEST_ROW)
        yield from _csv_rows(csv.reader(text, strict=True), layout)
    finally:
        text.detach()


def _csv_rows(reader: Any, layout: Columns) -> Iterator[Batch]:
    try:
        header: list[str] = next(reader, [])
    except csv.Error as error:
        raise Invalid("file", f"has a header that is not CSV: {error}") from error
    if not header:
        raise Invalid("file", "is empty: a CSV begins with a line of column names")
    for index, name in enumerate(header, 1):
        if not name or not _is_unicode(name):
            raise Invalid("columns", f"the name of column {index} is {'empty' if not name else 'not UTF-8'}")
    read = layout.resolve_header(header)
    width = len(header)
    order = {name: place for place, name in enumerate(header)}
    places = [order[source] for source in read.values()]
    # Always a tuple, also of one.
    pick = itemgetter(*places) if len(places) > 1 else lambda cells: (cells[places[0]],)
    nothing = (None,) * len(places)
    most = max(16, min(ROWS, _CELLS // len(places)))
    first, line = 1, reader.line_num
    rows: list[tuple[Any, ...]] = []
    lines: list[int] = []
    broken: dict[int, tuple[str, str]] = {}

    def batch() -> Batch:
        columns = {
            target: [cell or None for cell in cells] if "" in cells else cells
            for target, cells in zip(read, zip(*rows, strict=True), strict=True)
        }
        return Batch(first, len(rows), columns, lines, broken, texts=True)

    while True:
        try:
            cells = next(reader, None)
            if cells is None:
                break
            if len(cells) == width:
                rows.append(pick(cells))
            elif cells:
                broken[len(rows)] = "", f"has {len(cells)} cells, the header has {width}"
                rows.append(nothing)
        except csv.Error as error:
            broken[len(rows)] = "", f"is not CSV: {error}"
            rows.append(nothing)
        if len(lines) < len(rows):
            lines.append(line + 1)
        line = reader.line_num
        if len(rows) == most:
            yield batch()
            first += len(rows)
            rows, lines, broken = [], [], {}
    if rows:
        yield batch()


# ---------------------------------------------------------------------- Parquet


def _parquet(file: IO[bytes], layout: Columns) -> Iterator[Batch]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(file, buffer_size=_PIECE, pre_buffer=False)
        names = list(table.schema_arrow.names)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise Invalid("file", f"is not Parquet: {_sentence(error)}") from error
    read = layout.resolve_header(names)
    sources = sorted(set(read.values()))
    most = max(16, min(ROWS, _CELLS // len(sources)))
    first = 1
    try:
        for some in table.iter_batches(batch_size=most, columns=sources, use_threads=False):
            found = {source: _values(pa, some.column(some.schema.get_field_index(source))) for source in sources}
            yield Batch(first, len(some), {target: found[source] for target, source in read.items()})
            first += len(some)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise Invalid("file", f"cannot be read from row {first} on: {_sentence(error)}") from error


def _values(pa: Any, column: Any) -> list[Any]:
    """A column as Python values that the other formats have too."""
    kind = column.type
    if pa.types.is_decimal(kind):
        column = column.cast(pa.float64())
    elif pa.types.is_timestamp(kind) and kind.unit == "ns":
        column = column.cast(pa.timestamp("us", tz=kind.tz), safe=False)
    values: list[Any] = column.to_pylist()
    if pa.types.is_struct(kind):
        # A struct has every field in every row; those without a value are not there.
        return [None if v is None else {name: each for name, each in v.items() if each is not None} for v in values]
    return values


# ---------------------------------------------------------------------- shared


def _text(file: IO[bytes]) -> Iterator[str]:
    """Text in pieces. Bytes that are no UTF-8 become lone surrogates, which no value may hold."""
    decoder = codecs.getincrementaldecoder("utf-8-sig")("surrogateescape")
    while piece := file.read(_PIECE):
        yield decoder.decode(piece)
    yield decoder.decode(b"", True)


def _is_unicode(text: str) -> bool:
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at character {error.pos + 1}"
    return "it is nested too deeply" if isinstance(error, RecursionError) else str(error)


def _sentence(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _kind(value: Any) -> str:
    kinds = {list: "a list", str: "a text", int: "a number", float: "a number", bool: "a boolean"}
    return kinds.get(type(value), "null")


_READERS: Mapping[TableFormat, Callable[[IO[bytes], Columns], Iterator[Batch]]] = {
    "ndjson": _ndjson,
    "json": _json,
    "csv": _csv,
    "parquet": _parquet,
}
