"""Jobs ``fit`` and ``predict``: predictors as artifacts, and how well they rank."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from predictors.predictor import Architectures, Predictor
from predictors.ranking import kendall_tau
from search_spaces.plugins import UnknownPlugin, load
from search_spaces.space import FloatArray, Genes, SearchSpace, Unsupported
from service.core.errors import Invalid
from service.evaluation.architectures import rows_of, space_of
from service.evaluation.options import parse
from service.evaluation.toolbox import Report, Toolbox
from service.wire.base import Json
from service.wire.payloads import FitPayload, FitResult, PredictPayload, PredictResult
from service.wire.searches import RankAudit

AUDIT_LEVEL = 0.95
BASELINES = ("macs", "params")


def fit(payload: Json, toolbox: Toolbox, report: Report, checkpoint: bytes | None = None) -> Json:
    """Fits a predictor of the family to all rows and keeps what it dumps. The same payload gives the same bytes."""
    asked = parse(FitPayload, payload, "payload")
    space = space_of(asked.space)
    architectures = Architectures(space, rows_of(space, asked.genes), _features(asked.features, len(asked.genes)))
    targets = np.array(asked.targets, dtype=np.float64)
    predictor = _family(asked.family)
    report(0, 1, f"fitting {asked.family} to {len(targets)} rows")
    started = time.perf_counter()
    try:
        made: Predictor = predictor(**asked.options)
    except (TypeError, ValueError) as error:
        raise Invalid("options", f"{asked.family} does not take these: {error}") from error
    try:
        made.fit([architectures], [targets], np.random.default_rng(asked.seed))
    except Unsupported as error:
        raise Invalid("family", str(error)) from error
    except ValueError as error:
        raise Invalid("targets", str(error)) from error
    data = made.dump()
    seconds = time.perf_counter() - started
    report(1, 1, "fitted")
    summary = {"seconds": round(seconds, 4), "rows": len(targets), "bytes": len(data), "metric": asked.metric}
    return FitResult(artifact=toolbox.artifacts.put(data), summary=summary).model_dump(mode="json")


def predict(payload: Json, toolbox: Toolbox, report: Report, checkpoint: bytes | None = None) -> Json:
    """Predicts every row; audits the ranking where measured values are given."""
    asked = parse(PredictPayload, payload, "payload")
    space = space_of(asked.space)
    architectures = Architectures(space, rows_of(space, asked.genes), _features(asked.features, len(asked.genes)))
    data = toolbox.artifacts.get(asked.predictor).read_bytes()
    report(0, 1, f"predicting {len(architectures)} architectures")
    try:
        predictor: Predictor = _family(asked.family).load(data)
    except ValueError as error:
        raise Invalid("predictor", f"{asked.predictor[:8]}… is no dumped {asked.family}: {error}") from error
    prediction = predictor.predict(architectures)
    audited = None
    if asked.measured is not None:
        if len(asked.measured) != len(architectures):
            raise Invalid("measured", f"{len(asked.measured)} values for {len(architectures)} architectures")
        measured = np.array(asked.measured, dtype=np.float64)
        rng = np.random.default_rng(asked.seed)
        audited = audit(space, architectures.genes, prediction.mean, measured, rng).model_dump()
    report(1, 1, "predicted")
    result = PredictResult(
        mean=prediction.mean.tolist(),
        epistemic_std=prediction.epistemic_std.tolist(),
        std=prediction.std.tolist(),
        audit=audited,
    )
    return result.model_dump(mode="json")


def audit(
    space: SearchSpace, genes: Genes, predicted: FloatArray, measured: FloatArray, rng: np.random.Generator
) -> RankAudit:
    """Tau-b of the predictions with its 95 % bootstrap interval, beside the taus of MACs and of parameters where the
    space counts them.

    The baselines are fitted to the very values they are compared with, which decides their sign alone: their taus
    are the best that MACs and parameters could do here, a bar that is too high rather than too low.
    """
    tau = kendall_tau(predicted, measured, rng, level=AUDIT_LEVEL)
    # A baseline that may choose its sign has the absolute value of its tau.
    costs = space.cost(genes)
    baselines = {
        name: abs(kendall_tau(costs[name], measured, rng, n_boot=1).value) for name in BASELINES if name in costs
    }
    return RankAudit(
        kendall_tau=_or_none(tau.value),
        ci_low=_or_none(tau.low),
        ci_high=_or_none(tau.high),
        macs_tau=_or_none(baselines.get("macs")),
        params_tau=_or_none(baselines.get("params")),
        n=len(measured),
    )


def _features(given: Mapping[str, Sequence[float | None]], count: int) -> dict[str, FloatArray]:
    """Score → (n, 1), NaN where there is none. Raises `Invalid` for a column of another length."""
    for name, column in given.items():
        if len(column) != count:
            raise Invalid(f"features.{name}", f"{len(column)} scores for {count} architectures")
    return {name: np.array(column, dtype=np.float64).reshape(count, 1) for name, column in given.items()}


def _or_none(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _family(name: str) -> Any:
    try:
        return load("predictors", name)
    except UnknownPlugin as error:
        raise Invalid("family", str(error), allowed=error.known) from error
