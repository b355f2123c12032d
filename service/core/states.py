"""States of trials, jobs and searches."""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """What became of a trial or a job. LOST: the worker vanished; FAILED: the work raised; INFEASIBLE: neither."""

    QUEUED = "QUEUED"
    LEASED = "LEASED"
    SUCCEEDED = "SUCCEEDED"
    PRUNED = "PRUNED"
    INFEASIBLE = "INFEASIBLE"
    FAILED = "FAILED"
    LOST = "LOST"
    CANCELLED = "CANCELLED"


OPEN = frozenset({State.QUEUED, State.LEASED})
"""Not ended yet."""

COUNTED = frozenset({State.SUCCEEDED, State.PRUNED})
"""Ends that count towards a budget."""

FAILURES = frozenset({State.INFEASIBLE, State.FAILED, State.LOST})
"""Ends that count towards `max_failures`."""


DEAD = (State.FAILED, State.LOST)
"""Ends of jobs whose attempts are used up, and which somebody may want to try again: dead letters."""


class SearchState(StrEnum):
    """RUNNING and PAUSED can go on, the others are final (a budget can be extended: DONE → RUNNING)."""

    RUNNING = "RUNNING"
    PAUSED = "PAUSED"
    DONE = "DONE"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
