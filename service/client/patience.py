"""Waiting for a server that is away."""

from __future__ import annotations

from service.client.errors import ApiError, ConnectionFailed, DigestMismatch, UnexpectedAnswer

_LONGEST_PAUSE_S = 10.0


def passing(error: Exception) -> bool:
    """Whether waiting can help: the server is away, overloaded or broken, rather than of another opinion."""
    if isinstance(error, ApiError):
        return error.status >= 500 or error.status == 429
    return isinstance(error, ConnectionFailed | UnexpectedAnswer | DigestMismatch)


def backoff_s(failures: int) -> float:
    """Seconds to wait after so many failures in a row."""
    return float(min(0.25 * 2.0 ** min(failures, 10), _LONGEST_PAUSE_S))
