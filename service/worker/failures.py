"""How a job that ended without a result is told to the server."""

from __future__ import annotations

import traceback

from service.core.errors import Infeasible, Invalid, OutOfMemory, Stop
from service.core.states import State
from service.wire.jobs import FailIn, Lease
from service.worker.pulse import Drained


def describe_failure(error: Exception, lease: Lease, seconds: float) -> FailIn:
    """What is told to the server of a job that ended without a result."""
    state, failure, reason, trace = State.FAILED, "bug", str(error) or type(error).__name__, None
    match error:
        case Drained():
            state, failure = State.QUEUED, "drained"
        case Stop():
            state, failure = State.CANCELLED, "cancelled"
        case Infeasible():
            state, failure = State.INFEASIBLE, "infeasible"
        case OutOfMemory():
            failure = "out_of_memory"
        case Invalid():
            failure, reason = "invalid", f"{error.field}: {error.message}"
        case _:
            reason = f"{type(error).__name__}: {error}"
            trace = "".join(traceback.format_exception(error))[-100_000:]
    return FailIn(
        token=lease.token, state=state, failure=failure, reason=reason[:2000], traceback=trace, seconds=seconds
    )
