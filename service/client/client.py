"""The client itself: one attribute per resource."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import Self, final

import httpx

from service.client.artifacts import Artifacts
from service.client.events import follow
from service.client.http import TRIES, Http
from service.client.keys import Keys
from service.client.resources import Datasets, Predictors, Searches, Spaces, Studies, Supernets, Trials
from service.client.work import Jobs, Workers
from service.wire.base import Json
from service.wire.jobs import EventOut


@final
class Client:
    """A server of Frontier. Use it in a ``with`` statement, or `close` it; threads may share it.

    Args:
        url: The server's address, for example ``http://127.0.0.1:8470``.
        key: The key to send, for servers that ask for one.
        timeout: Seconds to wait for a connection and for an answer.
        transport: Another httpx transport, for example for a proxy.
        tries: How often a request is made at most where repeating it is safe; the default bridges a restart of the
            server.

    Attributes:
        spaces, datasets, supernets, studies, searches, trials, predictors: What is searched, and what was found.
        jobs, workers, artifacts: The queue, who works on it, and files.
        keys: Who may call, for those whose key has scope admin.

    What is safe to repeat is repeated when the connection breaks: reading, creating by name, verbs that change nothing
    the second time, heartbeats, and results of jobs. ``list`` methods read page after page as they are iterated.
    """

    def __init__(
        self,
        url: str,
        key: str | None = None,
        timeout: float = 30.0,
        transport: httpx.BaseTransport | None = None,
        tries: int = TRIES,
    ) -> None:
        self._http = Http(url, key, timeout, transport, tries)
        self.url = self._http.url
        self.spaces = Spaces(self._http)
        self.datasets = Datasets(self._http)
        self.supernets = Supernets(self._http)
        self.studies = Studies(self._http)
        self.searches = Searches(self._http)
        self.trials = Trials(self._http)
        self.predictors = Predictors(self._http)
        self.jobs = Jobs(self._http)
        self.workers = Workers(self._http)
        self.artifacts = Artifacts(self._http)
        self.keys = Keys(self._http)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes all connections."""
        self._http.close()

    def health(self) -> Json:
        """Returns if the server answers; raises `ConnectionFailed` if not."""
        return self._http.get(dict, "/healthz")

    def ready(self) -> Json:
        """What the server needs to serve → `ok`. Raises `Unavailable` if something is not there."""
        return self._http.get(dict, "/readyz")

    def events(self, after: int | None = None, study: str | None = None) -> Iterator[EventOut]:
        """Events as they happen, from the one after number ``after`` (0: from the first; None: from now on).

        Never ends by itself, and goes on where it was when the connection breaks; leave the loop to stop. Raises
        `ConnectionFailed` when the server stays away.
        """
        return follow(self._http, after, study)
