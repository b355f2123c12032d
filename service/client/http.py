"""Requests with retries, and answers as wire types."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any, TypeVar, cast, final

import httpx
from pydantic import BaseModel, TypeAdapter, ValidationError

from service.client.errors import ConnectionFailed, StillRunning, UnexpectedAnswer, error_of
from service.client.patience import LONGEST_PAUSE_S, pause_s

Answer = TypeVar("Answer")
Query = Mapping[str, str | int | list[str] | None]

TRIES = 6
"""How often a request is made at most, by default: with the pauses below this bridges about 5 seconds."""
# Nothing reached the server: any request may be sent again.
_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
_GATEWAY = frozenset({502, 504})
_WAITING = frozenset({429, 503})


@final
class Http:
    """One connection pool. Threads may share it.

    A request is repeated if that cannot do harm: always when it never reached the server or was answered by 429 or 503
    (then nothing was written), and after a broken connection unless it is a POST that is not ``repeatable``. Every
    other POST carries an idempotency key, the same in all its tries.
    """

    def __init__(
        self,
        url: str,
        key: str | None = None,
        timeout: float = 30.0,
        transport: httpx.BaseTransport | None = None,
        tries: int = TRIES,
    ) -> None:
        headers = {"Accept": "application/json"}
        if key is not None:
            headers["Authorization"] = f"Bearer {key}"
        self.url = url.rstrip("/")
        self.tries = tries
        self._timeout = timeout
        try:
            # Proxies of the environment are for other machines.
            near = httpx.URL(self.url).host in ("127.0.0.1", "localhost", "::1")
            self._client = httpx.Client(
                base_url=self.url, headers=headers, timeout=timeout, transport=transport, trust_env=not near
            )
        except httpx.InvalidURL as error:
            raise ConnectionFailed(f"{url!r} is no address: {error}") from error

    def close(self) -> None:
        """Closes all connections."""
        self._client.close()

    def get(self, kind: type[Answer], path: str, query: Query | None = None) -> Answer:
        """A GET; the answer as ``kind``."""
        return self.read(kind, self.send("GET", path, query=query))

    def post(
        self,
        kind: type[Answer],
        path: str,
        body: BaseModel | None = None,
        *,
        repeatable: bool = True,
        wait_s: float = 0,
    ) -> Answer:
        """A POST; the answer as ``kind``. ``wait_s``: how much longer than others it may take."""
        return self.read(kind, self.send("POST", path, body, repeatable=repeatable, wait_s=wait_s))

    def send(
        self,
        method: str,
        path: str,
        body: BaseModel | None = None,
        *,
        query: Query | None = None,
        repeatable: bool = True,
        wait_s: float = 0,
    ) -> httpx.Response:
        """The answer, below status 400; errors of the tree otherwise."""
        content = None if body is None else body.model_dump_json(exclude_unset=True).encode()
        headers = {} if content is None else {"Content-Type": "application/json"}
        if method == "POST" and repeatable:
            headers["Idempotency-Key"] = str(uuid.uuid4())

        def attempt() -> httpx.Response:
            return self._client.request(
                method,
                path,
                content=content,
                headers=headers,
                params=_params(query),
                timeout=httpx.Timeout(self._timeout, read=self._timeout + wait_s),
            )

        return self.repeat(attempt, repeatable=repeatable)

    def repeat(self, attempt: Any, *, repeatable: bool) -> httpx.Response:
        """The answer of ``attempt``, a function that sends a request, made again where the rule above allows it."""
        for number in range(1, self.tries + 1):
            pause = pause_s(number)
            try:
                response: httpx.Response = attempt()
            except httpx.TransportError as error:
                if number == self.tries or not (repeatable or isinstance(error, _NOT_SENT)):
                    raise self.failure(error) from error
            else:
                if response.status_code < 400:
                    return response
                passing = response.status_code in _WAITING or (repeatable and response.status_code in _GATEWAY)
                refused = error_of(response)
                if number == self.tries or not (passing or isinstance(refused, StillRunning)):
                    raise refused
                pause = max(pause, _retry_after(response))
            time.sleep(pause)
        raise AssertionError("unreachable: the last try returns or raises")

    @contextmanager
    def stream(
        self,
        path: str,
        *,
        query: Query | None = None,
        headers: Mapping[str, str] | None = None,
        read_s: float | None = None,
    ) -> Iterator[httpx.Response]:
        """A GET whose body is read as it comes; one try. Breaks of the connection become `ConnectionFailed`."""
        timeout = httpx.Timeout(self._timeout, read=read_s or self._timeout)
        try:
            with self._client.stream("GET", path, params=_params(query), headers=headers, timeout=timeout) as response:
                if response.status_code >= 400:
                    response.read()
                    raise error_of(response)
                yield response
        except httpx.TransportError as error:
            raise self.failure(error) from error

    def put(self, path: str, content: Any) -> httpx.Response:
        """A PUT of bytes; ``content`` is called anew for each try."""
        headers = {"Content-Type": "application/octet-stream"}
        return self.repeat(lambda: self._client.put(path, content=content(), headers=headers), repeatable=True)

    def upload(
        self,
        path: str,
        content: Callable[[], Iterator[bytes]],
        media: str,
        query: Query | None = None,
        *,
        wait_s: float,
    ) -> httpx.Response:
        """A POST of a file that changes nothing the second time; ``content`` is called anew for each try."""
        headers = {"Content-Type": media}
        timeout = httpx.Timeout(self._timeout, read=self._timeout + wait_s)

        def attempt() -> httpx.Response:
            return self._client.post(path, content=content(), headers=headers, params=_params(query), timeout=timeout)

        return self.repeat(attempt, repeatable=True)

    def failure(self, error: Exception) -> ConnectionFailed:
        """What a broken connection is called, with the address in it."""
        said = str(error) or type(error).__name__
        return ConnectionFailed(f"no answer from {self.url}: {said}")

    def read(self, kind: type[Answer], response: httpx.Response) -> Answer:
        """An answer as ``kind``. Raises `UnexpectedAnswer` if it is none."""
        try:
            # A newer server may say more than this client knows.
            answer: Answer = _adapter(cast(Any, kind)).validate_json(response.content, extra="ignore")
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise UnexpectedAnswer(
                f"{response.request.method} {response.request.url} answered what this client does not understand: "
                f"{where or 'body'}: {first['msg']}"
            ) from error
        return answer


def _retry_after(response: httpx.Response) -> float:
    asked: str = response.headers.get("retry-after", "")
    return min(float(asked), LONGEST_PAUSE_S) if asked.isdigit() else 0.0


def _params(query: Query | None) -> dict[str, Any]:
    return {name: value for name, value in (query or {}).items() if value is not None}


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
