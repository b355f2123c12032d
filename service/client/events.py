"""Server-sent events, read as they come and resumed when the connection breaks."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from pydantic import ValidationError

from service.client.errors import ConnectionFailed, Unavailable, UnexpectedAnswer
from service.client.http import Http
from service.client.patience import pause_s
from service.wire.jobs import EventOut

SILENCE_S = 45.0
"""The server says something every 15 seconds; a longer silence is a broken connection."""


def follow(http: Http, after: int | None, study: str | None) -> Iterator[EventOut]:
    """Yields events for ever; see `Client.events`."""
    last, failures = after, 0
    while True:
        try:
            # The first connection starts at `after`; later ones say what was seen last, as browsers do.
            headers = {"Accept": "text/event-stream"}
            if last is not None:
                headers["Last-Event-ID"] = str(last)
            with http.stream("/v1/events", query={"study": study}, headers=headers, read_s=SILENCE_S) as response:
                for event in parse(response.iter_lines()):
                    last, failures = event.number, 0
                    yield event
        except (ConnectionFailed, Unavailable):
            failures += 1
            if failures >= http.tries:
                raise
        # A stream that ends is a server that shuts down: it is back in a moment, or the next try says that it is not.
        time.sleep(pause_s(failures + 1))


def parse(lines: Iterable[str]) -> Iterator[EventOut]:
    """The events in the lines of a stream. Comments and fields other than ``data`` are skipped: the body holds all."""
    data: list[str] = []
    for line in lines:
        if line.startswith("data:"):
            data.append(line.removeprefix("data:").removeprefix(" "))
        elif not line and data:
            try:
                yield EventOut.model_validate_json("\n".join(data), extra="ignore")
            except ValidationError as error:
                raise UnexpectedAnswer("the stream holds an event that this client does not understand") from error
            data.clear()
