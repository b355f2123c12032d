"""The socket that the API listens on. Apart from the application, so that whoever binds need not load all of it."""

from __future__ import annotations

import ipaddress
import socket
from contextlib import suppress

from service.core.errors import Invalid
from service.settings import Settings


def bind(settings: Settings) -> socket.socket:
    """A socket on the settings' address. Without keys it must be this machine's own: raises `Invalid`."""
    check_address(settings.host)
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    bound = socket.socket(family)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((settings.host, settings.port))
    except OSError as error:
        bound.close()
        raise Invalid("port", f"cannot listen on {settings.host}:{settings.port}: {error.strerror}") from error
    return bound


def check_address(host: str) -> None:
    """Refuses addresses that other machines reach, while there are no keys that could keep them out."""
    addresses = [host]
    if host == "localhost":
        addresses = ["127.0.0.1"]
    with suppress(ValueError):
        if all(ipaddress.ip_address(address).is_loopback for address in addresses):
            return
    raise Invalid(
        "host",
        f"{host!r} is not a loopback address: without keys anybody who reaches the server could use it; "
        "bind 127.0.0.1 and forward the port, for example with ssh -L",
    )
