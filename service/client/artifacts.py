"""Files by their SHA-256, streamed both ways."""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, final

from service.client.errors import ApiError, ConnectionFailed, DigestMismatch, NotFound
from service.client.http import Http
from service.client.patience import passing, pause_s

_PIECE = 2**20


@final
class Artifacts:
    """Files by their SHA-256."""

    def __init__(self, http: Http) -> None:
        self._http = http

    def upload(self, content: bytes | Path) -> str:
        """Stores bytes or a file; returns the digest. What the server has already is not sent."""
        digest = _digest(content)
        if not self.has(digest):
            self._http.put(f"/v1/artifacts/{digest}", lambda: _pieces(content))
        return digest

    def has(self, digest: str) -> bool:
        """Whether the server has it."""
        try:
            self._http.send("HEAD", f"/v1/artifacts/{digest}")
        except NotFound:
            return False
        return True

    def read(self, digest: str) -> bytes:
        """The whole file, checked."""
        buffer = io.BytesIO()
        self._fetch(digest, buffer)
        return buffer.getvalue()

    def download(self, digest: str, path: Path) -> Path:
        """Fetches a file to ``path``, checked; it appears there whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        temporary = Path(name)
        try:
            with os.fdopen(handle, "wb") as file:
                self._fetch(digest, file)
            temporary.chmod(0o644)  # temporary files are private; this one is to be used like any other
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        return path

    def _fetch(self, digest: str, file: IO[bytes]) -> None:
        for number in range(1, self._http.tries + 1):
            file.seek(0)
            file.truncate()
            try:
                found = self._copy(digest, file)
            except (ConnectionFailed, ApiError) as error:
                if number == self._http.tries or not passing(error):
                    raise
                time.sleep(pause_s(number))
                continue
            if found != digest:
                raise DigestMismatch(f"artifact {digest} arrived with digest {found}")
            return

    def _copy(self, digest: str, file: IO[bytes]) -> str:
        content = hashlib.sha256()
        with self._http.stream(f"/v1/artifacts/{digest}") as response:
            for piece in response.iter_bytes(_PIECE):
                content.update(piece)
                file.write(piece)
        return content.hexdigest()


def _digest(content: bytes | Path) -> str:
    digest = hashlib.sha256()
    for piece in _pieces(content):
        digest.update(piece)
    return digest.hexdigest()


def _pieces(content: bytes | Path) -> Iterator[bytes]:
    with io.BytesIO(content) if isinstance(content, bytes) else content.open("rb") as file:
        while piece := file.read(_PIECE):
            yield piece
