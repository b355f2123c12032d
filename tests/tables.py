"""Tables of measurements for tests: the same rows in every format, and what a study holds."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq

FORMATS = ("ndjson", "json", "csv", "parquet")
EXPORTS = ("ndjson", "csv", "parquet")


def encode(kind: str, rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Rows as a file; what is no scalar is JSON in CSV and Parquet."""
    if kind == "ndjson":
        return "".join(json.dumps(row) + "\n" for row in rows).encode()
    if kind == "json":
        return json.dumps(list(rows)).encode()
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[_cell(row.get(name)) for name in names] for row in rows]
    if kind == "csv":
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(names)
        writer.writerows(["" if cell is None else cell for cell in row] for row in cells)
        return text.getvalue().encode()
    file = io.BytesIO()
    columns = {name: [row[place] for row in cells] for place, name in enumerate(names)}
    pq.write_table(pa.table(columns), file)
    return file.getvalue()


def _cell(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, dict | list) else value


def send(
    http: httpx.Client, content: bytes, kind: str = "ndjson", study: str = "study", **query: Any
) -> httpx.Response:
    """Imports a file."""
    return http.post(
        f"/v1/studies/{study}/measurements:import", content=content, params={"format": kind, **query}, timeout=120
    )


def imported(http: httpx.Client, content: bytes, kind: str = "ndjson", study: str = "study", **query: Any) -> Any:
    """What became of a file that is imported at once."""
    answer = send(http, content, kind, study, **query)
    assert answer.status_code == 200, answer.text
    return answer.json()


def exported(http: httpx.Client, kind: str = "ndjson", study: str = "study") -> bytes:
    """A study's measurements as a file."""
    answer = http.get(f"/v1/studies/{study}/measurements:export", params={"format": kind}).raise_for_status()
    return answer.content


def held(http: httpx.Client, study: str = "study") -> list[Any]:
    """A study's measurements."""
    return [json.loads(line) for line in exported(http, "ndjson", study).splitlines()]
