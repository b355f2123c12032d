"""The socket that the API listens on. Apart from the application, so that whoever binds need not load all of it."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable

from service.core.errors import Invalid
from service.settings import Settings


def bind(settings: Settings, guarded: Callable[[], bool] = lambda: False) -> socket.socket:
    """A socket on the settings' address.

    Where other machines reach it callers must need keys: raises `Invalid` unless ``guarded``, which is asked only
    then, says so.
    """
    check_address(settings.host, guarded)
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # The protocol is named: asyncio sends without delay (TCP_NODELAY) only where a socket says that it is TCP, and an
    # answer in two pieces would otherwise wait 40 ms for the client's acknowledgement of the first.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((settings.host, settings.port))
    except OSError as error:
        bound.close()
        raise Invalid("port", f"cannot listen on {settings.host}:{settings.port}: {error.strerror}") from error
    return bound


def check_address(host: str, guarded: Callable[[], bool] = lambda: False) -> None:
    """Refuses addresses that other machines reach, while there are no keys that could keep them out."""
    if not is_local(host) and not guarded():
        raise Invalid(
            "host",
            f"{host!r} is not a loopback address: without keys anybody who reaches the server could use it; "
            "make one with `frontier keys create`, or bind 127.0.0.1 and forward the port, for example with ssh -L",
        )


def is_local(host: str) -> bool:
    """Whether only this machine reaches an address to bind. Names other than localhost may be anything."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
