"""Waiting for a server that is away."""

from __future__ import annotations

from service.client.errors import ApiError, ConnectionFailed, DigestMismatch, UnexpectedAnswer
from service.core.pauses import LONGEST_PAUSE_S, pause_s

__all__ = ["LONGEST_PAUSE_S", "passing", "pause_s"]


def passing(error: Exception) -> bool:
    """Whether waiting can help: the server is away, overloaded or broken, rather than of another opinion."""
    if isinstance(error, ApiError):
        return error.status >= 500 or error.status == 429
    return isinstance(error, ConnectionFailed | UnexpectedAnswer | DigestMismatch)
