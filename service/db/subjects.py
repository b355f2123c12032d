"""What evaluations are about, read for a batch of jobs in one query."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import bindparam, select
from sqlalchemy.orm import Session, defer

from service.core.metrics import Circumstances, Scope, metric
from service.db import evaluators, spaces, studies
from service.db.architectures import unpack
from service.db.rows import table_of
from service.db.tables import Architecture, Job, Space, Study, Supernet, Trial
from service.db.trial_ends import TRIAL_COLUMNS, TrialRow
from service.wire.base import Json, Metrics

_JOBS = table_of(Job)
_TRIALS = table_of(Trial)
_ARCHITECTURES = table_of(Architecture)
_OF_JOBS = (
    select(_JOBS.c.id, *TRIAL_COLUMNS)
    .join(_ARCHITECTURES, _ARCHITECTURES.c.id == _JOBS.c.architecture_id)
    .outerjoin(_TRIALS, _TRIALS.c.id == _JOBS.c.trial_id)
    .where(_JOBS.c.id.in_(bindparam("jobs", expanding=True)))
)
# Studies and spaces are few and large: once each, not with every row.
_OF_STUDIES = (
    select(Study, Space, Supernet.weights)
    .join(Space, Space.id == Study.space_id)
    .outerjoin(Supernet, Supernet.id == Study.supernet_id)
    .where(Study.id.in_(bindparam("studies", expanding=True)))
    # Large, and no evaluation depends on them.
    .options(defer(Study.body), defer(Space.choices))
    .execution_options(populate_existing=True)
)


@dataclass(frozen=True, slots=True)
class Subject:
    """One evaluation: its job, the trial it is made for if any, the architecture and what it is measured in.

    ``weights`` are those that its evaluator uses.
    """

    job: Job
    trial: TrialRow | None
    architecture_id: int
    genes: bytes
    study: Study
    space: Space
    weights: str | None

    @property
    def evaluator(self) -> Json:
        """Name and options of what measures: the study's, unless the job says otherwise."""
        return evaluator_of(self.job, self.study)

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
            self.study,
            self.weights,
            self.split,
            device,
            evaluator=self.evaluator,
            fidelity=self.fidelity,
            seed=self.seed,
            scoring=evaluators.scoring(self.job.kind, self.evaluator["name"]),
        )


def circumstances(subjects: Iterable[Subject], device: str | None = None) -> dict[int, Circumstances]:
    """Job id → what its measurements depend on; one object for all that depend on the same (see `ledger`)."""
    made: dict[tuple[int, int, str, float, int, str], Circumstances] = {}
    result = {}
    for each in subjects:
        # The evaluator by identity: that of a study is one object, and an object's id is its own while a subject lives.
        key = (each.study.id, id(each.evaluator), each.split, each.fidelity, each.seed, each.job.kind)
        if key not in made:
            made[key] = each.circumstances(device)
        result[each.job.id] = made[key]
    return result


def evaluator_of(job: Job, study: Study) -> Json:
    """Name and options of the evaluator of a job: the study's, unless its payload names another."""
    given: Json = job.payload.get("evaluator", study.evaluator)
    return given


def read(s: Session, jobs: Sequence[Job]) -> dict[int, Subject]:
    """Job id → subject, of jobs that have an architecture and a study."""
    if not jobs:
        return {}
    of_studies = s.execute(_OF_STUDIES, {"studies": sorted({job.study_id for job in jobs if job.study_id is not None})})
    shared = {study.id: (study, space, weights) for study, space, weights in of_studies}
    by_id = {job.id: job for job in jobs}
    result = {}
    for job_id, *columns in s.execute(_OF_JOBS, {"jobs": list(by_id)}):
        job, row = by_id[job_id], TrialRow(*columns)
        if job.study_id is not None:
            trial = None if job.trial_id is None else row
            study, space, weights = shared[job.study_id]
            used = studies.weights_used(study, evaluator_of(job, study), weights)
            result[job_id] = Subject(job, trial, row.architecture_id, row.genes, study, space, used)
    return result


def analytic(subjects: Sequence[Subject]) -> dict[int, Metrics]:
    """Job id → the wanted metrics that follow from the architecture alone, computed for all at once."""
    by_space: dict[int, list[Subject]] = {}
    for subject in subjects:
        by_space.setdefault(subject.space.id, []).append(subject)
    result: dict[int, Metrics] = {}
    for group in by_space.values():
        space = spaces.load(group[0].space)
        costs = space.cost(unpack([subject.genes for subject in group], len(space.choices)))
        for index, subject in enumerate(group):
            result[subject.job.id] = {
                name: float(costs[name][index]) for name in subject.wanted if metric(name).scope is Scope.ANALYTIC
            }
    return result
