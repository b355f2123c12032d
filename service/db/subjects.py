"""What evaluations are about, read for a batch of jobs in one query."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.core.metrics import Circumstances, Scope, metric
from service.db import spaces, studies
from service.db.architectures import unpack
from service.db.tables import Architecture, Job, Space, Study, Supernet, Trial
from service.wire.base import Metrics


@dataclass(frozen=True, slots=True)
class Subject:
    """One evaluation: its job, the trial it is made for if any, the architecture and what it is measured in."""

    job: Job
    trial: Trial | None
    architecture: Architecture
    study: Study
    space: Space
    weights: str | None

    @property
    def split(self) -> str:
        """The images that are measured on."""
        return str(self.job.payload.get("split", "validation"))

    @property
    def seed(self) -> int:
        """Seed of the evaluation."""
        return int(self.job.payload.get("seed", studies.EVALUATION_SEED))

    @property
    def fidelity(self) -> float:
        """1 is the full evaluation."""
        return 1.0 if self.trial is None else self.trial.fidelity

    @property
    def wanted(self) -> tuple[str, ...]:
        """The metrics that the evaluation is to give."""
        return tuple(self.job.payload.get("metrics", ()) if self.trial is None else self.trial.wanted)

    def circumstances(self, device: str | None = None) -> Circumstances:
        """What its measurements depend on."""
        return studies.circumstances_with(
            self.study, self.weights, self.split, device, fidelity=self.fidelity, seed=self.seed
        )


def read(s: Session, jobs: Sequence[Job]) -> dict[int, Subject]:
    """Job id → subject, of jobs that have an architecture and a study."""
    if not jobs:
        return {}
    # Studies and spaces are few and large: once each, not with every row.
    of_study = (
        select(Study, Space, Supernet.weights)
        .join(Space, Space.id == Study.space_id)
        .outerjoin(Supernet, Supernet.id == Study.supernet_id)
        .where(Study.id.in_({job.study_id for job in jobs}))
        .execution_options(populate_existing=True)
    )
    shared = {study.id: (study, space, weights) for study, space, weights in s.execute(of_study)}
    of_job = (
        select(Job.id, Trial, Architecture)
        .join(Architecture, Architecture.id == Job.architecture_id)
        .outerjoin(Trial, Trial.id == Job.trial_id)
        .where(Job.id.in_([job.id for job in jobs]))
        .execution_options(populate_existing=True)
    )
    by_id = {job.id: job for job in jobs}
    result = {}
    for job_id, trial, architecture in s.execute(of_job):
        job = by_id[job_id]
        if job.study_id is not None:
            result[job_id] = Subject(job, trial, architecture, *shared[job.study_id])
    return result


def analytic(subjects: Sequence[Subject]) -> dict[int, Metrics]:
    """Job id → the wanted metrics that follow from the architecture alone, computed for all at once."""
    by_space: dict[int, list[Subject]] = {}
    for subject in subjects:
        by_space.setdefault(subject.space.id, []).append(subject)
    result: dict[int, Metrics] = {}
    for group in by_space.values():
        space = spaces.load(group[0].space)
        costs = space.cost(unpack([subject.architecture.genes for subject in group], len(space.choices)))
        for index, subject in enumerate(group):
            result[subject.job.id] = {
                name: float(costs[name][index]) for name in subject.wanted if metric(name).scope is Scope.ANALYTIC
            }
    return result
