"""Jobs about architectures that are not trials: exported networks, and test values of the front."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.core.errors import Conflict
from service.core.evaluators import EXTERNAL
from service.core.metrics import Scope, metric
from service.core.states import OPEN, State
from service.db import architectures, evaluators, front, jobs, ledger, spaces, studies
from service.db.rows import chunks
from service.db.tables import Architecture, Job
from service.wire.jobs import JobKind, JobOut
from service.wire.studies import ExportIn

TEST = "test"


def export(s: Session, study_name: str, key: str, body: ExportIn) -> JobOut:
    """Queues the export of an architecture with the study's super-network weights.

    The same export is made once: while it waits, and once it has succeeded, its job is the answer. Raises `Conflict`
    without trained weights, `NotFound` for an unknown key.
    """
    study = studies.row(s, study_name)
    stored = architectures.row(s, spaces.row(s, study.space_id).digest, key)
    weights = studies.weights(s, study)
    if weights is None:
        raise Conflict(f"study {study_name!r} has no trained super-network whose weights could be exported")
    payload = {"formats": sorted(set(body.formats))}
    made = select(Job).where(
        Job.architecture_id == stored.id,
        Job.study_id == study.id,
        Job.kind == JobKind.EXPORT,
        Job.state.in_(OPEN | {State.SUCCEEDED}),
    )
    for job in s.scalars(made.order_by(Job.id.desc())):
        if job.payload == payload:
            return jobs.views(s, [job])[0]
    job = jobs.enqueue(
        s,
        JobKind.EXPORT,
        study_id=study.id,
        architecture_id=stored.id,
        needs_dataset=study.task["digest"],
        needs_weights=weights,
        payload=payload,
    )
    return jobs.views(s, [job])[0]


def test_front(s: Session, study_name: str) -> list[JobOut]:
    """Queues the measurement on the test split of the front's architectures that have no test values yet.

    Returns those jobs and the ones that wait already. They are no trials: no search ever sees their values. Raises
    `Conflict` where a pipeline measures: it is asked for trials alone.
    """
    study = studies.row(s, study_name)
    if study.evaluator["name"] == EXTERNAL:
        raise Conflict(f"study {study_name!r} is measured by its users' pipeline: import its values of the test split")
    metrics = [name for name in study.metrics if metric(name).scope is Scope.TASK]
    space = spaces.row(s, study.space_id)
    keys = [point.key for point in front.front(s, study_name, None).points]
    ids: list[int] = []
    for some in chunks(keys):
        query = select(Architecture.id).where(Architecture.space_digest == space.digest, Architecture.key.in_(some))
        ids += s.scalars(query.order_by(Architecture.id))
    weights = studies.weights(s, study)
    needed = evaluators.needs(s, study, weights)
    circumstances = studies.circumstances_with(study, weights, TEST)
    answers = ledger.known(s, [ledger.Question(each, tuple(metrics), circumstances) for each in ids])
    ledger.link(s, [(study.id, [one.measurement_id for one in answer.values()]) for answer in answers])
    waiting = [
        job
        for job in s.scalars(
            select(Job)
            .where(Job.study_id == study.id, Job.kind == needed["kind"], Job.trial_id.is_(None), Job.state.in_(OPEN))
            .order_by(Job.id)
        )
        if job.payload.get("split") == TEST
    ]
    busy = {job.architecture_id for job in waiting}
    todo = [each for each, answer in zip(ids, answers, strict=True) if len(answer) < len(metrics) and each not in busy]
    made = jobs.enqueue_all(
        s,
        needed["kind"],
        [
            {
                "study_id": study.id,
                "architecture_id": each,
                **needed,
                "payload": {"split": TEST, "metrics": metrics},
            }
            for each in todo
        ],
    )
    return jobs.views(s, [*waiting, *made])
