"""Whether a search's predictor of one objective is worth following, judged on probes alone."""

from __future__ import annotations

import numpy as np

from predictors.ranking import Trust, trust
from search_spaces.space import Bools, SearchSpace
from service.core.history import History
from service.core.objectives import Values


def audited(history: History, column: int) -> Bools:
    """(n,): complete probes of which objective ``column`` was predicted before it was measured."""
    rows: Bools = history.complete & history.probe & np.isfinite(history.predicted[:, column])
    return rows


def audit(space: SearchSpace, history: History, column: int, rng: np.random.Generator) -> Trust:
    """The verdict on objective ``column`` (an index), from probes predicted before they were measured.

    The baselines are MACs and parameters, where the space counts them, on the same rows. Each points the way it
    correlates with the objective on the other complete trials, as a fitted line would; where it does not correlate
    there, upwards.
    """
    judged = audited(history, column)
    rest = history.complete & ~judged
    costs = {name: values.astype(np.float64) for name, values in space.cost(history.genes).items()}
    measured = history.objectives[:, column]
    baselines = {name: _slope(values[rest], measured[rest]) * values[judged] for name, values in costs.items()}
    return trust(history.predicted[judged, column], baselines, measured[judged], rng)


def _slope(costs: Values, measured: Values) -> float:
    """1 or -1: the sign of the covariance."""
    if len(costs) < 2:
        return 1.0
    covariance = np.mean((costs - costs.mean()) * (measured - measured.mean()))
    return -1.0 if covariance < 0 else 1.0
