"""The stream of events."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query
from fastapi.sse import EventSourceResponse, ServerSentEvent

from service.api.deps import COMMON, LONGEST_INTEGER, Caller, Db, State, StudyFilter
from service.api.documents import problems
from service.db import studies

router = APIRouter(prefix="/v1", tags=["events"], dependencies=COMMON)

RECONNECT_MS = 1000
EVENTS = "text/event-stream"


def _study(db: Db, study: StudyFilter = None) -> str | None:
    # A dependency, so that an unknown study is a 404 and not a stream that ends.
    if study is not None:
        with db.read() as session:
            studies.get(session, study)
    return study


async def _start(
    services: State,
    after: Annotated[
        int | None,
        Query(ge=0, le=LONGEST_INTEGER, description="Start after the event of this number; 0 is from the first."),
    ] = None,
    last_event_id: Annotated[
        int | None,
        Header(
            alias="Last-Event-ID",
            ge=0,
            le=LONGEST_INTEGER,
            description="Sent by clients that reconnect; goes before `after`.",
        ),
    ] = None,
) -> int:
    # A dependency too: a database that is away is an error, and not a stream that ends.
    newest = await services.feed.newest()
    start = after if last_event_id is None else last_event_id
    return newest if start is None else start


_ITEM = {
    "type": "object",
    "required": ["data", "event", "id"],
    "properties": {
        "id": {
            "type": "string",
            "description": "The event's number; of a `reset`, the one that the stream goes on from.",
        },
        "event": {"type": "string", "description": "The event's kind."},
        "data": {
            "type": "string",
            "description": "The event as JSON.",
            "contentMediaType": "application/json",
            "contentSchema": {"$ref": "#/components/schemas/EventOut"},
        },
    },
}
_STREAM = {"description": "Events, until the connection is closed.", "content": {EVENTS: {"itemSchema": _ITEM}}}


@router.get("/events", response_class=EventSourceResponse, responses={200: _STREAM, **problems(404)})
async def stream_events(
    services: State,
    caller: Caller,
    study: Annotated[str | None, Depends(_study)],
    start: Annotated[int, Depends(_start)],
) -> AsyncIterator[ServerSentEvent]:
    """Follow events.

    Server-sent events: `id` is the event's number, `event` its kind, `data` an `EventOut`. Numbers are gapless, in the
    order of commits over all studies, and the same from every API process: a stream that broke is resumed at any of
    them. Without a starting point the stream begins now. When nothing happens for 15 seconds a comment is sent. The
    stream ends when the caller's key does.

    An event of kind `reset` says that events were missed: those behind the starting point are no longer kept (the
    stream goes on with the oldest that is), or the starting point is a number that was never given out, because the
    database was restored from a backup (it goes on with the next event). Its body holds the numbers of the `oldest`
    and the `newest` event. Load again what you made of earlier events; if that is all you need, skip up to `newest`.
    """
    services.metrics.streaming(+1)
    try:
        # Sent when the start is known: whoever has read it misses nothing from then on, wherever it reconnects.
        yield ServerSentEvent(id=str(start), retry=RECONNECT_MS, comment="frontier")
        async with aclosing(services.feed.events(start, study)) as found:
            async for event in found:
                if not await services.keyring.holds(caller):
                    return
                yield ServerSentEvent(id=str(event.number), event=event.kind, data=event)
    finally:
        services.metrics.streaming(-1)
