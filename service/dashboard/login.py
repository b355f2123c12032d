"""Logging in and out: a key is traded for a cookie that scripts cannot read, so that no page ever holds a key."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Annotated
from urllib.parse import parse_qs, urlsplit

import structlog
from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import RedirectResponse

from service import access
from service.access import COOKIE, Keyring, Principal
from service.core.errors import Forbidden, Invalid, TooMany, Unauthorized
from service.dashboard.rendering import page
from service.dashboard.route import PageRoute

LARGEST_FORM = 8192

audit = structlog.get_logger("frontier.audit")
router = APIRouter(route_class=PageRoute, include_in_schema=False)


async def _keyring(request: Request) -> Keyring:
    keyring: Keyring = request.app.state.keyring
    return keyring


async def _form(request: Request) -> dict[str, str]:
    """The fields of a form; the last value of each."""
    body = await request.body()
    if len(body) > LARGEST_FORM:
        raise Invalid("form", f"is larger than {LARGEST_FORM} bytes")
    try:
        fields = parse_qs(body.decode(), max_num_fields=10)
    except ValueError as error:
        raise Invalid("form", "cannot be read") from error
    return {name: values[-1] for name, values in fields.items()}


Ring = Annotated[Keyring, Depends(_keyring)]
Form = Annotated[dict[str, str], Depends(_form)]


@router.get("/login")
async def login_page(keyring: Ring, next: str = "/") -> Response:  # noqa: A002 - the query's name
    """Where people without a session are sent."""
    if not await keyring.guarded():
        return _to("/")
    return page("login.html", following=local_path(next), wrong="")


@router.post("/login")
async def log_in(request: Request, keyring: Ring, form: Form) -> Response:
    """Begins a session. Refused to other sites, which could log somebody in as somebody else."""
    if not access.from_same_site(request.headers):
        raise Forbidden("the form was not sent from this server's own page")
    following = local_path(form.get("next", "/"))
    address = request.client.host if request.client else ""
    try:
        principal = await keyring.bearer(form.get("key", "").strip(), address)
    except Unauthorized as error:
        return page("login.html", 401, following=following, wrong=f"{error.message[0].upper()}{error.message[1:]}.")
    except TooMany as error:
        wait = math.ceil(error.wait_s)
        refused = page("login.html", 429, following=following, wrong=f"Too many wrong keys: try again in {wait} s.")
        refused.headers["Retry-After"] = str(wait)
        return refused
    secret, ends = await keyring.begin_session(principal)
    audit.info("session.begun", principal=principal.name)
    answer = _to(following)
    answer.set_cookie(
        COOKIE,
        secret,
        max_age=max(0, int((ends - datetime.now(UTC)).total_seconds())),
        path="/",
        secure=request.url.scheme == "https" or request.app.state.settings.url.startswith("https:"),
        httponly=True,
        samesite="strict",
    )
    return answer


@router.post("/logout")
async def log_out(request: Request, keyring: Ring, form: Form) -> Response:
    """Ends the session."""
    principal: Principal = request.state.principal
    if principal.csrf is not None:
        if not access.same_secret(form.get("csrf", ""), principal.csrf):
            raise Forbidden("the form does not come from a page of this session")
        await keyring.end_session(principal)
    answer = _to("/login")
    answer.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")
    return answer


def local_path(text: str) -> str:
    """A path on this server, or the first page: whatever else a link says leads nowhere else."""
    try:
        parts = urlsplit(text)
    except ValueError:
        return "/"
    plain = text.startswith("/") and not text.startswith("//") and text.isprintable() and "\\" not in text
    return text if plain and not parts.scheme and not parts.netloc else "/"


def _to(path: str) -> Response:
    return RedirectResponse(path, 303)
