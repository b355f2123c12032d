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
        metrics: what to measure if not all of the study's metrics (proxies alone make a cheap trial that is no
            evaluation); None for all.
        memo: JSON the designer wants back in `History.memo`.
        probe: drawn uniformly from the canonical architectures that satisfy the computable constraints.
    """

    genes: Genes
    reason: str
    fidelity: float = 1.0
    metrics: tuple[str, ...] | None = None
    memo: Mapping[str, Any] = field(default_factory=dict)
    probe: bool = False


@dataclass(frozen=True, slots=True)
class Suggestions:
    """The answer to one ask: at most as many items as asked for, and the blob kept for the next ask."""

    items: tuple[Suggestion, ...]
    state: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FitRequest:
    """A predictor that must be fitted to the complete trials of the history before the next `suggest`."""

    metric: str
    family: str
    options: Mapping[str, Any] = field(default_factory=dict)


class Designer(ABC):
    """A search algorithm. Final classes are built as ``cls(space, objectives, constraints, predictors, **options)``.

    ``predictors`` maps metric → fitted predictor of the metric in its own units (not minimised); it is empty until
    what `wants` asked for has been fitted. Unknown or wrong options raise `service.core.errors.Invalid` with the
    field ``options.NAME``.

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

    @abstractmethod
    def wants(self, history: History) -> tuple[FitRequest, ...]:
        """The predictors to be fitted to this history before `suggest` is called with it. Depends on history alone."""

    @abstractmethod
    def suggest(self, history: History, count: int, rng: np.random.Generator) -> Suggestions:
        """At most ``count`` suggestions, none of them in the history at the same fidelity; fewer when exhausted."""
