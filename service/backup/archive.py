"""The file of a backup: a zip archive of a manifest, the database, and the artifacts by their digests.

A zip rather than a tar: its directory stands at the end, so one that was cut is seen at once; the manifest is written
last, when all digests are known, and read first; members are read by their names, and are never links or devices.
Nothing is ever extracted to a name that an archive gives: what the manifest does not name refuses the whole file.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Final, Literal

from pydantic import Field, ValidationError

from service.core.errors import Conflict, Invalid
from service.db.artifacts import sync_folder
from service.wire.base import Digest, Wire

FORMAT: Final = "frontier-backup"
MANIFEST = "manifest.json"
ARTIFACTS = "artifacts/"
DATABASES = {"sqlite": "database.sqlite", "postgresql": "database.pgdump"}
"""Dialect → the member that holds the database: the SQLite file, or what ``pg_dump --format=custom`` wrote."""

_CHUNK = 1 << 20
_LARGEST_MANIFEST = 1 << 28
_FIRST_YEAR = 1980

Report = Callable[[str, int, int | None], None]
"""Told what is being done, the bytes that are done, and those there are in all where that is known."""


class Member(Wire):
    """What a file of the archive holds."""

    size: int = Field(ge=0)
    sha256: Digest


class Manifest(Wire):
    """What a backup is. ``events``: number of the newest event in it. ``absent``: artifacts that it should hold and
    does not, because they were not there, or not whole, when it was made."""

    format: Literal["frontier-backup"] = FORMAT
    version: Literal[1] = 1
    release: str
    revision: str
    dialect: Literal["sqlite", "postgresql"]
    tool: str
    created_at: datetime
    events: int = Field(ge=0)
    database: Member
    artifacts: dict[Digest, int]
    absent: list[Digest]

    @property
    def members(self) -> dict[str, Member]:
        """Name → content of every file but the manifest."""
        files = {f"{ARTIFACTS}{each}": Member(size=size, sha256=each) for each, size in self.artifacts.items()}
        return {DATABASES[self.dialect]: self.database, **files}


# ---------------------------------------------------------------------- writing


class Writer:
    """Adds files to a new archive."""

    def __init__(self, archive: zipfile.ZipFile, created_at: datetime) -> None:
        self._archive = archive
        self._date = (max(created_at.year, _FIRST_YEAR), *created_at.timetuple()[1:6])

    def add(self, name: str, chunks: Iterable[bytes], *, compress: bool = False) -> Member:
        """Writes one file, as its bytes come."""
        info = zipfile.ZipInfo(name, self._date)
        info.compress_type = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
        info.external_attr = 0o600 << 16
        content, size = hashlib.sha256(), 0
        with self._archive.open(info, "w", force_zip64=True) as member:
            for chunk in chunks:
                member.write(chunk)
                content.update(chunk)
                size += len(chunk)
        return Member(size=size, sha256=content.hexdigest())


@contextmanager
def written(file: Path, created_at: datetime, *, force: bool) -> Iterator[Writer]:
    """A new archive in the place of ``file``, which is there whole at the end of the block, or not at all.

    Raises `Conflict` if the file is there and ``force`` is not given, or another backup writes it at this moment.
    """
    if file.exists() and not force:
        raise Conflict(f"{file} exists: name another file, or say --force to replace it")
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f"{file.name}.part")
    # It holds hashes of keys. What was left by a backup that was killed is overwritten.
    handle = os.open(part, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    with os.fdopen(handle, "r+b") as output:
        os.fchmod(handle, 0o600)
        if not _locked(handle, part):
            raise Conflict(f"another backup is being written to {part}")
        try:
            output.truncate()
            # Level 1: a database shrinks to nearly as little as at higher ones, several times as fast.
            with zipfile.ZipFile(output, "w", compresslevel=1) as archive:
                yield Writer(archive, created_at)
            output.flush()
            os.fsync(output.fileno())
            part.replace(file)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
    sync_folder(file.parent)


def _locked(handle: int, part: Path) -> bool:
    """Locks an open file for its writer, if it still is the one of that name: another may just have completed it."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(handle), part.stat())
    except (BlockingIOError, FileNotFoundError):
        return False


def chunks_of(file: Path) -> Iterator[bytes]:
    """The bytes of a file."""
    with file.open("rb") as opened:
        while chunk := opened.read(_CHUNK):
            yield chunk


# ---------------------------------------------------------------------- reading


class Reader:
    """An archive whose manifest can be read, and that holds exactly what the manifest names."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self.manifest = _manifest(archive)
        names = Counter(archive.namelist())
        expected = {MANIFEST, *self.manifest.members}
        surplus = sorted(name for name, times in names.items() if name not in expected or times > 1)
        if surplus:
            raise Invalid("file", f"holds {surplus[0]!r}, which its manifest does not name (once): it is not used")
        if missing := sorted(expected - names.keys()):
            raise Invalid("file", f"is damaged: {missing[0]} is missing")

    def chunks(self, name: str) -> Iterator[bytes]:
        """The bytes of one of the manifest's files. Raises `Invalid` at the end if they are not what they were."""
        wanted = self.manifest.members[name]
        content, size = hashlib.sha256(), 0
        with _damage_told(name), self._archive.open(name) as member:
            while size <= wanted.size and (chunk := member.read(_CHUNK)):
                content.update(chunk)
                size += len(chunk)
                yield chunk
        if size != wanted.size or content.hexdigest() != wanted.sha256:
            raise Invalid("file", f"is damaged: {name} does not have the digest that the manifest gives")

    def verify(self, report: Report) -> None:
        """Reads everything once. Raises `Invalid` if anything is not what it was."""
        members = self.manifest.members
        done, total = 0, sum(each.size for each in members.values())
        for name in members:
            for chunk in self.chunks(name):
                done += len(chunk)
                report("checking the backup", done, total)


@contextmanager
def opened(file: Path) -> Iterator[Reader]:
    """The archive. Raises `Invalid` if it is none, is damaged, or holds anything besides what its manifest names."""
    with file.open("rb") as source:
        try:
            archive = zipfile.ZipFile(source)
        except zipfile.BadZipFile as error:
            raise Invalid("file", f"{file} is no backup, or was cut: {error}") from error
        with archive:
            yield Reader(archive)


def _manifest(archive: zipfile.ZipFile) -> Manifest:
    if MANIFEST not in archive.namelist():
        raise Invalid("file", f"is no backup: it has no {MANIFEST}")
    if archive.getinfo(MANIFEST).file_size > _LARGEST_MANIFEST:
        raise Invalid("file", f"is no backup: its {MANIFEST} is too large")
    try:
        with _damage_told(MANIFEST):
            found = json.loads(archive.read(MANIFEST))
    except ValueError as error:
        raise Invalid("file", f"is no backup: its {MANIFEST} is not JSON") from error
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise Invalid("file", f"is no backup: its {MANIFEST} does not say format {FORMAT!r}")
    if found.get("version") != 1:
        said = f"has version {found.get('version')!r} of the format, this release reads version 1"
        raise Invalid("file", f"{said}: release {found.get('release')!r} made it, restore it with that one")
    try:
        return Manifest.model_validate_json(json.dumps(found))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise Invalid("file", f"is damaged: {MANIFEST}, {place}: {first['msg']}") from error


@contextmanager
def _damage_told(name: str) -> Iterator[None]:
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise Invalid("file", f"is damaged: {name}: {error}") from error
