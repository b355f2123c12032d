"""A clock that stands still until it is moved."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta, tzinfo

import pytest

from service.db import tables


class Clock:
    """In place of `datetime` where the database's repositories read the time; threads share it."""

    def __init__(self) -> None:
        self._time = datetime(2040, 1, 1, tzinfo=UTC)
        self._lock = threading.Lock()

    def now(self, zone: tzinfo | None = None) -> datetime:
        """The time that it shows."""
        return self._time.astimezone(zone)

    def ahead(self, seconds: float) -> datetime:
        """What a clock shows that is ahead of it."""
        return self._time + timedelta(seconds=seconds)

    def move(self, seconds: float) -> None:
        """Time passes."""
        with self._lock:
            self._time += timedelta(seconds=seconds)


def stopped(patch: pytest.MonkeyPatch) -> Clock:
    """The only clock that `service.db` has from now on: all of it asks `tables.now`."""
    clock = Clock()
    patch.setattr(tables, "datetime", clock)
    return clock
