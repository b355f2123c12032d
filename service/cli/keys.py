"""``frontier keys``: who may call. It works at the database, without a server and without a key."""

from __future__ import annotations

import hashlib
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Annotated

import structlog
import typer

from service.cli.common import AsJson, Home, body, show_fields, show_json, show_table
from service.cli.db import opened
from service.core.scopes import Scope
from service.logs import configure
from service.settings import Settings
from service.wire.keys import KeyIn, KeyOut

app = typer.Typer(help="Keys: who may call the server, and what for.", no_args_is_help=True)
audit = structlog.get_logger("frontier.audit")

_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}

DatabaseUrl = Annotated[
    str | None, typer.Option("--database-url", envvar="FRONTIER_DATABASE_URL", help="SQLite below home by default.")
]
KeyName = Annotated[str, typer.Argument(help="The key's name.")]


@app.command("create")
def create(
    name: Annotated[str, typer.Argument(help="Name: who or what will use it. Names are never used again.")],
    scopes: Annotated[
        str, typer.Option(help="Comma-separated: read, write (includes read), worker (includes read), admin (all).")
    ],
    expires: Annotated[
        str | None, typer.Option(help="For how long it is good: 12h, 90d, 8w. Until it is revoked if left out.")
    ] = None,
    home: Home = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Make a key, and print it: this once, on standard output alone.

    The first one makes the server ask every caller for a key. Makes the database too if there is none yet.
    """
    from service.db import keys

    wanted = body(KeyIn, name=name, scopes=_split(scopes), expires_at=_end(expires))
    with opened(home=home, database_url=database_url) as database:
        database.upgrade()
        with database.write() as session:
            made = keys.create(session, wanted)
    _log("key.created", made)
    until = "until it is revoked" if made.expires_at is None else f"until {made.expires_at:%Y-%m-%d %H:%M} UTC"
    typer.echo(f"key {made.name} with scopes {', '.join(made.scopes)}, good {until}; it is shown this once:", err=True)
    typer.echo(made.token)


@app.command("list")
def list_keys(as_json: AsJson = False, home: Home = None, database_url: DatabaseUrl = None) -> None:
    """List keys; revoked and expired ones too."""
    from service.db import keys

    found: list[KeyOut] = []
    with opened(home=home, database_url=database_url) as database, database.read() as session:
        token: str | None = None
        while True:
            page = keys.page(session, 1000, token)
            found += page.items
            token = page.next_page_token
            if token is None:
                break
    if as_json:
        show_json(found)
        return
    rows = [
        (key.name, ", ".join(key.scopes), _state(key), key.created_at, key.expires_at, key.last_used_at)
        for key in found
    ]
    show_table(("name", "scopes", "state", "created", "expires", "last used"), [[*map(_shown, row)] for row in rows])


@app.command("revoke")
def revoke(name: KeyName, as_json: AsJson = False, home: Home = None, database_url: DatabaseUrl = None) -> None:
    """Revoke a key, for ever. Servers refuse it within a second.

    When the last key is revoked, the server answers its own machine again without.
    """
    from service.db import keys

    with opened(home=home, database_url=database_url) as database, database.write() as session:
        revoked = keys.revoke_named(session, name)
        open_again = not keys.guarded(session)
    _log("key.revoked", revoked)
    show_fields(revoked, as_json)
    if open_again:
        typer.echo("no key is left: the server answers its own machine without, and no other machine", err=True)


def guarded(settings: Settings) -> bool:
    """Whether the settings' database has keys, so that callers need one. A database without our schema has none."""
    from service.db import keys

    with opened(home=settings.home, database_url=settings.database) as database:
        if database.schema_problem() is not None:
            return False
        with database.read() as session:
            return keys.guarded(session)


@contextmanager
def local_key(settings: Settings) -> Iterator[str]:
    """A key for the workers of a server on this machine, for the time of the block.

    Made anew each time, whether keys are needed or not: the first one may be made while the server runs. What a server
    that was killed left behind stops working with the next one.
    """
    from service.db import keys

    place = hashlib.sha256(str(settings.home.absolute()).encode()).hexdigest()[:8]
    host = re.sub(r"[^a-z0-9_.\-]", "-", socket.gethostname().lower())[:30]
    name = f"worker-{host}-{place}"
    with opened(home=settings.home, database_url=settings.database) as database:
        with database.write() as session:
            token = keys.renew(session, name, [Scope.WORKER])
        try:
            yield token
        finally:
            with database.write() as session:
                keys.revoke_own(session, name)


def _split(text: str) -> list[str]:
    known = [scope.value for scope in Scope]
    parts = [part.strip() for part in text.split(",") if part.strip()]
    unknown = [part for part in parts if part not in known]
    if unknown or not parts:
        said = f"there is no scope {unknown[0]!r}" if unknown else "names no scope"
        raise typer.BadParameter(f"{said}; allowed: {', '.join(known)}", param_hint="--scopes")
    return list(dict.fromkeys(parts))


def _end(text: str | None) -> datetime | None:
    if text is None:
        return None
    found = re.fullmatch(r"(\d{1,6})([mhdw])", text.strip())
    if found is None:
        raise typer.BadParameter("must be a number with a unit: 30m, 12h, 90d, 8w", param_hint="--expires")
    return datetime.now(UTC) + timedelta(**{_UNITS[found[2]]: int(found[1])})


def _state(key: KeyOut) -> str:
    if key.revoked_at is not None:
        return "revoked"
    return "expired" if key.expires_at is not None and key.expires_at <= datetime.now(UTC) else "good"


def _shown(value: object) -> object:
    return value.strftime("%Y-%m-%d %H:%M") if isinstance(value, datetime) else value


def _log(action: str, key: KeyOut) -> None:
    configure(Settings().log_level, "keys")
    audit.info("audit", principal="database", action=action, key=key.name, scopes=[*map(str, key.scopes)])
