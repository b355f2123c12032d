"""Measurements in and out as files: what an import answers, and what its job is told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from service.wire.base import Digest, Wire

TableFormat = Literal["ndjson", "json", "csv", "parquet"]
ExportFormat = Literal["ndjson", "csv", "parquet"]

MEDIA_TYPES: Mapping[TableFormat, str] = {
    "ndjson": "application/x-ndjson",
    "json": "application/json",
    "csv": "text/csv",
    "parquet": "application/vnd.apache.parquet",
}


class RowError(Wire):
    """One thing that is wrong with an imported file."""

    row: int = Field(ge=0, description="Number of the data row, from 1; 0 if it is the file as a whole.")
    field: str = Field(description="Field or column of the row; empty if it is the row as a whole.")
    message: str = Field(description="What is wrong and what would be right.")


class ImportOut(Wire):
    """What became of an imported file."""

    rows: int = Field(description="Data rows of the file.")
    new: int = Field(description="Measurements that were stored: a row holds one for each of its metrics.")
    unchanged: int = Field(description="Measurements that were there already.")
    skipped: int = Field(description="Rows that were left out because something is wrong with them.")
    errors: list[RowError] = Field(description="What is wrong, the first 100 by row.")
    errors_total: int = Field(description="How much is wrong in all.")


class ImportPayload(Wire):
    """What a job of kind `import` is about: a stored file, and how it is read."""

    artifact: Digest = Field(description="SHA-256 of the file.")
    format: TableFormat = Field(description="Format of the file.")
    skip_bad: bool = Field(description="Whether rows with errors are left out instead of refusing the file.")
    columns: dict[str, str] = Field(default_factory=dict, description="Field → column of the file it is read from.")
    metrics: dict[str, str] = Field(default_factory=dict, description="Metric → column of the file it is read from.")
