"""Jobs as the queue works on them: plain rows, each with the trial and the architecture that it is about.

A batch of leases or results reads and writes columns of tables, not attributes of objects: past the unit of work.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from service.db.rows import table_of
from service.db.tables import Architecture, Job, Trial
from service.wire.base import Json

JOBS = table_of(Job)
TRIALS = table_of(Trial)
ARCHITECTURES = table_of(Architecture)


class TrialRow(NamedTuple):
    """What the queue needs of a trial and its architecture: `TRIAL_COLUMNS`, in their order."""

    id: int
    search_id: int
    study_id: int
    number: int
    ask: int
    state: str
    probe: bool
    fidelity: float
    wanted: list[str]
    architecture_id: int
    key: str
    genes: bytes


class JobRow(NamedTuple):
    """What the queue needs of a job. ``genes`` are those of its architecture if it has one."""

    id: int
    kind: str
    state: str
    reason: str
    study_id: int | None
    search_id: int | None
    trial_id: int | None
    supernet_id: int | None
    predictor_id: int | None
    architecture_id: int | None
    payload: Json
    needs_dataset: str | None
    needs_evaluator: str | None
    needs_device: str | None
    needs_device_type: str | None
    needs_memory_mb: int | None
    token: int
    worker: str | None
    attempts: int
    max_attempts: int
    cancelled: bool
    checkpoint: str | None
    result: Json | None
    failure: str | None
    leased_until: datetime | None
    leased_at: datetime | None
    trial: TrialRow | None
    genes: bytes | None


TRIAL_COLUMNS = tuple(TRIALS.c[name] for name in TrialRow._fields[:9]) + tuple(
    ARCHITECTURES.c[name] for name in ("id", "key", "genes")
)
_JOB_COLUMNS = tuple(JOBS.c[name] for name in JobRow._fields[:-2])
_OF_TRIAL = len(_JOB_COLUMNS)
SELECT_JOBS = select(*_JOB_COLUMNS, *TRIAL_COLUMNS).select_from(
    JOBS.outerjoin(TRIALS, TRIALS.c.id == JOBS.c.trial_id).outerjoin(
        ARCHITECTURES, ARCHITECTURES.c.id == JOBS.c.architecture_id
    )
)


def read_jobs(s: Session, query: Select[*tuple[Any, ...]], given: Mapping[str, Any] | None = None) -> list[JobRow]:
    """The rows of a query made from `SELECT_JOBS`, in their order.

    A query that locks does so to jobs alone. Their trials are as they were when it began: others may have leased one
    since, or handed it back.
    """
    return [
        JobRow._make((*row[:_OF_TRIAL], None if row[_OF_TRIAL] is None else TrialRow._make(row[_OF_TRIAL:]), row[-1]))
        for row in s.execute(query, given).all()
    ]
