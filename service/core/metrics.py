"""The names of metrics, what they depend on, and their units.

What a measurement depends on decides its context, and with it when it may be reused instead of paid for again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Any

from predictors.proxies.proxy import catalogue
from service.core.latency import departures
from service.core.objectives import Direction
from service.core.scoring import AGGREGATES, Scoring, scorable


class Scope(StrEnum):
    """ANALYTIC: the architecture alone. INITIAL: data and initialisation. TASK: data, split, weights, recipe.
    DEVICE: the architecture and the machine it ran on."""

    ANALYTIC = "analytic"
    INITIAL = "initial"
    TASK = "task"
    DEVICE = "device"


@dataclass(frozen=True, slots=True)
class Metric:
    name: str
    unit: str
    scope: Scope
    direction: Direction
    description: str


_MIN, _MAX = Direction.MINIMISE, Direction.MAXIMISE
METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("error", "fraction", Scope.TASK, _MIN, "share of misclassified inputs"),
        Metric("loss", "nats", Scope.TASK, _MIN, "mean cross-entropy"),
        Metric("macs", "MACs", Scope.ANALYTIC, _MIN, "multiply-accumulate operations for one input"),
        Metric("params", "parameters", Scope.ANALYTIC, _MIN, "trainable parameters"),
        Metric("latency_ms", "ms", Scope.DEVICE, _MIN, "median time of one forward pass, batch of one"),
    )
}
"""Those that are no scores of zero-cost proxies: of these every plug-in is a metric (`proxies`)."""


def proxies() -> list[str]:
    """The names of the metrics that are scores of untrained networks, sorted."""
    return [name for name in scorable() if name not in METRICS]


def is_known(name: str) -> bool:
    """Whether unit and direction of a metric are known."""
    base = name.partition("@")[0]
    return base in METRICS or base in scorable()


@lru_cache(maxsize=1024)
def metric(name: str) -> Metric:
    """What is known of a metric (``name`` or ``name@device``); unknown names are taken as measured on the task."""
    base, _, device = name.partition("@")
    known = METRICS.get(base)
    if known is not None:
        return known
    if name in AGGREGATES:
        return Metric(
            name, "score", Scope.INITIAL, _MAX, f"{AGGREGATES[name].title} of the untrained network in a pool"
        )
    if name in scorable():
        (about,) = catalogue([name])
        better = _MAX if about.direction == "higher" else _MIN
        return Metric(name, about.unit, Scope.INITIAL, better, f"{about.title} of the untrained network")
    return Metric(base, "", Scope.DEVICE if device else Scope.TASK, _MIN, "reported by the evaluator")


@dataclass(frozen=True, slots=True)
class Circumstances:
    """Everything a measurement can depend on. ``context`` keeps what the metric's scope says matters.

    ``scoring``: how the service's own workers score untrained networks. None where somebody else does, who evaluates
    or wrote the table: those scores depend on what that one says, and are never taken for the service's.
    """

    dataset: str
    split: str
    evaluator: str
    options: Mapping[str, Any]
    weights: str | None
    seed: int
    fidelity: float = 1.0
    device: str | None = None
    scoring: Scoring | None = None

    def context(self, name: str) -> dict[str, Any]:
        """The JSON context of one metric, to be digested by `context_digest`."""
        match metric(name).scope:
            case Scope.ANALYTIC:
                return {}
            case Scope.DEVICE:
                other = departures(self.options.get("latency")) if name.partition("@")[0] == "latency_ms" else {}
                return {"device": self.device, **({"protocol": other} if other else {})}
            case Scope.INITIAL:
                by = {"split": self.split, "options": dict(self.options)}
                if self.scoring is not None:
                    by = {"split": "train", "options": self.scoring.options(name)}
                return {"dataset": self.dataset, "seed": self.seed, **by}
            case Scope.TASK:
                return {
                    "dataset": self.dataset,
                    "split": self.split,
                    "evaluator": self.evaluator,
                    "options": dict(self.options),
                    "weights": self.weights,
                    "fidelity": self.fidelity,
                    "seed": self.seed,
                }


def context_digest(context: Mapping[str, Any]) -> str:
    """128-bit BLAKE2b of the context as canonical JSON, hex."""
    text = json.dumps(context, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
