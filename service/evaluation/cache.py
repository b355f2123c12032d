"""A folder of artifacts on a worker's machine: each file is named by its SHA-256, and checked against it."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import final

_PIECE = 2**20


@final
class ArtifactCache:
    """Several workers may share the folder: files appear whole, and the least recently used go first.

    Args:
        folder: made if it is missing.
        limit_bytes: files beyond it are removed; one file may be larger than that, it is then alone.
        fetch: writes the artifact of a digest to a path, whole or not at all.
    """

    def __init__(self, folder: Path, limit_bytes: int, fetch: Callable[[str, Path], object]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._limit, self._fetch = folder, limit_bytes, fetch
        self._checked: set[str] = set()

    def get(self, digest: str) -> Path:
        """The file, fetched if it is not here or is damaged. Raises what ``fetch`` raises."""
        path = self._folder / digest
        if not self._sound(digest, path):
            self._fetch(digest, path)
            self._checked.add(digest)
            self._shrink(path)
        try:
            os.utime(path)
        except FileNotFoundError:
            # Another worker has just removed it: fetch it once more.
            self._fetch(digest, path)
        return path

    def put(self, data: bytes) -> str:
        """Keeps a copy of bytes that this worker made; returns their digest."""
        digest = hashlib.sha256(data).hexdigest()
        path = self._folder / digest
        if not self._sound(digest, path):
            handle, name = tempfile.mkstemp(dir=self._folder, prefix=".put-")
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(data)
                Path(name).replace(path)
            finally:
                Path(name).unlink(missing_ok=True)
            self._checked.add(digest)
            self._shrink(path)
        return digest

    def _sound(self, digest: str, path: Path) -> bool:
        """Whether the file is here and has this digest; read once per process."""
        if not path.is_file():
            return False
        if digest in self._checked:
            return True
        content = hashlib.sha256()
        with path.open("rb") as file:
            while piece := file.read(_PIECE):
                content.update(piece)
        if content.hexdigest() != digest:
            path.unlink(missing_ok=True)
            return False
        self._checked.add(digest)
        return True

    def _shrink(self, keep: Path) -> None:
        files = []
        for path in self._folder.iterdir():
            try:
                status = path.stat()
            except FileNotFoundError:
                continue
            if not path.name.startswith("."):
                files.append((status.st_mtime_ns, status.st_size, path))
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if total <= self._limit:
                break
            if path != keep:
                path.unlink(missing_ok=True)
                total -= size
