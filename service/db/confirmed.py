"""What a confirmation has shown: values beside those that were chosen on, the drop between them, and words for it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from predictors.ranking import kendall_tau
from search_spaces.space import SearchSpace
from service.core import intervals
from service.core.metrics import metric
from service.core.objectives import Direction
from service.core.states import State
from service.db import studies
from service.db.architectures import unpack
from service.db.tables import Confirmation, Job, Study
from service.wire.base import Json
from service.wire.confirmations import (
    ConfirmationOut,
    ConfirmedArchitecture,
    ConfirmedMetric,
    Drop,
    MissingMeasurement,
    SeedValue,
)
from service.wire.studies import EvaluatorSpec

_LEAST_RANKED = 3
_BOOTSTRAP_SEED = 0
"""The same values give the same interval."""


def view(
    stored: Confirmation,
    study: Study,
    space: SearchSpace,
    genes: Mapping[int, bytes],
    values: Mapping[tuple[int, int], Mapping[str, float]],
    waiting: int,
    failed: Sequence[tuple[tuple[int, int], Job]],
) -> ConfirmationOut:
    """The confirmation as it is shown.

    Args:
        stored, study, space: what is confirmed, and where.
        genes: architecture id → its stored row.
        values: (architecture id, seed) → metric → value; every measurement of the confirmation, with what there is.
        waiting: measurements that are open.
        failed: (architecture id, seed) and the job that failed.
    """
    configs = space.to_configs(unpack([genes[each["architecture"]] for each in stored.chosen], len(space.choices)))
    architectures = [
        ConfirmedArchitecture(
            key=each["key"],
            config=dict(config),
            trial=each["trial"],
            selected=each["metrics"],
            metrics=[_metric(study, name, each, stored.seeds, values) for name in stored.metrics],
        )
        for each, config in zip(stored.chosen, configs, strict=True)
    ]
    keys = {each["architecture"]: each["key"] for each in stored.chosen}
    drops = [
        _drop(stored, study, name, [architecture.metrics[index] for architecture in architectures])
        for index, name in enumerate(stored.metrics)
    ]
    return ConfirmationOut(
        id=stored.id,
        study=study.name,
        search=stored.search_id,
        evaluator=EvaluatorSpec(**stored.evaluator),
        same_protocol=stored.evaluator == study.evaluator,
        metrics=stored.metrics,
        seeds=stored.seeds,
        architectures=architectures,
        drops=drops,
        done=len(values) - waiting - len(failed),
        open=waiting,
        failed=len(failed),
        failures=[
            MissingMeasurement(key=keys[architecture], seed=seed, job=job.id, state=State(job.state), reason=job.reason)
            for (architecture, seed), job in failed
        ],
        created_at=stored.created_at,
    )


def _metric(
    study: Study, name: str, chosen: Json, seeds: Sequence[int], values: Mapping[tuple[int, int], Mapping[str, float]]
) -> ConfirmedMetric:
    of_seeds = {seed: values[chosen["architecture"], seed] for seed in seeds}
    found = [SeedValue(seed=seed, value=known[name]) for seed, known in of_seeds.items() if name in known]
    selected: float | None = chosen["metrics"].get(name)
    if not found:
        return ConfirmedMetric(
            metric=name, selected=selected, values=[], mean=None, ci_low=None, ci_high=None, drop=None
        )
    mean = intervals.mean([each.value for each in found])
    sign = 1.0 if _direction(study, name) is Direction.MINIMISE else -1.0
    return ConfirmedMetric(
        metric=name,
        selected=selected,
        values=found,
        mean=mean.value,
        ci_low=mean.low,
        ci_high=mean.high,
        drop=None if selected is None else sign * (mean.value - selected),
    )


def _drop(stored: Confirmation, study: Study, name: str, measured: Sequence[ConfirmedMetric]) -> Drop:
    compared = [
        (each.selected, each.mean, each.drop)
        for each in measured
        if each.selected is not None and each.mean is not None and each.drop is not None
    ]
    mean = intervals.mean([drop for *_, drop in compared]) if compared else None
    tau: tuple[float | None, float | None, float | None] = (None, None, None)
    if len(compared) >= _LEAST_RANKED:
        selected, again = [row[0] for row in compared], [row[1] for row in compared]
        ranked = kendall_tau(selected, again, np.random.default_rng(_BOOTSTRAP_SEED), level=intervals.LEVEL)
        tau = (_finite(ranked.value), _finite(ranked.low), _finite(ranked.high))
    same = stored.evaluator == study.evaluator
    direction = _direction(study, name)
    words = [_words(name, direction, mean)]
    if mean is not None and same and all(v.value == each.selected for each in measured for v in each.values):
        words.append("Every seed gave what the search saw: this evaluator does not depend on it, so nothing is shown.")
    if not same:
        words.append(
            f"The search measured by {study.evaluator['name']}, the confirmation by {_named(stored, study)}: two "
            "protocols, so the difference is not that of selection alone."
        )
    if tau[0] is not None:
        words.append(f"Kendall tau between the two orders: {tau[0]:.2f}.")
    return Drop(
        metric=name,
        direction=direction,
        architectures=len(compared),
        drop=None if mean is None else mean.value,
        ci_low=None if mean is None else mean.low,
        ci_high=None if mean is None else mean.high,
        kendall_tau=tau[0],
        tau_low=tau[1],
        tau_high=tau[2],
        words=" ".join(words),
    )


def _words(name: str, direction: Direction, drop: intervals.Mean | None) -> str:
    if drop is None:
        return f"Nothing is known of {name} yet."
    unit, scale = metric(name).unit, 1.0
    if unit == "fraction":
        unit, scale = "percentage points", 100.0
    if drop.value == 0:
        said = "exactly"
    else:
        higher = (drop.value > 0) == (direction is Direction.MINIMISE)
        size = f"{_number(abs(drop.value) * scale)} {unit}".rstrip()
        said = f"{size} {'higher' if higher else 'lower'} ({'worse' if drop.value > 0 else 'better'}) than"
    number = f"{drop.n} architecture{'s' if drop.n > 1 else ''}"
    sure = ""
    if drop.low is not None and drop.high is not None:
        low, high = (_number(end * scale) for end in (drop.low, drop.high))
        sure = f"; 95 % interval of how much worse: {low} to {high}"
    return f"Measured again, {name} is on average {said} what the search saw ({number}{sure})."


def _named(stored: Confirmation, study: Study) -> str:
    name = str(stored.evaluator["name"])
    return f"{name} with other options" if name == study.evaluator["name"] else name


def _direction(study: Study, name: str) -> Direction:
    for objective in studies.objectives(study):
        if objective.metric == name:
            return objective.direction
    return metric(name).direction


def _number(value: float) -> str:
    return f"{value:.3g}"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
