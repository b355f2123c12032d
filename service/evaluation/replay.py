"""Replays: what a table holds of an architecture, given as if it were measured now."""

from __future__ import annotations

import time

from service.core.errors import Infeasible
from service.evaluation.options import parse
from service.evaluation.toolbox import Report, Toolbox
from service.wire.base import Json
from service.wire.payloads import ReplayPayload, ReplayResult

_SLICE_S = 0.2


def replay(payload: Json, toolbox: Toolbox, report: Report, checkpoint: bytes | None = None) -> Json:
    """The table's values, after the time they had cost times the payload's scale.

    Raises `Infeasible` for what the table does not hold.
    """
    asked = parse(ReplayPayload, payload, "payload")
    missing = [name for name in asked.metrics if name not in asked.values]
    if missing:
        raise Infeasible(f"not in the table of study {asked.table!r}: metric {', '.join(missing)}")
    wait_s = asked.scale * asked.seconds
    began = time.monotonic()
    while (left := wait_s - (time.monotonic() - began)) > 0:
        report(wait_s - left, wait_s, "replaying")
        time.sleep(min(left, _SLICE_S))
    report(1, 1, "replayed")
    result = ReplayResult(metrics=asked.values, device=asked.device, seconds=asked.seconds)
    return result.model_dump(mode="json", exclude_defaults=True)
