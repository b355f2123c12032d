"""Files kept by their SHA-256: the store on disk, and what the database knows of it."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.core.errors import Invalid, NotFound
from service.db.rows import insert_new
from service.db.tables import Artifact, now
from service.wire.studies import ArtifactOut


class ArtifactStore:
    """A folder of content-addressed files. A file is there whole or not at all, also after a power cut."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def folder(self) -> Path:
        """Where the files are: for other processes."""
        return self._folder

    def put(self, chunks: Iterable[bytes], expected: str | None = None) -> tuple[str, int]:
        """Stores the bytes; returns their digest and number.

        Raises `Invalid` for the field ``digest`` if they do not have the expected one; then nothing is kept.
        """
        incoming = self._folder / "incoming"
        incoming.mkdir(parents=True, exist_ok=True)
        content, size = hashlib.sha256(), 0
        handle, name = tempfile.mkstemp(dir=incoming)
        temporary = Path(name)
        try:
            with os.fdopen(handle, "wb") as file:
                for chunk in chunks:
                    content.update(chunk)
                    size += file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
            digest = content.hexdigest()
            if expected is not None and digest != expected:
                raise Invalid("digest", f"the content has digest {digest}, announced was {expected}")
            place = self._place(digest)
            place.parent.mkdir(parents=True, exist_ok=True)
            temporary.replace(place)
            sync_folder(place.parent)
        finally:
            temporary.unlink(missing_ok=True)
        return digest, size

    def path(self, digest: str) -> Path:
        """Where the file lies, or `NotFound`."""
        place = self._place(digest)
        if not place.is_file():
            raise NotFound("artifact", digest)
        return place

    def has(self, digest: str) -> bool:
        """Whether the file is there."""
        return self._place(digest).is_file()

    def read(self, digest: str) -> bytes:
        """The whole file, or `NotFound`."""
        return self.path(digest).read_bytes()

    def _place(self, digest: str) -> Path:
        # Digests come from outside: nothing but hex may become a path.
        if len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
            raise NotFound("artifact", digest)
        return self._folder / digest[:2] / digest


def register(s: Session, digest: str, size: int) -> ArtifactOut:
    """Records a stored file; a second time changes nothing."""
    insert_new(s, Artifact, [{"digest": digest, "size": size, "created_at": now()}])
    return get(s, digest)


def get(s: Session, digest: str) -> ArtifactOut:
    """What is known of a file, or `NotFound`."""
    found = s.get(Artifact, digest)
    if found is None:
        raise NotFound("artifact", digest)
    return ArtifactOut(digest=found.digest, size=found.size)


def missing(s: Session, digests: Iterable[str]) -> set[str]:
    """Those of the digests that were never uploaded."""
    wanted = set(digests)
    return wanted - set(s.scalars(select(Artifact.digest).where(Artifact.digest.in_(wanted))))


def digest_of(path: Path) -> str:
    """The SHA-256 of a file, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_folder(folder: Path) -> None:
    """Files that were renamed into the folder stay there after a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
