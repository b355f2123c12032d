"""Reasons of failures without what differs from one to the next: numbers, digests, paths, workers."""

from __future__ import annotations

import hashlib
import re

LONGEST = 240
"""Characters of a reason that tell it from others."""

_LITTLE = re.compile(
    r"(?P<path>(?<![\w/])(?:[A-Za-z]:|~|\.{1,2})?(?:[/\\][\w.@%+~=:-]+)+[/\\]?)"
    r"|\b(?:0x[0-9a-f]+|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|(?=[a-f]*\d)[0-9a-f]{8,})\b"
    r"|(?<![A-Za-z_\d])\d+(?:[.,]\d+)*(?:e[+-]?\d+)?",
    re.IGNORECASE,
)


def pattern(reason: str, worker: str | None = None) -> str:
    """The reason with ``#`` for numbers, digests and UUIDs and ``…`` for paths and the worker's name.

    Digits within words stay (``conv2d``). White space is made one, and what is beyond `LONGEST` characters cut.
    """
    # Patterns of regular expressions are bounded by the length of what they see.
    text = " ".join(reason[: 8 * LONGEST].split())
    if worker:
        text = re.sub(rf"(?<![\w.-]){re.escape(worker)}(?![\w.-])", "…", text)
    return _LITTLE.sub(lambda found: "…" if found["path"] else "#", text)[:LONGEST]


def group_of(kind: str, failure: str | None, reason: str) -> str:
    """The name of those that failed alike, 16 hex digits; ``reason`` is a `pattern`."""
    said = "\0".join((kind, failure or "", reason))
    return hashlib.blake2b(said.encode(), digest_size=8).hexdigest()
