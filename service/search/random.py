"""Random search, and the uniform draws that every designer starts from and falls back to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Any, final

import numpy as np

from predictors.predictor import Predictor
from search_spaces.space import SearchSpace
from service.core.history import History
from service.core.objectives import Constraint, Objective
from service.search.constraints import near, taken_rows, uniform
from service.search.designer import Designer, FitRequest, Suggestion, Suggestions
from service.search.options import read


@final
class Random(Designer):
    """Uniform over the architectures within the computable constraints, without replacement. No options."""

    def __init__(
        self,
        space: SearchSpace,
        objectives: Sequence[Objective],
        constraints: Sequence[Constraint],
        predictors: Mapping[str, Predictor],
        **options: Any,
    ) -> None:
        super().__init__(space, objectives, constraints, predictors)
        read((), options)

    def wants(self, history: History) -> tuple[FitRequest, ...]:
        return ()

    def suggest(self, history: History, count: int, rng: np.random.Generator) -> Suggestions:
        taken = taken_rows(history)
        return Suggestions(tuple(draw(self.space, self.constraints, count, rng, taken, "random")))


def draw(
    space: SearchSpace,
    constraints: Sequence[Constraint],
    count: int,
    rng: np.random.Generator,
    taken: Set[bytes],
    reason: str,
) -> list[Suggestion]:
    """At most ``count`` random suggestions, none ``taken``: uniform ones, marked as probes.

    Where the constraints are too narrow to be hit by uniform draws, random walks find the rest; those are no probes.
    """
    if count < 1:
        return []
    rows = uniform(space, constraints, count, rng, taken)
    items = [Suggestion(row, reason, probe=True) for row in rows]
    if len(items) < count:
        walked = near(space, constraints, count - len(items), rng, taken | {row.tobytes() for row in rows})
        items += [Suggestion(row, f"{reason}, by a walk to narrow constraints") for row in walked]
    return items
