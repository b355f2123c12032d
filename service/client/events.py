"""Server-sent events, read as they come and resumed when the connection breaks."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from pydantic import ValidationError

from service.client.errors import ApiError, ConnectionFailed, UnexpectedAnswer
from service.client.http import Http
from service.client.patience import passing, pause_s
from service.wire.jobs import EventOut

SILENCE_S = 45.0
"""The server says something every 15 seconds; a longer silence is a broken connection."""


def follow(http: Http, after: int | None, study: str | None) -> Iterator[EventOut]:
    """Yields events for ever; see `Client.events`."""
    last = None if after is None else str(after)
    failures = 0
    while True:
        try:
            # Says what was seen last, as browsers do.
            headers = {"Accept": "text/event-stream"}
            if last is not None:
                headers["Last-Event-ID"] = last
            with http.stream("/v1/events", query={"study": study}, headers=headers, read_s=SILENCE_S) as response:
                for number, event in parse(response.iter_lines()):
                    last, failures = number or last, 0
                    if event is not None:
                        yield event
        except (ConnectionFailed, ApiError) as error:
            failures += 1
            if failures >= http.tries or not passing(error):
                raise
        # A stream that ends is a server that shuts down: it is back in a moment, or the next try says that it is not.
        time.sleep(pause_s(failures + 1))


def parse(lines: Iterable[str]) -> Iterator[tuple[str | None, EventOut | None]]:
    """The messages in the lines of a stream: where to resume after it, if it says so, and the event, if it is one.

    The first message is none: it says where the stream starts. Comments and fields other than ``id`` and ``data`` are
    skipped: the event holds all.
    """
    data: list[str] = []
    number: str | None = None
    for line in lines:
        name, _, value = line.partition(":")
        match name:
            case "data":
                data.append(value.removeprefix(" "))
            case "id":
                number = value.strip()
            case "" if not line and (data or number):
                yield number, _event("\n".join(data)) if data else None
                data.clear()
                number = None
            case _:
                pass


def _event(text: str) -> EventOut:
    try:
        return EventOut.model_validate_json(text, extra="ignore")
    except ValidationError as error:
        raise UnexpectedAnswer("the stream holds an event that this client does not understand") from error
