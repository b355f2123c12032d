"""What is wrong with a file: counted in full, listed in part."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from service.wire.exchange import RowError

LISTED = 100
"""Errors that are kept, the first by row."""

_LONGEST_MESSAGE = 500


@final
class Errors:
    """Errors of a file, in constant memory. They may come in any order."""

    def __init__(self) -> None:
        self.total = 0
        self._kept: list[tuple[int, int, str, str]] = []

    def add(self, row: int, field: str, message: str) -> None:
        """Notes an error of a row (from 1; 0 for the file as a whole)."""
        self.total += 1
        # The running number keeps errors of one row in the order in which they were found.
        self._kept.append((row, self.total, field, message))
        if len(self._kept) > 10 * LISTED:
            self._kept = sorted(self._kept)[:LISTED]

    def first(self) -> list[RowError]:
        """The first `LISTED` by row."""
        return [
            RowError(row=row, field=_storable(field), message=_storable(message))
            for row, _, field, message in sorted(self._kept)[:LISTED]
        ]


def describe(errors: Sequence[RowError], total: int) -> str:
    """Errors in one sentence: the first one, and how many there are besides."""
    first = errors[0]
    where = f"row {first.row}, {first.field}" if first.row and first.field else f"row {first.row}"
    more = f" (and {total - 1} more)" if total > 1 else ""
    return f"{where if first.row else first.field}: {first.message}{more}"


def _storable(text: str) -> str:
    """The text without what cannot be stored or sent: names and values in it come from the file."""
    text = text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")
    return text if len(text) <= _LONGEST_MESSAGE else f"{text[:_LONGEST_MESSAGE]}…"
