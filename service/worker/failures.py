"""How a job that ended without a result is told to the server."""

from __future__ import annotations

import traceback

from service import client
from service.core.errors import Infeasible, Invalid, OutOfMemory, Stop, Unavailable
from service.core.failures import Failure
from service.core.states import State
from service.wire.jobs import FailIn, Lease
from service.worker.pulse import Drained


def describe_failure(error: Exception, lease: Lease, seconds: float) -> FailIn:
    """What is told to the server of a job that ended without a result; nothing is ever told of a lost one."""
    state, failure, reason, trace = State.FAILED, Failure.BUG, str(error) or type(error).__name__, None
    match error:
        case Drained():
            state, failure = State.QUEUED, Failure.DRAINED
        case Stop():
            state, failure = State.CANCELLED, Failure.CANCELLED
        case Infeasible():
            state, failure = State.INFEASIBLE, Failure.INFEASIBLE
        case OutOfMemory():
            failure = Failure.OUT_OF_MEMORY
        case Invalid():
            failure, reason = Failure.INVALID, f"{error.field}: {error.message}"
        case client.NotFound():
            # A file that the job names: it was there when the job was made, and is gone.
            failure = Failure.INVALID
        case Unavailable() | client.Unavailable() | client.TooMany() | client.ConnectionFailed():
            failure = Failure.UNAVAILABLE
        case client.DigestMismatch():
            failure = Failure.UNAVAILABLE
        case _:
            if isinstance(error, ConnectionError | TimeoutError):
                failure = Failure.UNAVAILABLE
            reason = f"{type(error).__name__}: {error}"
            trace = "".join(traceback.format_exception(error))[-100_000:]
    return FailIn(
        token=lease.token, state=state, failure=failure, reason=reason[:2000], traceback=trace, seconds=seconds
    )
