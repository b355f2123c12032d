"""Token buckets: how often somebody may do something, in one process."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import final

MOST = 10_000
"""Names remembered at once; more than that forgets those that were quiet for longest."""


@final
class Buckets:
    """One bucket per name. It holds ``burst`` tokens and gains ``rate`` a second; each call takes one.

    A rate of 0 limits nothing. Belongs to one thread. Memory is bounded, whatever names come.
    """

    def __init__(self, rate: float, burst: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._levels: dict[str, tuple[float, float]] = {}  # name → (tokens, when), least recently taken first

    def wait_s(self, name: str) -> float:
        """Seconds until a token is there; 0 if one is there now. Takes none."""
        if not self._rate:
            return 0.0
        return max(0.0, (1.0 - self._level(name)) / self._rate)

    def take(self, name: str) -> float:
        """Takes a token if there is one: 0 then, else the seconds until there is."""
        wait = self.wait_s(name)
        if self._rate and not wait:
            level = self._level(name) - 1.0
            self._levels.pop(name, None)
            self._levels[name] = (level, self._clock())
            if len(self._levels) > MOST:
                del self._levels[next(iter(self._levels))]
        return wait

    def __len__(self) -> int:
        return len(self._levels)

    def _level(self, name: str) -> float:
        tokens, then = self._levels.get(name, (self._burst, self._clock()))
        return min(self._burst, tokens + (self._clock() - then) * self._rate)
