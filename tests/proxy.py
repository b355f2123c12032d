"""A network that is not to be relied on: a proxy that does to requests what networks do."""

from __future__ import annotations

import random
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from enum import StrEnum
from itertools import cycle
from typing import final
from urllib.parse import urlsplit


class Fault(StrEnum):
    """What becomes of a request."""

    PASS = "pass"
    SLOW = "slow"
    """It and its answer are held up."""
    UNSENT = "unsent"
    """The connection breaks before any of it reached the server."""
    CUT = "cut"
    """The connection breaks when half of it has reached the server."""
    UNANSWERED = "unanswered"
    """The server has answered; the connection breaks before any of the answer arrived."""
    TRUNCATED = "truncated"
    """Half of the answer arrives."""
    TWICE = "twice"
    """The server gets it twice, and the second answer arrives."""
    GATEWAY = "gateway"
    """The server has answered; what arrives is a gateway's 504."""


FAULTS = tuple(fault for fault in Fault if fault is not Fault.PASS)
STREAM = "GET /v1/events"

Plan = Callable[[str], Iterator[Fault]]
"""Route → what becomes of its requests, one after the other."""

_DELAY_S = (0.02, 0.3)
_STREAMED_BYTES = (200, 6000)
_PIECE = 65_536
_SILENT_S = 120.0
_504 = b"HTTP/1.1 504 Gateway Timeout\r\nContent-Length: 9\r\nConnection: close\r\n\r\n<html>504"


def first_tries(fault: Fault) -> Plan:
    """Every other request of each route meets the fault, from the first on: what is tried again passes."""
    return lambda _: cycle((fault, Fault.PASS))


def all_kinds(seed: int, passing: int) -> Plan:
    """All faults in an order of chance, again and again, with so many requests of the route that pass after each."""

    def faults(route: str) -> Iterator[Fault]:
        rng = random.Random(f"{seed} {route}")
        while True:
            for fault in rng.sample(FAULTS, len(FAULTS)):
                yield fault
                yield from [Fault.PASS] * passing

    return faults


@final
class Proxy:
    """Forwards to ``upstream`` on a port of its own, one request a connection. Streams of events are cut again and
    again, after a few kilobytes each time, wherever that is. ``met`` counts by route, with ``*`` for ids, and fault.
    """

    def __init__(self, upstream: str, plan: Plan, seed: int = 0) -> None:
        to = urlsplit(upstream)
        assert to.hostname is not None
        self._upstream = (to.hostname, to.port or 80)
        self._plan, self._rng = plan, random.Random(seed)
        self._plans: dict[str, Iterator[Fault]] = {}
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.url = "http://{}:{}".format(*self._listener.getsockname())
        self.met: Counter[tuple[str, Fault]] = Counter()
        threading.Thread(target=self._accept, name="proxy", daemon=True).start()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        # Wakes whoever accepts, which closing alone would not.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        # Connections break on either side: that is what this is for.
        with client, suppress(OSError):
            client.settimeout(_SILENT_S)
            head, body = _request(client)
            if not head:
                return
            route = _route(head)
            with self._lock:
                fault = next(self._plans.setdefault(route, iter(self._plan(route))))
                self.met[route, fault] += 1
                pauses = [self._rng.uniform(*_DELAY_S) for _ in range(2)]
                streamed = self._rng.randint(*_STREAMED_BYTES)
            request = _closing(head) + body
            if route == STREAM:
                self._stream(client, request, streamed)
            else:
                self._forward(client, request, fault, pauses)

    def _forward(self, client: socket.socket, request: bytes, fault: Fault, pauses: list[float]) -> None:
        if fault is Fault.UNSENT:
            return
        if fault is Fault.CUT:
            with self._connect() as server:
                server.sendall(request[: len(request) // 2])
            return
        if fault is Fault.SLOW:
            time.sleep(pauses[0])
        answer = b"".join(self._answer(request))
        match fault:
            case Fault.SLOW:
                time.sleep(pauses[1])
            case Fault.UNANSWERED:
                return
            case Fault.TRUNCATED:
                answer = answer[: len(answer) // 2]
            case Fault.TWICE:
                answer = b"".join(self._answer(request))
            case Fault.GATEWAY:
                answer = _504
            case _:
                pass
        client.sendall(answer)

    def _stream(self, client: socket.socket, request: bytes, count: int) -> None:
        for piece in self._answer(request):
            client.sendall(piece[:count])
            count -= len(piece)
            if count <= 0:
                return

    def _answer(self, request: bytes) -> Iterable[bytes]:
        with self._connect() as server:
            server.sendall(request)
            while piece := server.recv(_PIECE):
                yield piece

    def _connect(self) -> socket.socket:
        return socket.create_connection(self._upstream, timeout=_SILENT_S)


def _request(client: socket.socket) -> tuple[bytes, bytes]:
    """Head and body of one request as they came; nothing where the connection was closed instead."""
    with client.makefile("rb") as file:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            line = file.readline()
            if not line:
                return b"", b""
            head += line
        if length := re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE):
            return head, file.read(int(length[1]))
        body = b""
        if re.search(rb"\r\ntransfer-encoding: *chunked", head, re.IGNORECASE):
            size = -1
            while size != 0:
                line = file.readline()
                size = int(line, 16)
                body += line + file.read(size + 2)
        return head, body


def _route(head: bytes) -> str:
    """Method and path, ids and digests as ``*``."""
    method, target = head.split(b" ", 2)[:2]
    path = re.sub(r"/(\d+|[0-9a-f]{64})(?=[:/]|$)", "/*", target.decode().partition("?")[0])
    return f"{method.decode()} {path}"


def _closing(head: bytes) -> bytes:
    """The head, asking for the connection's end after the answer: so that is where the answer ends."""
    kept = re.sub(rb"\r\nconnection:[^\r]*", b"", head, flags=re.IGNORECASE)
    return kept.removesuffix(b"\r\n\r\n") + b"\r\nConnection: close\r\n\r\n"
