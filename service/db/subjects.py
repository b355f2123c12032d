"""What evaluations are about, for a batch of jobs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import bindparam, select
from sqlalchemy.orm import Session, defer, load_only

from service.core.metrics import Circumstances, Scope, metric
from service.db import evaluators, spaces, studies
from service.db.architectures import unpack
from service.db.job_rows import JobRow, TrialRow
from service.db.tables import Job, Space, Study, Supernet
from service.wire.base import Json, Metrics

# Studies and spaces are few and large: once each, not with every job.
_OF_STUDIES = (
    select(Study, Space, Supernet.weights)
    .join(Space, Space.id == Study.space_id)
    .outerjoin(Supernet, Supernet.id == Study.supernet_id)
    .where(Study.id.in_(bindparam("studies", expanding=True)))
    # Others are large, and no evaluation depends on them.
    .options(load_only(Study.name, Study.supernet_id, Study.task, Study.evaluator), defer(Space.choices))
    .execution_options(populate_existing=True)
)


@dataclass(frozen=True, slots=True)
class Subject:
    """One evaluation: its job, the trial it is made for if any, the architecture and what it is measured in.

    Attributes:
        evaluator: Name and options of what measures: the study's, unless the job says otherwise.
        weights: Those that the evaluator uses.
        split: The images that are measured on.
        seed: Of the evaluation.
        fidelity: 1 is the full evaluation.
        wanted: The metrics that the evaluation is to give.
    """

    job: JobRow
    trial: TrialRow | None
    architecture_id: int
    genes: bytes
    study: Study
    space: Space
    evaluator: Json
    weights: str | None
    split: str
    seed: int
    fidelity: float
    wanted: tuple[str, ...]

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
    made: dict[tuple[object, ...], Circumstances] = {}
    result = {}
    for each in subjects:
        # The evaluator by identity: that of a study is one object, and an object's id is its own while a subject lives.
        key = (each.job.study_id, id(each.evaluator), each.split, each.fidelity, each.seed, each.job.kind)
        if key not in made:
            made[key] = each.circumstances(device)
        result[each.job.id] = made[key]
    return result


def evaluator_of(job: Job | JobRow, study: Study) -> Json:
    """Name and options of the evaluator of a job: the study's, unless its payload names another."""
    given: Json = job.payload.get("evaluator", study.evaluator)
    return given


def read(s: Session, jobs: Sequence[JobRow]) -> dict[int, Subject]:
    """Job id → subject, of jobs that have an architecture and a study."""
    wanted = {job.study_id for job in jobs if job.study_id is not None}
    if not wanted:
        return {}
    of_studies = s.execute(_OF_STUDIES, {"studies": sorted(wanted)})
    shared = {study.id: (study, space, weights) for study, space, weights in of_studies}
    result = {}
    for job in jobs:
        if job.study_id is None or job.architecture_id is None or job.genes is None:
            continue
        study, space, weights = shared[job.study_id]
        evaluator, said, trial = evaluator_of(job, study), job.payload, job.trial
        result[job.id] = Subject(
            job=job,
            trial=trial,
            architecture_id=job.architecture_id,
            genes=job.genes,
            study=study,
            space=space,
            evaluator=evaluator,
            weights=studies.weights_used(study, evaluator, weights),
            split=said.get("split", "validation"),
            seed=said.get("seed", studies.EVALUATION_SEED),
            fidelity=1.0 if trial is None else trial.fidelity,
            wanted=tuple(said.get("metrics", ()) if trial is None else trial.wanted),
        )
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
