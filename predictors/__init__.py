"""How good an architecture is, before paying for it. Imports neither torch nor xgboost."""

from predictors.bootstrap import Interval
from predictors.predictor import (
    Architectures,
    BadTargets,
    NotFitted,
    Prediction,
    Predictor,
    TooFewLabels,
    check_targets,
)
from predictors.ranking import (
    Trust,
    concordance,
    coverage,
    kendall_tau,
    precision_at_k,
    regret_at_k,
    residual_mean,
    spearman,
    tau_difference,
    trust,
)

__all__ = [
    "Architectures",
    "BadTargets",
    "Interval",
    "NotFitted",
    "Prediction",
    "Predictor",
    "TooFewLabels",
    "Trust",
    "check_targets",
    "concordance",
    "coverage",
    "kendall_tau",
    "precision_at_k",
    "regret_at_k",
    "residual_mean",
    "spearman",
    "tau_difference",
    "trust",
]
