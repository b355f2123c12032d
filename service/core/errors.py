"""What can go wrong, as one tree. HTTP codes are given to these in `service.api` and nowhere else.

::

    FrontierError
    ├── Invalid          the request is wrong: carries the field and what would be right
    ├── NotFound         there is no such thing: carries its kind and name
    ├── Conflict         it clashes with what is stored (another body under the same name, wrong state)
    ├── StillRunning     the same request is being answered at this moment
    ├── Stale            the lease was lost: another holder has a newer token
    ├── Unauthorized     nobody knows who asks: no key, or one that is unknown, revoked or expired
    ├── Forbidden        who asks may not do this
    ├── TooMany          who asks does so too often: carries how long to wait
    ├── Unavailable      something that is needed is not there now; trying again later can help
    ├── Fault            a plug-in broke its contract: the fault of its author, never of the request
    └── JobError         what a job handler reports about its job
        ├── Infeasible   the architecture cannot be built or breaks a hard constraint
        ├── OutOfMemory  the device's memory did not suffice
        ├── Stop         the server asks to stop: the job was cancelled
        └── LeaseLost    another worker has the job now: drop it
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = [
    "Conflict",
    "Fault",
    "Forbidden",
    "FrontierError",
    "Infeasible",
    "Invalid",
    "JobError",
    "LeaseLost",
    "NotFound",
    "OutOfMemory",
    "Stale",
    "StillRunning",
    "Stop",
    "TooMany",
    "Unauthorized",
    "Unavailable",
]


class FrontierError(Exception):
    """The root of the tree. ``details`` is JSON that goes with the message."""

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details: Mapping[str, Any] = details


class Invalid(FrontierError):
    """The request cannot be accepted as it is. ``field`` is a dotted path into it."""

    def __init__(self, field: str, message: str, **details: Any) -> None:
        super().__init__(message, **details)
        self.field = field


class NotFound(FrontierError):
    """There is no ``kind`` with this name."""

    def __init__(self, kind: str, name: object) -> None:
        super().__init__(f"there is no {kind} {name!r}")
        self.kind = kind
        self.name = name


class Conflict(FrontierError):
    """The request clashes with what is stored."""


class StillRunning(FrontierError):
    """A request with this idempotency key is being answered at this moment: wait, and ask again."""

    def __init__(self, key: str) -> None:
        super().__init__(f"the first request with idempotency key {key!r} is still being answered")


class Stale(FrontierError):
    """The lease token is not the newest: somebody else holds the job or search now."""


class Unauthorized(FrontierError):
    """Nobody knows who asks. ``presented``: a key was shown, but it does not count."""

    def __init__(self, message: str, *, presented: bool = False) -> None:
        super().__init__(message)
        self.presented = presented


class Forbidden(FrontierError):
    """Who asks may not do this."""


class TooMany(FrontierError):
    """Who asks does so too often."""

    def __init__(self, message: str, wait_s: float) -> None:
        super().__init__(message)
        self.wait_s = wait_s


class Unavailable(FrontierError):
    """Something that is needed is not there at present."""


class Fault(FrontierError):
    """A plug-in did what its contract forbids; the message says which plug-in and what."""


class JobError(FrontierError):
    """Root of what ends a job without a result."""


class Infeasible(JobError):
    """The architecture cannot be built, or breaks a hard constraint. Trying again cannot help."""


class OutOfMemory(JobError):
    """The device's memory did not suffice."""


class Stop(JobError):
    """The server asks for an end: the job was cancelled."""


class LeaseLost(JobError):
    """The lease ran out and the job may be elsewhere: whatever is being done for it is to be dropped."""
