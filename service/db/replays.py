"""Tables: what a study has measured or imported, as the evaluator of another study, or of itself, replays it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sqlalchemy import func, select, tuple_
from sqlalchemy.orm import Session

from service.core.metrics import Scope, context_digest, metric
from service.core.scoring import Scoring
from service.db import evaluators, fronts, ledger, studies
from service.db.rows import chunks
from service.db.subjects import Subject
from service.db.tables import Context, Measurement, Study, StudyMeasurement


@dataclass(frozen=True, slots=True)
class Row:
    """What a table holds of one architecture.

    ``values`` are means over replicates, ``seconds`` what each had cost on average. Metrics of device scope that name
    no device belong to ``device``: the one with the most measurements in the table; "" if there is none.
    """

    table: str
    scale: float
    device: str
    values: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Table:
    """One study, read in one way: metric → digest of the context that counts."""

    study: Study
    scale: float
    contexts: Mapping[str, str]
    device: str


def rows(s: Session, subjects: Sequence[Subject]) -> dict[int, Row]:
    """Job id → what the table of the job's study holds of its architecture, of the metrics it wants.

    Values are read as the table's own study reads them, at the fidelity, split and seed of the job. Raises `Invalid`
    if the table is gone.
    """
    result: dict[int, Row] = {}
    for table, group in _tables(s, subjects):
        by_architecture: dict[int, list[Row]] = {}
        for subject in group:
            row = Row(table.study.name, table.scale, table.device)
            result[subject.job.id] = row
            by_architecture.setdefault(subject.architecture_id, []).append(row)
        for architecture, name, value, seconds in _means(s, table, sorted(by_architecture)):
            for row in by_architecture[architecture]:
                row.values[name], row.seconds[name] = value, seconds
    return result


def holds(s: Session, study: Study, names: Sequence[str]) -> bool:
    """Whether the table of a study holds scores by all of these proxies, others than the service's workers give."""
    table, _ = evaluators.table_of(s, study)
    own = studies.circumstances_with(table, None, scoring=Scoring())
    with fronts.of(s).study(s, table.id) as measured:
        contexts = measured.contexts(names)
    return all(name in contexts and contexts[name] != context_digest(own.context(name)) for name in names)


def devices(s: Session, subjects: Sequence[Subject]) -> dict[int, str | None]:
    """Job id → the device whose metrics the table of the job's study replays, None where they name their own."""
    return {subject.job.id: table.device or None for table, group in _tables(s, subjects) for subject in group}


def _tables(s: Session, subjects: Sequence[Subject]) -> list[tuple[_Table, list[Subject]]]:
    """The subjects, those together that read one table in one way."""
    groups: dict[tuple[int, str, float, int], list[Subject]] = {}
    for subject in subjects:
        groups.setdefault((subject.study.id, subject.split, subject.fidelity, subject.seed), []).append(subject)
    result = []
    for (_, split, fidelity, seed), group in groups.items():
        study, options = evaluators.table_of(s, group[0].study)
        wanted = dict.fromkeys(
            name for subject in group for name in subject.wanted if metric(name).scope is not Scope.ANALYTIC
        )
        read_in = studies.circumstances_with(study, studies.weights(s, study), split, fidelity=fidelity, seed=seed)
        contexts = ledger.study_contexts(s, study.id, read_in, list(wanted))
        result.append((_Table(study, options.scale or 0.0, contexts, _device(s, contexts)), group))
    return result


def _device(s: Session, contexts: Mapping[str, str]) -> str:
    for name, digest in contexts.items():
        if metric(name).scope is Scope.DEVICE and "@" not in name:
            body = s.scalars(select(Context.body).where(Context.digest == digest)).one()
            return str(body["device"] or "")
    return ""


def _means(s: Session, table: _Table, architectures: Sequence[int]) -> list[tuple[int, str, float, float]]:
    """(architecture, metric, mean value, mean seconds) of what the table's study links."""
    if not table.contexts:
        return []
    query = (
        select(
            Measurement.architecture_id, Measurement.metric, func.avg(Measurement.value), func.avg(Measurement.seconds)
        )
        .join(StudyMeasurement, StudyMeasurement.measurement_id == Measurement.id)
        .where(StudyMeasurement.study_id == table.study.id)
        .where(tuple_(Measurement.metric, Measurement.context_digest).in_(sorted(table.contexts.items())))
        .group_by(Measurement.architecture_id, Measurement.metric)
    )
    return [
        (architecture, name, float(value), float(seconds))
        for some in chunks(architectures)
        for architecture, name, value, seconds in s.execute(query.where(Measurement.architecture_id.in_(some)))
    ]
