"""The contract of a designer: history in, suggestions out. Designers are pure: no clock, files, network or database."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from predictors.predictor import Predictor
from search_spaces.space import Genes, SearchSpace
from service.core.history import History
from service.core.objectives import Constraint, Objective


@dataclass(frozen=True, slots=True)
class Suggestion:
    """One architecture to measure.

    Attributes:
        genes: (d,) a canonical row.
        reason: a few words for people: why this one.
        fidelity: in (0, 1], 1 is the full evaluation.
        metrics: what to measure if not all of the study's metrics; None for all. With less than all objectives (a
            zero-cost proxy alone) it is a cheap trial: no evaluation, and the budget does not count it. Its scores
            come back in `History.features`.
        memo: JSON the designer wants back in `History.memo`.
        probe: drawn uniformly from the canonical architectures that satisfy the computable constraints.
    """

    genes: Genes
    reason: str
    fidelity: float = 1.0
    metrics: tuple[str, ...] | None = None
    memo: Mapping[str, Any] = field(default_factory=dict)
    probe: bool = False

    def evaluates(self, objectives: Sequence[Objective]) -> bool:
        """Whether all objectives are to be measured; False for a cheap trial."""
        return self.metrics is None or {objective.metric for objective in objectives} <= set(self.metrics)


@dataclass(frozen=True, slots=True)
class Suggestions:
    """The answer to one ask, and the blob kept for the next ask.

    At most as many evaluations as asked for; cheap trials come on top of them (`service.search.ask.MOST_CHEAP`).
    """

    items: tuple[Suggestion, ...]
    state: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FitRequest:
    """A predictor that must be fitted to the complete trials of the history before the next `suggest`.

    ``features`` are scores that it reads beside the genes: names of `History.features`, which cheap trials gave.
    """

    metric: str
    family: str
    options: Mapping[str, Any] = field(default_factory=dict)
    features: tuple[str, ...] = ()


class Designer(ABC):
    """A search algorithm. Final classes are built as ``cls(space, objectives, constraints, predictors, **options)``.

    ``predictors`` maps metric → fitted predictor of the metric in its own units (not minimised); it is empty until
    what `wants` asked for has been fitted. Unknown or wrong options raise `service.core.errors.Invalid` with the
    field ``options.NAME``. ``scores`` names the proxies that its cheap trials ask for: a search is refused where they
    cannot be measured.

    A designer rebuilt from the stored history behaves as one that lived on: what it must remember goes into the
    suggestions' ``memo`` or into ``Suggestions.state``.
    """

    def __init__(
        self,
        space: SearchSpace,
        objectives: Sequence[Objective],
        constraints: Sequence[Constraint],
        predictors: Mapping[str, Predictor],
    ) -> None:
        self.space = space
        self.objectives = tuple(objectives)
        self.constraints = tuple(constraints)
        self.predictors = dict(predictors)
        self.scores: tuple[str, ...] = ()

    @abstractmethod
    def wants(self, history: History) -> tuple[FitRequest, ...]:
        """The predictors to be fitted to this history before `suggest` is called with it. Depends on history alone."""

    @abstractmethod
    def suggest(self, history: History, count: int, rng: np.random.Generator) -> Suggestions:
        """At most ``count`` evaluations, none of them in the history at the same fidelity; fewer when exhausted.

        Cheap trials may come beside them, or instead: then the designer is asked again when they have ended.
        """
