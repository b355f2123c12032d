"""Super-networks and their training."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from service.core.errors import NotFound
from service.db import events, jobs, spaces, workers
from service.db.paging import slice_of
from service.db.rows import body_of, insert_new, refuse_other
from service.db.tables import Job, Space, Supernet, now
from service.wire.base import Json, Page
from service.wire.jobs import JobKind, JobOut
from service.wire.spaces import SupernetIn, SupernetOut

CREATED, TRAINING, READY, FAILED = "CREATED", "TRAINING", "READY", "FAILED"


def create(s: Session, body: SupernetIn) -> tuple[SupernetOut, bool]:
    """Stores a super-network, untrained; the bool says whether it is new. Another body is a `Conflict`."""
    given = body_of(body)
    stored = _find(s, body.name)
    if stored is None:
        space = spaces.row(s, body.space)
        task, _ = workers.pinned(s, body.task)
        values = {
            "name": body.name,
            "space_id": space.id,
            "task": task.model_dump(mode="json"),
            "recipe": given["recipe"],
            "seed": body.seed,
            "resources": given["resources"],
            "body": given,
            "created_at": now(),
        }
        new = bool(insert_new(s, Supernet, [values], Supernet.id))
        stored = row(s, body.name)
        if new:
            _emit(s, stored)
            return _views(s, [stored])[0], True
    refuse_other("supernet", body.name, stored.body, given, SupernetIn)
    return _views(s, [stored])[0], False


def get(s: Session, name: str) -> SupernetOut:
    """One super-network, or `NotFound`."""
    return _views(s, [row(s, name)])[0]


def page(s: Session, size: int, token: str | None = None) -> Page[SupernetOut]:
    """Super-networks in the order in which they were made."""
    rows, following = slice_of(s, select(Supernet), [Supernet.id], size, token)
    return Page(items=_views(s, [found[0] for found in rows]), next_page_token=following)


def row(s: Session, name: str) -> Supernet:
    """The stored row, or `NotFound`."""
    found = _find(s, name)
    if found is None:
        raise NotFound("supernet", name)
    return found


def train(s: Session, name: str) -> JobOut:
    """Queues the training; while it runs, and once it has succeeded, answers with the job that does or did it."""
    stored = row(s, name)
    # The condition is checked by the update itself: of two callers one starts the training.
    starts = update(Supernet).where(Supernet.id == stored.id, Supernet.state.in_([CREATED, FAILED]))
    started = s.execute(starts.values(state=TRAINING).returning(Supernet.id)).scalar_one_or_none()
    if started is None:
        return jobs.get(s, _newest_jobs(s, [stored.id])[stored.id])
    job = jobs.enqueue(s, JobKind.TRAIN_SUPERNET, supernet_id=stored.id, **_needs(stored))
    s.refresh(stored)
    _emit(s, stored)
    return jobs.views(s, [job])[0]


def ended(s: Session, stored: Supernet) -> None:
    """Tells the world that a training has ended; the caller has set its state."""
    _emit(s, stored)


def retrained(s: Session, stored: Supernet) -> None:
    """A training that had failed is queued once more."""
    stored.state, stored.summary = TRAINING, {}
    _emit(s, stored)


def _needs(stored: Supernet) -> Json:
    return {"needs_dataset": stored.task["digest"], **jobs.needs(stored.resources)}


def _emit(s: Session, stored: Supernet) -> None:
    events.emit(s, "supernet.state", body={"supernet": stored.name, "state": stored.state or CREATED})


def _find(s: Session, name: str) -> Supernet | None:
    query = select(Supernet).where(Supernet.name == name).execution_options(populate_existing=True)
    return s.scalars(query).one_or_none()


def _newest_jobs(s: Session, supernet_ids: Sequence[int]) -> dict[int, int]:
    query = (
        select(Job.supernet_id, func.max(Job.id))
        .where(Job.supernet_id.in_(supernet_ids), Job.kind == JobKind.TRAIN_SUPERNET)
        .group_by(Job.supernet_id)
    )
    return {supernet: job for supernet, job in s.execute(query) if supernet is not None}


def _views(s: Session, supernets: Sequence[Supernet]) -> list[SupernetOut]:
    trained_by = _newest_jobs(s, [each.id for each in supernets])
    wanted = {each.space_id for each in supernets}
    names = dict(s.execute(select(Space.id, Space.name).where(Space.id.in_(wanted))).all())
    return [
        SupernetOut(
            name=each.name,
            space=names[each.space_id],
            task=each.task,
            recipe=each.recipe,
            seed=each.seed,
            resources=each.resources or {},
            state=each.state,
            weights=each.weights,
            job=trained_by.get(each.id),
            summary=each.summary,
            created_at=each.created_at,
        )
        for each in supernets
    ]
