"""Jobs as rows: made, read, listed. `service.db.queue` moves them through their states."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import func, insert, select
from sqlalchemy.orm import Session

from service.core.errors import NotFound
from service.core.failures import Failure
from service.core.states import DEAD, State
from service.db import events
from service.db.job_rows import JobRow
from service.db.paging import checked_id, slice_of
from service.db.rows import chunks
from service.db.tables import Job, Study
from service.wire.base import Json, Page
from service.wire.jobs import JobKind, JobNeeds, JobOut

PRIORITIES: Mapping[JobKind, int] = {
    # A search waits for its fits; a person waits for exports.
    JobKind.FIT: -20,
    JobKind.PREDICT: -10,
    JobKind.EXPORT: -10,
    JobKind.IMPORT: -10,
    JobKind.REPLAY: 0,
    JobKind.EVALUATE: 0,
    JobKind.TRAIN_SUPERNET: 0,
    JobKind.SCORE: 10,
}
"""Smaller is served first; jobs of one priority in the order in which they were made."""


def enqueue(s: Session, kind: JobKind, **refs: Any) -> Job:
    """One new job. ``refs`` are columns of `Job`: what it is about, what it needs, ``payload``."""
    return enqueue_all(s, kind, [refs])[0]


def enqueue_all(s: Session, kind: JobKind, refs: Sequence[Mapping[str, Any]]) -> list[Job]:
    """New jobs of one kind, in this order."""
    made = [Job(**{"kind": kind, "priority": PRIORITIES[kind], "payload": {}, **each}) for each in refs]
    s.add_all(made)
    s.flush()
    announce(s, made, State.QUEUED)
    return made


def needs(resources: Json | None) -> Json:
    """Columns of `Job` that say what its worker's device must have."""
    given = resources or {}
    return {"needs_device_type": given.get("device_type"), "needs_memory_mb": given.get("memory_mb")}


def enqueue_trials(s: Session, refs: Sequence[Mapping[str, Any]]) -> None:
    """New evaluations of trials, which tell of themselves: one statement."""
    given = {"kind": JobKind.EVALUATE.value, "payload": {}}
    if refs:
        s.execute(insert(Job), [{**given, **each} for each in refs])


def announce(s: Session, jobs: Iterable[Job | JobRow], state: State, reason: str = "") -> None:
    """An event for each job that came into this state. Those of trials speak through their trials."""
    for job in jobs:
        if job.trial_id is None:
            body = {"job": job.id, "kind": job.kind, "state": state.value, "reason": reason}
            events.emit(s, "job.state", job.study_id, job.search_id, body)


def get(s: Session, job_id: int) -> JobOut:
    """One job, or `NotFound`."""
    return views(s, [row(s, job_id)])[0]


def row(s: Session, job_id: int, *, lock: bool = False) -> Job:
    """The stored row; ``lock`` keeps others from changing it until the transaction ends."""
    query = select(Job).where(Job.id == checked_id(job_id, "job")).execution_options(populate_existing=True)
    found = s.scalars(query.with_for_update(key_share=True) if lock else query).one_or_none()
    if found is None:
        raise NotFound("job", job_id)
    return found


def page(
    s: Session,
    size: int,
    token: str | None = None,
    *,
    state: State | None = None,
    kind: JobKind | None = None,
    study: str | None = None,
    search: int | None = None,
    worker: str | None = None,
    failure: Failure | None = None,
    dead: bool = False,
) -> Page[JobOut]:
    """Jobs, newest first; all, or those that pass every filter given. ``dead``: FAILED or LOST."""
    query = select(Job)
    if state is not None:
        query = query.where(Job.state == state)
    if kind is not None:
        query = query.where(Job.kind == kind)
    if study is not None:
        query = query.where(Job.study_id == select(Study.id).where(Study.name == study).scalar_subquery())
    if search is not None:
        query = query.where(Job.search_id == checked_id(search, "search"))
    if worker is not None:
        query = query.where(Job.worker == worker)
    if failure is not None:
        query = query.where(Job.failure == failure)
    if dead:
        query = query.where(Job.state.in_(DEAD))
    rows, following = slice_of(s, query, [Job.id], size, token, descending=True)
    return Page(items=views(s, [found[0] for found in rows]), next_page_token=following)


def counts(s: Session) -> dict[State, int]:
    """How many jobs are in each state."""
    grouped = select(Job.state, func.count()).group_by(Job.state)
    return {State(state): number for state, number in s.execute(grouped)}


def views(s: Session, jobs: Sequence[Job]) -> list[JobOut]:
    """Jobs as they are shown; the names of their studies come in one query."""
    wanted = sorted({job.study_id for job in jobs if job.study_id is not None})
    names: dict[int, str] = {}
    for some in chunks(wanted):
        names.update(s.execute(select(Study.id, Study.name).where(Study.id.in_(some))).all())
    return [
        JobOut(
            id=job.id,
            kind=JobKind(job.kind),
            state=State(job.state),
            reason=job.reason,
            failure=None if job.failure is None else Failure(job.failure),
            study=names[job.study_id] if job.study_id is not None else None,
            search=job.search_id,
            trial=job.trial_id,
            priority=job.priority,
            needs=JobNeeds(
                dataset=job.needs_dataset,
                evaluator=job.needs_evaluator,
                device=job.needs_device,
                device_type=job.needs_device_type,
                memory_mb=job.needs_memory_mb,
                weights=job.needs_weights,
            ),
            worker=job.worker,
            attempts=job.attempts,
            max_attempts=job.max_attempts,
            not_before=job.not_before,
            leased_until=job.leased_until,
            progress=job.progress,
            result=job.result,
            traceback=job.traceback,
            created_at=job.created_at,
            leased_at=job.leased_at,
            ended_at=job.ended_at,
        )
        for job in jobs
    ]
