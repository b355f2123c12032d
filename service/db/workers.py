"""Workers, and the data sets that they announce."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from datetime import datetime, timedelta

from sqlalchemy import bindparam, select, update
from sqlalchemy.orm import Session

from service.core.errors import Invalid, NotFound
from service.core.states import State
from service.db import devices, events
from service.db.devices import ALIVE
from service.db.job_rows import JobRow
from service.db.paging import slice_of
from service.db.rows import insert_new, upsert
from service.db.tables import Dataset, Job, Worker, now
from service.wire.base import Page
from service.wire.jobs import WorkerIn, WorkerOut
from service.wire.spaces import DatasetOut, Task

_SEEN_EVERY = timedelta(seconds=5)
_LONGEST_NAME = 63
_ANNOUNCED = Dataset.classes > 0


def announce(s: Session, body: WorkerIn) -> WorkerOut:
    """Stores what a worker can do, its device, and its data sets. A second announcement replaces the first.

    Raises `Invalid` for a device that cannot be registered; see `devices.register`.
    """
    time = now()
    devices.register(s, body.device)
    said = body.model_dump(mode="json")
    known = {
        "kinds": said["kinds"],
        "device": said["device"],
        "datasets": [dataset.digest for dataset in body.datasets],
        "evaluators": said["evaluators"],
        "last_seen_at": time,
    }
    statement = upsert(Worker, s.get_bind().dialect.name).values(name=body.name, created_at=time, **known)
    s.execute(statement.on_conflict_do_update(index_elements=["name"], set_=known))
    datasets = sorted(said["datasets"], key=lambda dataset: (dataset["name"], dataset["digest"]))
    insert_new(s, Dataset, [{**dataset, "created_at": time} for dataset in datasets])
    for each in datasets:  # what was only declared before is known now
        stored = update(Dataset).where(Dataset.name == each["name"], Dataset.digest == each["digest"], ~_ANNOUNCED)
        s.execute(stored.values(**each), execution_options={"synchronize_session": False})
    events.emit(s, "worker.seen", body={"worker": body.name, "kinds": said["kinds"], "device": body.device.name})
    return get(s, body.name)


def get(s: Session, name: str) -> WorkerOut:
    """One worker, or `NotFound`."""
    return _views(s, [row(s, name)])[0]


def page(s: Session, size: int, token: str | None = None) -> Page[WorkerOut]:
    """Workers by name."""
    rows, following = slice_of(s, select(Worker), [Worker.name], size, token)
    return Page(items=_views(s, [found[0] for found in rows]), next_page_token=following)


_NAMED = (
    select(Worker).where(Worker.name.in_(bindparam("names", expanding=True))).execution_options(populate_existing=True)
)


def row(s: Session, name: str) -> Worker:
    """The stored row; `NotFound` if this worker never announced itself."""
    return several(s, [name])[name]


def several(s: Session, names: Collection[str]) -> dict[str, Worker]:
    """Name → stored row; `NotFound` if one of these workers never announced itself."""
    found = {worker.name: worker for worker in s.scalars(_NAMED, {"names": sorted(set(names))})}
    for name in names:
        if name not in found:
            raise NotFound("worker", name)
    return found


def forgotten(worker: Worker, time: datetime) -> bool:
    """Whether it is time to write that this worker was `seen`."""
    return worker.last_seen_at < time - _SEEN_EVERY


def seen(s: Session, names: Collection[str], time: datetime) -> None:
    """Workers were heard of. Written at most every few seconds, since they say so with every heartbeat."""
    late = update(Worker).where(Worker.name.in_(names), Worker.last_seen_at < time - _SEEN_EVERY)
    s.execute(late.values(last_seen_at=time), execution_options={"synchronize_session": False})


def larger_memory(s: Session, job: JobRow) -> int | None:
    """MiB that a device must have at least to be larger than the one that a job was tried on; None if no worker that
    is alive, and has what else the job needs, has one."""
    used = s.scalars(select(Worker).where(Worker.name == job.worker)).one_or_none()
    least = max(job.needs_memory_mb or 0, 0 if used is None else int(used.device["memory_mb"])) + 1
    alive = s.scalars(select(Worker).where(Worker.last_seen_at > now() - ALIVE))
    return least if any(each.device["memory_mb"] >= least and _serves(each, job) for each in alive) else None


def _serves(worker: Worker, job: JobRow) -> bool:
    """Whether a worker has what a job needs, but for memory."""
    needs = (
        (job.needs_dataset, worker.datasets),
        (job.needs_evaluator, worker.evaluators),
        (job.needs_device, [worker.device["name"]]),
        (job.needs_device_type, [worker.device["type"]]),
    )
    return job.kind in worker.kinds and all(need is None or need in there for need, there in needs)


def datasets_page(s: Session, size: int, token: str | None = None) -> Page[DatasetOut]:
    """All data sets that were ever announced, by name."""
    rows, following = slice_of(s, select(Dataset), [Dataset.name, Dataset.digest], size, token)
    return Page(items=[_dataset_view(found[0]) for found in rows], next_page_token=following)


def dataset(s: Session, name: str, digest: str | None = None) -> Dataset:
    """What was announced with this name and digest; with this name, and last, without a digest. Or `NotFound`."""
    found = _dataset(s, name, digest, declared=False)
    if found is None:
        raise NotFound("dataset", name if digest is None else f"{name} ({digest})")
    return found


def pinned(s: Session, task: Task, *, declare: bool = False) -> tuple[Task, Dataset]:
    """The task with its data set's digest filled in: without one, that of the data set announced last.

    With ``declare`` no worker need have the data set: a name that nobody has announced is stored as it is, with the
    digest given or one of the name. Raises `Invalid` for ``task.dataset`` or ``task.digest``.
    """
    found = _dataset(s, task.dataset, task.digest, declare)
    if found is None and declare:
        if not 0 < len(task.dataset) <= _LONGEST_NAME or not task.dataset.isprintable():
            raise Invalid("task.dataset", f"must be 1 to {_LONGEST_NAME} printable characters, is {task.dataset!r:.80}")
        digest = task.digest or hashlib.sha256(f"declared:{task.dataset}".encode()).hexdigest()
        row = {"name": task.dataset, "digest": digest, "shape": [], "classes": 0, "counts": {}, "created_at": now()}
        insert_new(s, Dataset, [row])
        found = _dataset(s, task.dataset, digest, declare)
    if found is None:
        names = sorted(s.scalars(select(Dataset.name).where(_ANNOUNCED).distinct()))
        if task.dataset in names:
            raise Invalid("task.digest", f"no worker has announced {task.dataset!r} with this content")
        raise Invalid(
            "task.dataset", f"no worker has announced {task.dataset!r}, there are: {', '.join(names) or 'none'}"
        )
    return Task(dataset=found.name, digest=found.digest), found


def is_announced(s: Session, digest: str) -> bool:
    """Whether some worker has, or had, the data set of this content."""
    return s.scalars(select(Dataset.digest).where(Dataset.digest == digest, _ANNOUNCED).limit(1)).first() is not None


def ensure(s: Session, name: str) -> Worker:
    """The row of this worker; one that never announced itself gets one, as a pipeline that runs no jobs of its own."""
    time = now()
    device = {"name": name, "type": "external", "memory_mb": 0, "software": {}}
    known = {"kinds": [], "device": device, "datasets": [], "evaluators": [], "last_seen_at": time, "created_at": time}
    if insert_new(s, Worker, [{"name": name, **known}], Worker.name):
        devices.ensure(s, name)
        events.emit(s, "worker.seen", body={"worker": name, "kinds": [], "device": name})
    return row(s, name)


def _dataset(s: Session, name: str, digest: str | None, declared: bool) -> Dataset | None:
    query = select(Dataset).where(Dataset.name == name)
    if digest is not None:
        query = query.where(Dataset.digest == digest)
    if not declared:
        query = query.where(_ANNOUNCED)
    last = query.order_by(_ANNOUNCED.desc(), Dataset.created_at.desc(), Dataset.digest).limit(1)
    return s.scalars(last).one_or_none()


def _views(s: Session, workers: Sequence[Worker]) -> list[WorkerOut]:
    held: dict[str | None, list[int]] = {}
    wanted = [worker.name for worker in workers]
    query = select(Job.worker, Job.id).where(Job.state == State.LEASED, Job.worker.in_(wanted)).order_by(Job.id)
    for name, job in s.execute(query):
        held.setdefault(name, []).append(job)
    digests = {digest for worker in workers for digest in worker.datasets}
    known = {found.digest: found for found in s.scalars(select(Dataset).where(Dataset.digest.in_(digests)))}
    time = now()
    return [
        WorkerOut(
            name=worker.name,
            kinds=worker.kinds,
            device=worker.device,
            datasets=[_dataset_view(known[digest]) for digest in worker.datasets if digest in known],
            evaluators=worker.evaluators,
            alive=time - worker.last_seen_at <= ALIVE,
            jobs=held.get(worker.name, []),
            last_seen_at=worker.last_seen_at,
        )
        for worker in workers
    ]


def _dataset_view(found: Dataset) -> DatasetOut:
    return DatasetOut(
        name=found.name, digest=found.digest, shape=found.shape, classes=found.classes, counts=found.counts
    )
