"""PostgreSQL's own programs ``pg_dump`` and ``pg_restore``, as processes. Passwords go through the environment."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from psycopg.conninfo import make_conninfo
from sqlalchemy import make_url

from service.core.errors import Conflict, Unavailable

_CHUNK = 1 << 20
_SECRET = ("password", "sslpassword")
_SAID_LINES = 3


@dataclass(frozen=True, slots=True)
class Tool:
    """A program, and what it says of its version."""

    path: str
    said: str

    @property
    def major(self) -> int:
        """Its major version."""
        return major(self.said)


def major(said: str) -> int:
    """The major version in what ``--version`` printed."""
    found = re.search(r"\(PostgreSQL\) (\d+)", said)
    if found is None:
        raise Unavailable(f"{said!r} names no version of PostgreSQL")
    return int(found[1])


def find(name: str, folder: Path | None, at_least: int, why: str) -> Tool:
    """The program in ``folder``, or on the PATH. Raises `Unavailable` if it is not there or too old."""
    path = shutil.which(name, path=None if folder is None else str(folder))
    how = "install PostgreSQL's client programs, or name their folder with --pg-bin or FRONTIER_PG_BIN"
    if path is None:
        raise Unavailable(f"{name} is not {'on the PATH' if folder is None else f'in {folder}'}: {how}")
    ran = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)  # noqa: S603
    if ran.returncode:
        raise Unavailable(f"{path} --version failed: {_last(ran.stderr)}; {how}")
    tool = Tool(path, ran.stdout.strip())
    if tool.major < at_least:
        raise Unavailable(f"{path} is of PostgreSQL {tool.major}, {why} {at_least}: a {name} of {at_least} is needed")
    return tool


def dump(tool: Tool, url: str, snapshot: str) -> Iterator[bytes]:
    """The database as a custom-format dump, as the transaction that shared ``snapshot`` sees it."""
    command = [tool.path, "--format=custom", "--no-owner", "--no-privileges", "--no-password", f"--snapshot={snapshot}"]
    with tempfile.TemporaryFile() as errors:
        with _started(command, url, stdout=subprocess.PIPE, stderr=errors) as process:
            assert process.stdout is not None  # noqa: S101 - for the type checker: it is a pipe
            try:
                while chunk := process.stdout.read(_CHUNK):
                    yield chunk
            except BaseException:
                process.kill()
                raise
        _refuse_failed(process, tool, errors)


def load(tool: Tool, url: str, chunks: Iterable[bytes]) -> None:
    """Puts a dump into an empty database, all of it or nothing. Raises `Conflict` with what the program said."""
    command = [tool.path, "--single-transaction", "--exit-on-error", "--no-owner", "--no-privileges", "--no-password"]
    with tempfile.TemporaryFile() as errors:
        with _started(command, url, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=errors) as process:
            assert process.stdin is not None  # noqa: S101 - for the type checker: it is a pipe
            try:
                with suppress(BrokenPipeError):  # it says itself why it stopped reading
                    for chunk in chunks:
                        process.stdin.write(chunk)
            except BaseException:
                process.kill()
                raise
            with suppress(BrokenPipeError):
                process.stdin.close()
        _refuse_failed(process, tool, errors)


def connection(url: str) -> tuple[str, Mapping[str, str]]:
    """How libpq's programs reach the database of a SQLAlchemy URL: a connection string without secrets, which others
    see in the list of processes, and environment variables with the password."""
    parsed = make_url(url)
    _, found = parsed.get_dialect()().create_connect_args(parsed)
    given: dict[str, Any] = dict(found)
    secrets = {name: given.pop(name, None) for name in _SECRET}
    return make_conninfo(**given), {"PGPASSWORD": secrets["password"]} if secrets["password"] else {}


def _started(command: list[str], url: str, **streams: Any) -> subprocess.Popen[bytes]:
    where, secrets = connection(url)
    return subprocess.Popen([*command, f"--dbname={where}"], env={**os.environ, **secrets}, **streams)  # noqa: S603


def _refuse_failed(process: subprocess.Popen[bytes], tool: Tool, errors: IO[bytes]) -> None:
    if process.returncode:
        errors.seek(0)
        said = _last(errors.read().decode(errors="replace"))
        raise Conflict(f"{tool.path} ended with {process.returncode}: {said}")


def _last(text: str) -> str:
    return " ".join(text.split("\n")[-_SAID_LINES - 1 :]).strip() or "it said nothing"
