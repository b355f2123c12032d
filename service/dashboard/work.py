"""What the page of workers and jobs shows, and that of one job."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy.orm import Session

from service.core.states import State
from service.db import backlog, events, failures, jobs, workers
from service.wire.base import Json
from service.wire.jobs import WorkerOut

JOBS = 30
"""Newest jobs on the page."""

LEASES = 100
"""Newest of those at work on the page."""

WORKERS = 200


@dataclass(slots=True)
class DeviceUse:
    """A device that workers announced, with what is done on it."""

    name: str
    type: str
    memory_mb: int
    software: Json
    workers: int = 0
    alive: int = 0
    jobs: list[int] = field(default_factory=list)


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
        "devices": devices(known),
        "jobs": jobs.page(s, JOBS).items,
        "after": events.last(s),
    }


def job_values(s: Session, job_id: int) -> dict[str, Any]:
    """The values of `job.html`, or `NotFound`."""
    return {"job": jobs.get(s, job_id), "after": events.last(s)}


def devices(known: Iterable[WorkerOut]) -> list[DeviceUse]:
    """The workers' devices by name; those that only take trials of a search have none that could be told."""
    found: dict[str, DeviceUse] = {}
    for worker in known:
        if not worker.kinds:
            continue
        said = worker.device
        use = found.setdefault(said.name, DeviceUse(said.name, said.type, said.memory_mb, said.software))
        use.workers += 1
        use.alive += worker.alive
        use.jobs += worker.jobs
    return sorted(found.values(), key=lambda each: each.name)
