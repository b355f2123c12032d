"""What a study has found: its front, hypervolumes, predictions beside measurements, single architectures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from sqlalchemy import select
from sqlalchemy.orm import Session

from predictors.ranking import concordance, kendall_tau
from search_spaces.space import Genes, SearchSpace, Unsupported
from service.core import pareto
from service.core.errors import NotFound
from service.core.metrics import Scope, metric
from service.core.objectives import ANALYTIC, Direction, Objective, Values, minimised
from service.core.states import COUNTED
from service.db import architectures, fronts, ledger, spaces, studies
from service.db.architectures import unpack
from service.db.paging import checked_id, slice_of
from service.db.rows import chunks
from service.db.tables import Architecture, Context, Measurement, Search, Study, StudyMeasurement, Trial
from service.wire.base import Json, Metrics, Page
from service.wire.searches import PredictedOut, PredictedPoint, RankAudit
from service.wire.studies import (
    ArchitectureOut,
    FrontOut,
    FrontPoint,
    HypervolumeCurve,
    MeasurementOut,
    ObjectiveOut,
)

_AUDIT_SEED = 0
"""Of the bootstrap: the same rows give the same interval."""

_LEAST_RANKED = 3


def front(s: Session, study_name: str, metrics: Sequence[str] | None = None) -> FrontOut:
    """The non-dominated architectures of a study, measured at its task, weights and highest fidelity.

    Values are means over the replicates linked to the study; an architecture that breaks a constraint, or of which
    a constraint's metric was not measured, is on no front. Latencies are those of the device with the most
    measurements. ``metrics`` span the front, by default the objectives.
    """
    study = studies.row(s, study_name)
    objectives = studies.objectives(study)
    shown = list(dict.fromkeys(metrics)) if metrics else [each.metric for each in objectives]
    axes = [axis(name, objectives) for name in shown]
    with fronts.of(s).study(s, study.id) as measured:
        found = _found(s, study, measured, axes)
        values = _values(s, study, measured, found.ids.tolist())
    return FrontOut(
        metrics=shown,
        points=_points(s, study, found.ids.tolist(), *values),
        hypervolume=_volume(found, shown, objectives),
        scaling=[ObjectiveOut(metric=o.metric, direction=o.direction, bounds=o.bounds) for o in objectives],
        candidates=found.candidates,
    )


def hypervolume(s: Session, study_name: str) -> list[HypervolumeCurve]:
    """How the hypervolume of each search grew with its evaluations, by trial number."""
    study = studies.row(s, study_name)
    objectives = studies.objectives(study)
    metrics: dict[int, list[Metrics]] = {}
    query = (
        select(Trial.search_id, Trial.metrics, Trial.fidelity)
        .where(Trial.study_id == study.id, Trial.state.in_(COUNTED), Trial.evaluation)
        .order_by(Trial.search_id, Trial.number)
    )
    for search_id, measured, fidelity in s.execute(query):
        # A cheaper evaluation counts towards the budget; its values are not of the full one.
        metrics.setdefault(search_id, []).append(measured if fidelity == 1.0 else {})
    result = []
    searches = select(Search.id, Search.number, Search.designer).where(Search.study_id == study.id)
    for search_id, number, designer in s.execute(searches.order_by(Search.number)):
        rows = metrics.get(search_id, [])
        values, within = minimised(objectives, rows), studies.within(study, rows)
        curve = pareto.hypervolume_curve(objectives, values, within)
        result.append(
            HypervolumeCurve(
                search=number,
                designer=designer,
                evaluations=list(range(1, len(rows) + 1)),
                hypervolume=curve.tolist(),
            )
        )
    return result


def predicted(s: Session, study_name: str, name: str, search_id: int | None = None) -> PredictedOut:
    """Predictions made before the measurement, beside what was measured; of one search, or of all of a study.

    Ranks are of probes alone, with a 95 % bootstrap interval. The baselines say that more MACs (parameters) are
    better: their taus are signed so that positive means they are right.
    """
    study = studies.row(s, study_name)
    query = (
        select(Trial, Architecture.key, Architecture.genes)
        .join(Architecture, Architecture.id == Trial.architecture_id)
        .where(Trial.study_id == study.id, Trial.state.in_(COUNTED), Trial.fidelity == 1.0)
        .order_by(Trial.id)
    )
    if search_id is not None:
        found = s.get(Search, checked_id(search_id, "search"))
        if found is None or found.study_id != study.id:
            raise NotFound("search", search_id)
        query = query.where(Trial.search_id == search_id)
    rows = [row for row in s.execute(query) if name in row[0].predicted and name in row[0].metrics]
    points = [
        PredictedPoint(
            trial=trial.id,
            number=trial.number,
            key=key,
            probe=trial.probe,
            predicted=trial.predicted[name]["mean"],
            std=trial.predicted[name]["std"],
            measured=trial.metrics[name],
        )
        for trial, key, _ in rows
    ]
    space = spaces.load(spaces.row(s, study.space_id))
    genes = unpack([row[2] for row in rows], len(space.choices))
    probe = np.array([point.probe for point in points], dtype=bool)
    means = np.array([point.predicted for point in points], dtype=np.float64)
    measured = np.array([point.measured for point in points], dtype=np.float64)
    batches = np.unique([[row[0].search_id, row[0].ask] for row in rows] or [[0, 0]], axis=0, return_inverse=True)[1]
    batches = batches.ravel()[: len(rows)]
    agreed = concordance(means[~probe], measured[~probe], batches[~probe], np.random.default_rng(_AUDIT_SEED), n_boot=1)
    return PredictedOut(
        metric=name,
        points=points,
        probes=_audit(space, name, genes[probe], means[probe], measured[probe]),
        chosen_concordance=_finite(agreed.value),
    )


def architecture(s: Session, study_name: str, key: str) -> ArchitectureOut:
    """One architecture and what the study has measured of it; `NotFound` for an unknown key."""
    study = studies.row(s, study_name)
    stored = spaces.row(s, study.space_id)
    found = architectures.row(s, stored.digest, key)
    space = spaces.load(stored)
    genes = unpack([found.genes], len(space.choices))
    with fronts.of(s).study(s, study.id) as columns:
        measured, tested = _values(s, study, columns, [found.id])
        on_front = found.id in _found(s, study, columns, studies.objectives(study)).ids
    return ArchitectureOut(
        key=key,
        config=dict(space.to_configs(genes)[0]),
        genes=genes[0].tolist(),
        metrics=measured.get(found.id, {}),
        test_metrics=tested.get(found.id, {}),
        on_front=on_front,
        graph=_graph(space, genes),
    )


def measurements(
    s: Session, study_name: str, size: int, token: str | None = None, *, key: str | None = None
) -> Page[MeasurementOut]:
    """The measurements that a study links, of one architecture or all, in the order in which they were recorded."""
    study = studies.row(s, study_name)
    query = (
        select(Measurement, Architecture.key, Context.body)
        .join(StudyMeasurement, StudyMeasurement.measurement_id == Measurement.id)
        .join(Architecture, Architecture.id == Measurement.architecture_id)
        .join(Context, Context.digest == Measurement.context_digest)
        .where(StudyMeasurement.study_id == study.id)
    )
    if key is not None:
        found = architectures.row(s, spaces.row(s, study.space_id).digest, key)
        query = query.where(Measurement.architecture_id == found.id)
    rows, following = slice_of(s, query, [StudyMeasurement.measurement_id], size, token)
    items = [
        MeasurementOut(
            id=each.id,
            key=its_key,
            metric=each.metric,
            value=each.value,
            spread=each.spread,
            context=context,
            attempt=each.attempt,
            seconds=each.seconds,
            worker=each.worker,
            created_at=each.created_at,
        )
        for each, its_key, context, _ in rows
    ]
    return Page(items=items, next_page_token=following)


# ---------------------------------------------------------------------- the front


def axis(name: str, objectives: Sequence[Objective]) -> Objective:
    """A metric as an axis of a front. Bounds play no part in what dominates."""
    for objective in objectives:
        if objective.metric == name:
            return objective
    direction = metric(name).direction
    return Objective(name, direction, (0.0, 1.0) if direction is Direction.MINIMISE else (1.0, 0.0))


def _found(s: Session, study: Study, measured: fronts.Measured, axes: Sequence[Objective]) -> fronts.Front:
    constraints = studies.constraints(study)
    wanted = list(dict.fromkeys([axis.metric for axis in axes] + [limit.metric for limit in constraints]))
    contexts = ledger.study_contexts(s, study.id, studies.circumstances(s, study), wanted)
    return measured.front(contexts, axes, constraints)


def _volume(found: fronts.Front, shown: Sequence[str], objectives: Sequence[Objective]) -> float | None:
    """The hypervolume, where the axes are the objectives in any order."""
    if set(shown) != {each.metric for each in objectives} or not len(found.ids):
        return None
    return pareto.hypervolume(objectives, found.values[:, [shown.index(each.metric) for each in objectives]])


def _points(
    s: Session, study: Study, ids: Sequence[int], measured: Mapping[int, Metrics], tested: Mapping[int, Metrics]
) -> list[FrontPoint]:
    if not ids:
        return []
    stored: dict[int, tuple[str, bytes]] = {}
    first: dict[int, tuple[int, int]] = {}
    for some in chunks(ids):
        found = select(Architecture.id, Architecture.key, Architecture.genes).where(Architecture.id.in_(some))
        stored.update((each, (key, genes)) for each, key, genes in s.execute(found))
        # By architecture alone: asked for a study as well, SQLite would look through all trials of the study.
        trials = (
            select(Trial.architecture_id, Trial.study_id, Trial.id, Search.number)
            .join(Search, Search.id == Trial.search_id)
            .where(Trial.architecture_id.in_(some), Trial.state.in_(COUNTED))
            .order_by(Trial.ended_at, Trial.id)
        )
        for architecture_id, study_id, trial, search in s.execute(trials):
            if study_id == study.id:
                first.setdefault(architecture_id, (trial, search))
    space = spaces.load(spaces.row(s, study.space_id))
    configs = space.to_configs(unpack([stored[each][1] for each in ids], len(space.choices)))
    return [
        FrontPoint(
            key=stored[each][0],
            config=dict(config),
            metrics=measured.get(each, {}),
            test_metrics=tested.get(each, {}),
            trial=first[each][0] if each in first else None,
            search=first[each][1] if each in first else None,
        )
        for each, config in zip(ids, configs, strict=True)
    ]


def _values(
    s: Session, study: Study, columns: fronts.Measured, ids: Sequence[int]
) -> tuple[dict[int, Metrics], dict[int, Metrics]]:
    """Everything the study measures of some architectures: on its own split, and on the test split."""
    weights = studies.weights(s, study)
    names = list(dict.fromkeys([*study.metrics, *ANALYTIC]))
    here = ledger.study_contexts(s, study.id, studies.circumstances_with(study, weights), names)
    on_task = [name for name in study.metrics if metric(name).scope is Scope.TASK]
    tested = ledger.study_contexts(s, study.id, studies.circumstances_with(study, weights, "test"), on_task)
    measured = _ordered(names, columns.means(here, ids))
    return measured, _ordered(names, columns.means(tested, ids))


def _ordered(names: Sequence[str], found: Mapping[int, Metrics]) -> dict[int, Metrics]:
    return {each: {name: values[name] for name in names if name in values} for each, values in found.items()}


# ---------------------------------------------------------------------- audits and graphs


def _audit(space: SearchSpace, name: str, genes: Genes, means: Values, measured: Values) -> RankAudit:
    """Tau of the predictions, and of counting, on the same rows; None where it is undefined or on fewer than three."""
    if len(measured) < _LEAST_RANKED:
        return RankAudit(kendall_tau=None, ci_low=None, ci_high=None, macs_tau=None, params_tau=None, n=len(measured))
    rng = np.random.default_rng(_AUDIT_SEED)
    tau = kendall_tau(means, measured, rng, level=0.95)
    # Counting predicts that the larger network is the better one.
    sign = -1.0 if metric(name).direction is Direction.MINIMISE else 1.0
    costs = space.cost(genes)
    baselines = {each: kendall_tau(sign * costs[each], measured, rng, n_boot=1).value for each in sorted(costs)}
    return RankAudit(
        kendall_tau=_finite(tau.value),
        ci_low=_finite(tau.low),
        ci_high=_finite(tau.high),
        macs_tau=_finite(baselines.get("macs")),
        params_tau=_finite(baselines.get("params")),
        n=len(measured),
    )


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _graph(space: SearchSpace, genes: Genes) -> Json:
    try:
        graph = space.graphs(genes)
    except Unsupported:
        return {"nodes": [], "edges": []}
    kinds = graph.operations[0]
    kept = np.flatnonzero(kinds >= 0)
    place = {int(node): index for index, node in enumerate(kept)}
    edges = [[place[int(a)], place[int(b)]] for a, b in np.argwhere(graph.adjacency[0]) if a in place and b in place]
    return {"nodes": [graph.labels[int(kinds[node])] for node in kept], "edges": edges}
