"""How long to wait for something that is away before asking for it again."""

from __future__ import annotations

import random

__all__ = ["LONGEST_PAUSE_S", "pause_s"]

LONGEST_PAUSE_S = 10.0
_FIRST_PAUSE_S = 0.2


def pause_s(failures: int, longest_s: float = LONGEST_PAUSE_S) -> float:
    """Seconds to wait after so many failures in a row (from 1): doubling, and never the same for two who wait."""
    pause = min(_FIRST_PAUSE_S * 2.0 ** min(failures - 1, 10), longest_s)
    return pause * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, guards nothing
