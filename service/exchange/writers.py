"""Measurements as NDJSON, CSV and Parquet, one row each, piece by piece in constant memory."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from search_spaces.space import Choice
from service.exchange.architectures import option_text
from service.exchange.layout import CONFIG
from service.wire.exchange import ExportFormat

_PIECE = 2**20
_SAID = ("metric", "value", "attempt", "seconds", "worker", "created_at")


@dataclass(frozen=True, slots=True)
class Line:
    """One measurement, as every format writes it."""

    key: str
    config: Mapping[str, Any]
    genes: Sequence[int]
    metric: str
    value: float
    attempt: int
    seconds: float
    worker: str | None
    created_at: datetime
    context: Mapping[str, Any]


def write(
    kind: ExportFormat, batches: Iterable[Sequence[Line]], choices: Sequence[Choice], folder: Path
) -> Iterator[bytes]:
    """The bytes of a file. Parquet is put together in a nameless file in ``folder`` first."""
    return _WRITERS[kind](batches, choices, folder)


def _ndjson(batches: Iterable[Sequence[Line]], choices: Sequence[Choice], folder: Path) -> Iterator[bytes]:
    encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False, ensure_ascii=False).encode
    for lines in batches:
        yield "".join(
            encode(
                {
                    "key": line.key,
                    "config": line.config,
                    "genes": line.genes,
                    "metric": line.metric,
                    "value": line.value,
                    "attempt": line.attempt,
                    "seconds": line.seconds,
                    "worker": line.worker,
                    "created_at": _time(line.created_at),
                    "context": line.context,
                }
            )
            + "\n"
            for line in lines
        ).encode()


def _csv(batches: Iterable[Sequence[Line]], choices: Sequence[Choice], folder: Path) -> Iterator[bytes]:
    names = [choice.name for choice in choices]
    texts = [{option: option_text(option) for option in choice.options} for choice in choices]
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(["key", *(CONFIG + name for name in names), "genes", *_SAID, "context"])
    for lines in batches:
        for line in lines:
            config = line.config
            chosen = [text[config[name]] if name in config else "" for name, text in zip(names, texts, strict=True)]
            said = [line.metric, repr(line.value), line.attempt, repr(line.seconds), line.worker or ""]
            genes = json.dumps(line.genes, separators=(",", ":"))
            writer.writerow([line.key, *chosen, genes, *said, _time(line.created_at), _dumps(line.context)])
        yield buffer.getvalue().encode()
        buffer.seek(0)
        buffer.truncate()
    yield buffer.getvalue().encode()


def _parquet(batches: Iterable[Sequence[Line]], choices: Sequence[Choice], folder: Path) -> Iterator[bytes]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema(
        [
            ("key", pa.string()),
            ("config", pa.string()),
            ("genes", pa.list_(pa.int8())),
            ("metric", pa.string()),
            ("value", pa.float64()),
            ("attempt", pa.int32()),
            ("seconds", pa.float64()),
            ("worker", pa.string()),
            ("created_at", pa.timestamp("us", tz="UTC")),
            ("context", pa.string()),
        ]
    )
    with tempfile.TemporaryFile(dir=folder) as file:
        with pq.ParquetWriter(file, schema, compression="zstd") as table:
            for lines in batches:
                columns: dict[str, list[Any]] = {name: [getattr(each, name) for each in lines] for name in schema.names}
                for name in ("config", "context"):
                    columns[name] = [_dumps(each) for each in columns[name]]
                table.write_table(pa.table(columns, schema=schema))
        file.seek(0)
        while piece := file.read(_PIECE):
            yield piece


def _dumps(value: Mapping[str, Any]) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def _time(value: datetime) -> str:
    return value.isoformat().replace("+00:00", "Z")


_WRITERS: Mapping[ExportFormat, Callable[[Iterable[Sequence[Line]], Sequence[Choice], Path], Iterator[bytes]]] = {
    "ndjson": _ndjson,
    "csv": _csv,
    "parquet": _parquet,
}
