"""Templates and static files. Everything is in the package: no page needs anything from another machine."""

from __future__ import annotations

import hashlib
import mimetypes
from contextvars import ContextVar
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any

from fastapi.responses import HTMLResponse
from jinja2 import Environment, PackageLoader, StrictUndefined

from service.access import Principal
from service.core.errors import NotFound
from service.dashboard import formats

_TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml", ".txt": "text/plain"}


VISITOR: ContextVar[Principal | None] = ContextVar("visitor", default=None)
"""Who looks at the page that is being made; threads that handlers run in inherit it."""


def page(template: str, status: int = 200, **values: Any) -> HTMLResponse:
    """A template as a response. It sees its ``visitor``."""
    return HTMLResponse(_environment().get_template(template).render(visitor=VISITOR.get(), **values), status)


def asset(name: str) -> tuple[bytes, str, str]:
    """Bytes, media type and a digest of a static file; `NotFound` for any other name."""
    if name not in _assets():
        raise NotFound("file", name)
    return _load(name)


def asset_url(name: str) -> str:
    """The address of a static file; it changes with the content, so browsers may keep the file for ever."""
    return f"/static/{name}?v={asset(name)[2]}"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("service.dashboard"),
        autoescape=True,
        undefined=StrictUndefined,
        auto_reload=False,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        {
            "ago": formats.duration_since,
            "capitalised": formats.capitalised,
            "clip": formats.clip,
            "duration": formats.duration,
            "fixed": formats.fixed,
            "heading": formats.heading,
            "label": formats.label,
            "plain": formats.plain,
            "short": formats.short_key,
            "summary": formats.config_summary,
            "until": formats.duration_until,
            "when": formats.when,
            "whole": formats.whole,
            "words": formats.words,
        }
    )
    environment.globals.update({"asset": asset_url, "value": formats.value})
    return environment


@cache
def _assets() -> dict[str, Traversable]:
    """Name → file. Nothing outside can be asked for, whatever the path says."""
    found: dict[str, Traversable] = {}

    def walk(folder: Traversable, prefix: str) -> None:
        for entry in folder.iterdir():
            if entry.is_dir():
                walk(entry, f"{prefix}{entry.name}/")
            else:
                found[prefix + entry.name] = entry

    walk(files("service.dashboard") / "static", "")
    return found


@cache
def _load(name: str) -> tuple[bytes, str, str]:
    content = _assets()[name].read_bytes()
    suffix = name[name.rfind(".") :]
    media_type = _TYPES.get(suffix) or mimetypes.guess_type(name)[0] or "application/octet-stream"
    return content, media_type, hashlib.sha256(content).hexdigest()[:12]
