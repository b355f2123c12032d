"""Makes backups, while API, controllers and workers go on."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from service.backup import postgresql
from service.backup.archive import ARTIFACTS, DATABASES, MANIFEST, Manifest, Member, Report, Writer, chunks_of, written
from service.core.errors import NotFound
from service.db import snapshots
from service.db.artifacts import ArtifactStore, digest_of
from service.db.session import Database
from service.db.tables import now


@dataclass(frozen=True, slots=True)
class Made:
    """A backup that was written: what it holds, and how large its file is."""

    manifest: Manifest
    size: int


def make(
    database: Database,
    store: ArtifactStore,
    file: Path,
    *,
    release: str,
    force: bool = False,
    programs: Path | None = None,
    report: Report = lambda _what, _done, _total: None,
) -> Made:
    """Writes the database, as it is at one moment, and the artifacts that it knows by then, to ``file``.

    Artifacts are never rewritten nor removed, so they are read after that moment. ``programs``: the folder of
    ``pg_dump``; the PATH if None. Raises `Conflict` if the file is there and ``force`` is not given, for a database
    without a schema or with a newer one than this release knows, and if ``pg_dump`` fails; `Unavailable` without a
    ``pg_dump`` that is new enough.
    """
    with written(file, created := now(), force=force) as writer:
        taken = _SAVED[database.dialect](writer, database, file.parent, programs, report)
        absent = _add_artifacts(writer, store, taken.held, report)
        manifest = Manifest(
            release=release,
            revision=taken.held.revision,
            dialect="sqlite" if database.dialect == "sqlite" else "postgresql",
            tool=taken.tool,
            created_at=created,
            events=taken.held.events,
            database=taken.stored,
            artifacts={digest: size for digest, size in taken.held.artifacts.items() if digest not in absent},
            absent=sorted(absent),
        )
        writer.add(MANIFEST, [manifest.model_dump_json(indent=1).encode()])
    return Made(manifest, file.stat().st_size)


@dataclass(frozen=True, slots=True)
class _Taken:
    """A database in the archive: what goes with it, the program that read it, and the file that holds it."""

    held: snapshots.Contents
    tool: str
    stored: Member


def _save_sqlite(writer: Writer, database: Database, folder: Path, _programs: Path | None, report: Report) -> _Taken:
    # Beside the archive: there is room for it, and for nothing larger elsewhere.
    with tempfile.TemporaryDirectory(dir=folder, prefix=".backup-") as scratch:
        copy = Path(scratch) / "copy"
        with database.read() as s:
            held = snapshots.contents(s)
            snapshots.copy_sqlite(s, copy, lambda done, total: report("copying the database", done, total))
        # The snapshot is over: while it is open, SQLite's log beside the file only grows.
        chunks = _told(chunks_of(copy), report, copy.stat().st_size)
        return _Taken(held, f"SQLite {sqlite3.sqlite_version}", writer.add(DATABASES["sqlite"], chunks, compress=True))


def _save_postgresql(
    writer: Writer, database: Database, _folder: Path, programs: Path | None, report: Report
) -> _Taken:
    with database.read() as s:
        held = snapshots.contents(s)
        tool = postgresql.find("pg_dump", programs, snapshots.postgresql_version(s), "the server of")
        chunks = _told(postgresql.dump(tool, database.url, snapshots.share_postgresql(s)), report)
        return _Taken(held, tool.said, writer.add(DATABASES["postgresql"], chunks))


_SAVED = {"sqlite": _save_sqlite, "postgresql": _save_postgresql}


def _told(chunks: Iterator[bytes], report: Report, total: int | None = None) -> Iterator[bytes]:
    done = 0
    for chunk in chunks:
        yield chunk
        done += len(chunk)
        report("writing the database", done, total)


def _add_artifacts(writer: Writer, store: ArtifactStore, held: snapshots.Contents, report: Report) -> set[str]:
    """Writes those that are there and whole; the others' digests are returned."""
    absent: set[str] = set()
    done, total = 0, sum(held.artifacts.values())
    for digest, size in held.artifacts.items():
        try:
            path = store.path(digest)
        except NotFound:
            absent.add(digest)
        else:
            if path.stat().st_size == size and digest_of(path) == digest:
                writer.add(f"{ARTIFACTS}{digest}", chunks_of(path))
            else:
                absent.add(digest)
        done += size
        report("writing artifacts", done, total)
    return absent
