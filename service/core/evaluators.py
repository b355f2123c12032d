"""Evaluators that are no plug-ins of workers."""

from __future__ import annotations

EXTERNAL = "external"
"""The user's own pipeline evaluates: it takes trials over REST, or brings a Python function to a worker."""

TABLE = "table"
"""Values that another study has measured, or imported, are replayed."""
