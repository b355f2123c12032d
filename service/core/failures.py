"""Why work ended without a result, and whether trying again may help."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Failure(StrEnum):
    """Classes of failure; each is answered in its own way."""

    LOST = "lost"
    """The worker was not heard of in time."""
    OUT_OF_MEMORY = "out_of_memory"
    """The device's memory does not do, even for the smallest batch."""
    INFEASIBLE = "infeasible"
    """The architecture cannot be evaluated: it never could."""
    INVALID = "invalid"
    """The job asks for what does not exist or does not fit: an option, a layer, a data set."""
    UNAVAILABLE = "unavailable"
    """Something that the work needs was not to be had: a file, a network, a service."""
    BUG = "bug"
    """The work raised, and nobody knows why."""
    CANCELLED = "cancelled"
    DRAINED = "drained"
    """The worker was told to go; the job is as good as before."""


@dataclass(frozen=True, slots=True)
class Retry:
    """At most ``attempts`` in all, the second after ``first_s`` seconds, the third after ``then_s``, and each further
    one after twice as many as the one before."""

    attempts: int
    first_s: float = 0.0
    then_s: float = 0.0


RETRIES: Mapping[Failure, Retry] = {
    # Machines are taken away more often than a job kills its worker; and a lease had to run out already.
    Failure.LOST: Retry(attempts=8, then_s=1.0),
    # Only a larger device helps: the job says how much it needs then.
    Failure.OUT_OF_MEMORY: Retry(attempts=3),
    Failure.INFEASIBLE: Retry(attempts=1),
    Failure.INVALID: Retry(attempts=1),
    Failure.UNAVAILABLE: Retry(attempts=6, first_s=1.0, then_s=5.0),
    # Full disks and broken devices raise too: one more try, by then with luck elsewhere.
    Failure.BUG: Retry(attempts=2, first_s=5.0),
    Failure.CANCELLED: Retry(attempts=1),
}
LONGEST_DELAY_S = 300.0


def retry_in_s(failure: Failure, attempt: int) -> float | None:
    """Seconds until a job may be tried again whose ``attempt`` (from 1) ended so; None if it is not tried again.

    Jobs that were handed back (`Failure.DRAINED`) wait at once, whatever their attempts.
    """
    if failure is Failure.DRAINED:
        return 0.0
    retry = RETRIES[failure]
    if attempt >= retry.attempts:
        return None
    if attempt == 1:
        return retry.first_s
    return min(retry.then_s * 2.0 ** (attempt - 2), LONGEST_DELAY_S)
