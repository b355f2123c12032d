"""Old events go, a few at a time."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import structlog
from anyio import to_thread

from service.api.deps import Services
from service.db import events

PAUSE_S = 60.0
"""Between looks for events that have become old."""
BREATH_S = 0.1
"""Between transactions while there are more: others write meanwhile."""

log = structlog.get_logger("frontier.api")


async def trim_events(services: Services) -> None:
    """Deletes events that have grown old, for as long as the application runs. Several processes may do so."""
    age = timedelta(days=services.settings.event_retention_days)
    keep = services.settings.event_retention_count

    def trim() -> int:
        with services.database.read() as session:
            # Looked for first, since mostly there are none: on SQLite a transaction that writes stops all others.
            if not events.old(session, age, keep):
                return 0
        with services.database.write() as session:
            return events.trim(session, age, keep)

    while not services.feed.closing:
        trimmed = 0
        try:
            trimmed = await to_thread.run_sync(trim)
        except Exception as error:
            log.warning("event_retention_failed", error=str(error))
        await asyncio.sleep(BREATH_S if trimmed == events.TRIMMED else PAUSE_S)
