"""Files of measurements: their formats, and sending and receiving them."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from service.wire.exchange import TableFormat

SUFFIXES: dict[str, TableFormat] = {
    ".ndjson": "ndjson",
    ".jsonl": "ndjson",
    ".json": "json",
    ".csv": "csv",
    ".parquet": "parquet",
}

_PIECE = 2**20


def format_of(path: Path) -> TableFormat | None:
    """The format that a file's name says; None if it says none."""
    return SUFFIXES.get(path.suffix.lower())


@contextmanager
def readable(file: Path | IO[bytes]) -> Iterator[IO[bytes]]:
    """The file, to be read again and again: a request that breaks is made anew."""
    if isinstance(file, Path):
        with file.open("rb") as opened:
            yield opened
    elif file.seekable():
        yield file
    else:
        with tempfile.TemporaryFile() as copy:
            shutil.copyfileobj(file, copy)
            yield copy


def pieces(file: IO[bytes], on_sent: Callable[[int], None] | None = None) -> Iterator[bytes]:
    """The file from its beginning; ``on_sent`` gets the number of bytes sent so far."""
    file.seek(0)
    while piece := file.read(_PIECE):
        yield piece
        if on_sent is not None:
            on_sent(file.tell())


@contextmanager
def appearing(path: Path) -> Iterator[IO[bytes]]:
    """A file to write that appears at ``path`` when it is whole, or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
        temporary.chmod(0o644)  # temporary files are private; this one is to be used like any other
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
