"""Jobs that failed: which pass a filter, and which failed alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Row, func, select
from sqlalchemy.orm import Session

from service.core import reasons
from service.core.errors import Invalid, NotFound
from service.core.failures import Failure
from service.core.states import DEAD, State
from service.db import studies
from service.db.paging import checked_id
from service.db.tables import Job, Search, Study
from service.wire.jobs import FailureGroup, FailuresOut, JobKind, JobsIn

NEWEST = 2000
"""Failed jobs that are looked at for groups: the newest, of dead letters and of jobs that wait for another try each."""

GROUPS = 200
"""Groups in one answer, at most."""

_SCANNED = 5000
_TAIL = 500
_FAILED_AT = func.coalesce(Job.ended_at, Job.leased_at, Job.created_at)
_TO_GROUP = (Job.id, Job.kind, Job.failure, Job.reason, Job.worker)


def groups(
    s: Session,
    *,
    kind: JobKind | None = None,
    study: str | None = None,
    search: int | None = None,
    since: datetime | None = None,
) -> FailuresOut:
    """Dead letters, and jobs that wait for another try, grouped by kind, class of failure and `reasons.pattern`.

    The `NEWEST` of either are looked at, and the `GROUPS` with most jobs are answered. ``since``: only those that
    failed from then on. Raises `NotFound` for a study or search that is not there.
    """
    wanted = _about(s, kind, study, search)
    if since is not None:
        wanted.append(since <= _FAILED_AT)
    kinds_of = (Job.state.in_(DEAD), (Job.state == State.QUEUED) & Job.failure.is_not(None))
    found: dict[str, _Alike] = {}
    looked_at, more = 0, False
    for which in kinds_of:
        query = select(*_TO_GROUP, Job.state, _FAILED_AT.label("failed_at")).where(which, *wanted)
        rows = s.execute(query.order_by(Job.id.desc()).limit(NEWEST + 1)).all()
        more = more or len(rows) > NEWEST
        looked_at += len(rows[:NEWEST])
        for row in rows[:NEWEST]:
            name, reason = _group(row)
            found.setdefault(name, _Alike(name, row.kind, row.failure, reason)).add(row)
    largest = sorted(found.values(), key=lambda each: (-each.dead - each.waiting, -each.job))
    shown = largest[:GROUPS]
    return FailuresOut(groups=_views(s, shown), looked_at=looked_at, more=more or len(largest) > GROUPS)


@dataclass(slots=True)
class _Alike:
    """Jobs that failed alike, as they are counted."""

    group: str
    kind: str
    failure: str | None
    reason: str
    dead: int = 0
    waiting: int = 0
    job: int = 0
    times: list[datetime] = field(default_factory=list)

    def add(self, row: Row[*tuple[Any, ...]]) -> None:
        if row.state == State.QUEUED:
            self.waiting += 1
        else:
            self.dead += 1
        self.job = max(self.job, row.id)
        self.times.append(row.failed_at)


def _group(row: Row[*tuple[Any, ...]]) -> tuple[str, str]:
    """The name of a job's group, and the reason as its members have it."""
    reason = reasons.pattern(row.reason, row.worker)
    return reasons.group_of(row.kind, row.failure, reason), reason


def _views(s: Session, shown: Sequence[_Alike]) -> list[FailureGroup]:
    # Of tracebacks, which are long, only their ends.
    tail = func.substr(Job.traceback, func.length(Job.traceback) - _TAIL + 1)
    examples = select(Job.id, Study.name, tail).outerjoin(Study, Study.id == Job.study_id)
    known = {each: rest for each, *rest in s.execute(examples.where(Job.id.in_([alike.job for alike in shown])))}
    return [
        FailureGroup(
            group=each.group,
            kind=JobKind(each.kind),
            failure=None if each.failure is None else Failure(each.failure),
            reason=each.reason,
            dead=each.dead,
            waiting=each.waiting,
            first_at=min(each.times),
            last_at=max(each.times),
            job=each.job,
            study=known[each.job][0],
            last_line=_last_line(known[each.job][1]),
        )
        for each in shown
    ]


def _last_line(traceback: str | None) -> str | None:
    lines = (traceback or "").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), None)


# ---------------------------------------------------------------------- filters


@dataclass(frozen=True, slots=True)
class Selected:
    """Jobs that pass a filter, by id. ``unknown`` were asked for by id, and do not; ``next`` as in the answer."""

    ids: list[int]
    unknown: list[int]
    next: int | None


def selected(s: Session, body: JobsIn, states: Sequence[State]) -> Selected:
    """The next jobs in one of ``states`` that pass all filters; those asked for by id in whatever state.

    At most ``body.limit`` behind ``body.after``; of a group fewer where others lie between. Raises `Invalid` without
    any filter, or for a ``state`` that is none of ``states``, and `NotFound` for a study or search that is not there.
    """
    given = body.model_dump(exclude_none=True, exclude={"after", "limit", "dry_run"})
    if not given:
        names = "ids, study, search, kind, state, failure, worker or group"
        raise Invalid("filter", f"is empty, which would mean every job: give at least one of {names}")
    if body.state is not None and body.state not in states:
        raise Invalid("state", f"must be one of {', '.join(states)} here, is {body.state}")
    wanted = [*_about(s, body.kind, body.study, body.search), Job.id > body.after]
    if body.state is not None:
        wanted.append(Job.state == body.state)
    elif body.ids is None:
        wanted.append(Job.state.in_(states))
    if body.ids is not None:
        wanted.append(Job.id.in_(body.ids))
    if body.failure is not None:
        wanted.append(Job.failure == body.failure)
    if body.worker is not None:
        wanted.append(Job.worker == body.worker)
    scanned = body.limit if body.group is None else _SCANNED
    rows = s.execute(select(*_TO_GROUP).where(*wanted).order_by(Job.id).limit(scanned + 1)).all()
    more, last, ids = len(rows) > scanned, body.after, list[int]()
    for row in rows[:scanned]:
        if len(ids) == body.limit:
            more = True
            break
        last = row.id
        if body.group is None or _group(row)[0] == body.group:
            ids.append(row.id)
    following = last if more else None
    unknown = {each for each in body.ids or () if body.after < each and (following is None or each <= following)}
    return Selected(ids, sorted(unknown.difference(ids)), following)


def _about(s: Session, kind: JobKind | None, study: str | None, search: int | None) -> list[ColumnElement[bool]]:
    wanted: list[ColumnElement[bool]] = []
    if kind is not None:
        wanted.append(Job.kind == kind)
    if study is not None:
        wanted.append(Job.study_id == studies.row(s, study).id)
    if search is not None:
        if s.get(Search, checked_id(search, "search")) is None:
            raise NotFound("search", search)
        wanted.append(Job.search_id == search)
    return wanted
