"""What the page of workers and jobs shows, and that of one job."""

from __future__ import annotations

from typing import Any

from sqlalchemy.orm import Session

from service.core.states import State
from service.db import backlog, devices, events, failures, jobs, workers

JOBS = 30
"""Newest jobs on the page."""

LEASES = 100
"""Newest of those at work on the page."""

WORKERS = 200
DEVICES = 200


def page_values(s: Session) -> dict[str, Any]:
    """The values of `workers.html`."""
    leased = jobs.page(s, LEASES, state=State.LEASED)
    known = workers.page(s, WORKERS).items
    return {
        "backlog": backlog.by_kind(s),
        "failures": failures.groups(s),
        "leases": leased.items,
        "more_leases": leased.next_page_token is not None,
        "device_of": {each.name: each.device.name for each in known},
        "workers": known,
        "devices": devices.page(s, DEVICES).items,
        "jobs": jobs.page(s, JOBS).items,
        "after": events.last(s),
    }


def job_values(s: Session, job_id: int) -> dict[str, Any]:
    """The values of `job.html`, or `NotFound`."""
    return {"job": jobs.get(s, job_id), "after": events.last(s)}
