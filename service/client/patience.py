"""Waiting for a server that is away."""

from __future__ import annotations

import random

from service.client.errors import ApiError, ConnectionFailed, DigestMismatch, UnexpectedAnswer

LONGEST_PAUSE_S = 10.0
_FIRST_PAUSE_S = 0.2


def passing(error: Exception) -> bool:
    """Whether waiting can help: the server is away, overloaded or broken, rather than of another opinion."""
    if isinstance(error, ApiError):
        return error.status >= 500 or error.status == 429
    return isinstance(error, ConnectionFailed | UnexpectedAnswer | DigestMismatch)


def pause_s(failures: int) -> float:
    """Seconds to wait after so many failures in a row (from 1): doubling, and never the same for two clients."""
    longest = min(_FIRST_PAUSE_S * 2.0 ** min(failures - 1, 10), LONGEST_PAUSE_S)
    return longest * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, guards nothing
