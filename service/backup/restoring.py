"""Puts backups back: everything is checked before anything is written, and the database is written last."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from sqlalchemy import make_url

from service.backup import postgresql
from service.backup.archive import ARTIFACTS, DATABASES, Manifest, Reader, Report, opened
from service.core.errors import Conflict, Invalid
from service.db import snapshots
from service.db.artifacts import ArtifactStore, sync_folder
from service.db.session import Database, known_revisions, newest_revision


def restore(
    file: Path,
    url: str,
    store: ArtifactStore,
    *,
    programs: Path | None = None,
    report: Report = lambda _what, _done, _total: None,
) -> Manifest:
    """Puts a backup into the empty database of ``url`` and its artifacts into the store; returns what was in it.

    The schema is brought to this release's, and the events get numbers that nobody was given before. An error
    before the database is written leaves it empty; artifacts that were written by then do no harm, so it can be tried
    again. On SQLite nothing else is possible; on PostgreSQL an upgrade that fails leaves the schema of the backup.
    ``programs``: the folder of ``pg_restore``; the PATH if None.

    Raises `Invalid` for a file that is no backup, is damaged, or is of a newer release or another kind of database,
    `Conflict` if the database is not empty, `Unavailable` without a ``pg_restore`` that is new enough.
    """
    with opened(file) as backup:
        manifest = backup.manifest
        _refuse_foreign(manifest, make_url(url).get_backend_name())
        put_back = _Sqlite(url) if manifest.dialect == "sqlite" else _Postgresql(url, manifest, programs)
        backup.verify(report)
        done, total = 0, sum(manifest.artifacts.values())
        for digest, size in manifest.artifacts.items():
            store.put(backup.chunks(f"{ARTIFACTS}{digest}"), digest)
            done += size
            report("writing artifacts", done, total)
        report("writing the database", 0, None)
        put_back.write(backup)
    return manifest


def _refuse_foreign(manifest: Manifest, dialect: str) -> None:
    if manifest.revision not in known_revisions():
        raise Invalid(
            "file",
            f"has schema {manifest.revision}, which this release does not know (its newest is {newest_revision()}): "
            f"the newer release {manifest.release} made it, restore it with that one",
        )
    if manifest.dialect != dialect:
        raise Invalid(
            "file",
            f"is of a database on {manifest.dialect}, and is restored into one on {manifest.dialect}; this one is on "
            f"{dialect}. Measurements go from one to the other by `frontier export` and `frontier import`",
        )


class _Sqlite:
    """Prepares the database beside its place, and moves it there when it is whole and upgraded."""

    def __init__(self, url: str) -> None:
        self._url = make_url(url)
        if not self._url.database or self._url.database == ":memory:":
            raise Invalid("database_url", "names no file that a backup could be restored to")
        self._place = Path(self._url.database)
        if self._place.exists():
            _refuse_taken(url, f"move {self._place} away")
        for suffix in ("-wal", "-shm", "-journal"):
            beside = self._place.with_name(self._place.name + suffix)
            if beside.exists():
                raise Conflict(f"{beside} lies there: stop who uses {self._place}, or move both away")

    def write(self, backup: Reader) -> None:
        self._place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self._place.parent, prefix=".restore-") as scratch:
            prepared = Path(scratch) / self._place.name
            with prepared.open("xb") as output:
                for chunk in backup.chunks(DATABASES["sqlite"]):
                    output.write(chunk)
            _make_current(self._url.set(database=str(prepared)).render_as_string(hide_password=False), backup.manifest)
            with prepared.open("rb") as whole:
                os.fsync(whole.fileno())
            prepared.replace(self._place)
        sync_folder(self._place.parent)


class _Postgresql:
    """``pg_restore`` in one transaction, and the upgrade of the schema in another."""

    def __init__(self, url: str, manifest: Manifest, programs: Path | None) -> None:
        self._url = url
        made_by = postgresql.major(manifest.tool)
        self._tool = postgresql.find("pg_restore", programs, made_by, "the backup was made by one of")
        _refuse_taken(url, "make a new one, for example with createdb")

    def write(self, backup: Reader) -> None:
        postgresql.load(self._tool, self._url, backup.chunks(DATABASES["postgresql"]))
        _make_current(self._url, backup.manifest)


def _refuse_taken(url: str, remedy: str) -> None:
    database = Database(url)
    try:
        found = snapshots.tables(database)
    finally:
        database.dispose()
    if found:
        raise Conflict(f"the database is not empty: it has {len(found)} tables ({found[0]}, ...); {remedy}")


def _make_current(url: str, manifest: Manifest) -> None:
    database = Database(url)
    try:
        found = database.revision()
        if found != manifest.revision:
            raise Invalid("file", f"is damaged: its database has schema {found}, its manifest says {manifest.revision}")
        database.upgrade()
        with database.write() as s:
            snapshots.begin_anew(s)
    finally:
        database.dispose()
