"""The stream of events."""

from __future__ import annotations

from collections.abc import AsyncIterator
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


_ITEM = {
    "type": "object",
    "required": ["data", "event", "id"],
    "properties": {
        "id": {"type": "string", "description": "The event's number."},
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
) -> AsyncIterator[ServerSentEvent]:
    """Follow events.

    Server-sent events: `id` is the event's number, `event` its kind, `data` an `EventOut`. Numbers are gapless, in the
    order of commits over all studies. Without a starting point the stream begins now. When nothing happens for 15
    seconds a comment is sent. The stream ends when the caller's key does.
    """
    start = after if last_event_id is None else last_event_id
    if start is None:
        start = await services.feed.newest()
    # Sent when the start is known: whoever has read it misses nothing from then on.
    yield ServerSentEvent(retry=RECONNECT_MS, comment="frontier")
    async for event in services.feed.events(start, study):
        if not await services.keyring.holds(caller):
            return
        yield ServerSentEvent(id=str(event.number), event=event.kind, data=event)
