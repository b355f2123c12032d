"""Checked measurements on disk, in parts by key.

Keys are spread evenly, so a part holds about as much as any other, small enough for memory; and all measurements of
an architecture are in one. Written part by part in the order of keys, neighbours in the database's indexes come
together: on a large database that is several times faster than the order of a file.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, TypeAlias, final

import numpy as np
from numpy.typing import NDArray

Records: TypeAlias = NDArray[np.void]
"""See `record_type`."""

LARGEST_PARTS = 256


def record_type(width: int) -> np.dtype[np.void]:
    """One measurement of an architecture of ``width`` choices.

    ``hi`` and ``lo``: the key. ``row``: of the file, from 1. ``metric``, ``context``, ``worker``: numbers in the lists
    of `Rows`; no worker is -1. ``attempt``: -1 where the row does not say. ``created``: microseconds since 1970; -1
    where the row does not say.
    """
    return np.dtype(
        [
            ("hi", np.uint64),
            ("lo", np.uint64),
            ("row", np.int64),
            ("created", np.int64),
            ("value", np.float64),
            ("seconds", np.float64),
            ("metric", np.int32),
            ("context", np.int32),
            ("worker", np.int32),
            ("attempt", np.int32),
            ("genes", np.int8, (width,)),
        ]
    )


def split_keys(keys: Sequence[str]) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Keys in hex as two halves, (n,) each."""
    halves = np.frombuffer(bytes.fromhex("".join(keys)), dtype=">u8").reshape(-1, 2).astype(np.uint64)
    return halves[:, 0], halves[:, 1]


def join_keys(records: Records) -> list[str]:
    """The keys of records, in hex."""
    text = np.stack([records["hi"], records["lo"]], axis=1).astype(">u8").tobytes().hex()
    return [text[start : start + 32] for start in range(0, len(text), 32)]


def ordered(records: Records) -> Records:
    """Records by key, metric and context; there those with an attempt first, else in the order of the file.

    Rows that name an attempt take it; the others take what is left.
    """
    names = ("row", "attempt", "context", "metric", "lo", "hi")
    columns = [records["attempt"] < 0 if name == "attempt" else records[name] for name in names]
    return records[np.lexsort(columns)]


@final
class Spool:
    """Records in ``parts`` (a power of two) nameless files in ``folder``: nothing is left behind, whatever happens."""

    def __init__(self, folder: Path, width: int, parts: int) -> None:
        self._folder = folder
        self._type = record_type(width)
        self._bits = parts.bit_length() - 1
        self._files: dict[int, IO[bytes]] = {}
        self.count = 0

    @staticmethod
    def parts_for(size: int, packed: bool) -> int:
        """How many parts a file of ``size`` bytes wants, ``packed`` if it is compressed."""
        wanted = max(1, (size * (4 if packed else 1)) >> 23)
        return min(LARGEST_PARTS, 1 << (wanted - 1).bit_length())

    def add(self, records: Records) -> None:
        """Appends records."""
        self.count += len(records)
        if not self._bits:
            self._append(0, records)
            return
        part = (records["hi"] >> np.uint64(64 - self._bits)).astype(np.int64)
        order = np.argsort(part, kind="stable")
        edges = np.searchsorted(part[order], np.arange((1 << self._bits) + 1))
        for number, (start, end) in enumerate(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)):
            if end > start:
                self._append(number, records[order[start:end]])

    def parts(self) -> Iterator[int]:
        """The parts that hold anything, in the order of their keys."""
        yield from sorted(self._files)

    def read(self, part: int) -> Records:
        """All records of a part."""
        file = self._files[part]
        file.seek(0)
        records: Records = np.frombuffer(file.read(), dtype=self._type)
        return records

    def replace(self, part: int, records: Records) -> None:
        """Puts other records in the place of a part's."""
        file = self._files[part]
        self.count += len(records) - file.seek(0, 2) // self._type.itemsize
        file.seek(0)
        file.truncate()
        file.write(records.tobytes())

    def close(self) -> None:
        """Drops everything."""
        for file in self._files.values():
            file.close()
        self._files.clear()

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def _append(self, part: int, records: Records) -> None:
        if part not in self._files:
            self._files[part] = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 - `close` closes it
        self._files[part].write(records.tobytes())
