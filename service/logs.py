"""Structured logs on standard error: lines for people on a terminal, JSON elsewhere.

The standard library's loggers (uvicorn, alembic) go the same way. Nothing logs headers, queries or bodies; should a
secret get into a line all the same, `redact` takes it out.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

_SECRETS = (
    # Keys of this server.
    (re.compile(r"frontier_[A-Za-z0-9_\-]{43}"), "frontier_***"),
    # Passwords in addresses of databases and proxies; one with an @ in it ends at the last.
    (re.compile(r"([A-Za-z][\w+.\-]*://[^\s/@:\"']*:)[^\s/\"']*@"), r"\1***@"),
    # Passwords in connection strings and queries.
    (re.compile(r"((?:password|passwd|pwd)=)[^\s&\"']+", re.IGNORECASE), r"\1***"),
)


def redact(text: str) -> str:
    """The text without keys and passwords."""
    for pattern, instead in _SECRETS:
        text = pattern.sub(instead, text)
    return text


def configure(level: str, process: str) -> None:
    """Sets up logging of this process; ``process`` names it in every line."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _named(process),
    ]
    people = sys.stderr.isatty()
    render: list[Any] = (
        # Plain tracebacks: the default ones print local variables, and those hold what logs must not.
        [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
        if people
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level)),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render, _redacted],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    for chatty in ("httpx", "httpcore", "alembic.runtime.plugins"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


def _redacted(_logger: Any, _method: str, line: Any) -> str:
    """Last, so that tracebacks are looked through too."""
    return redact(str(line))


def _named(process: str) -> Any:
    def add(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event["process"] = process
        return event

    return add
