"""Aging evolution (Real et al., "Regularized Evolution for Image Classifier Architecture Search", AAAI 2019)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

import numpy as np

from predictors.predictor import Predictor
from search_spaces.space import Genes, SearchSpace
from service.core.history import History
from service.core.objectives import Constraint, Objective
from service.core.pareto import crowding, ranks
from service.search.constraints import mutants, taken_rows, total_violation
from service.search.designer import Designer, FitRequest, Suggestion, Suggestions
from service.search.options import Option, read
from service.search.random import draw

OPTIONS = (
    Option("population_size", 50, "measured architectures alive at a time; the oldest die", low=2),
    Option("sample_size", 10, "architectures that compete to be the parent of each child", low=1),
)


@final
class AgingEvolution(Designer):
    """The youngest ``population_size`` measured trials live; each child is a mutant of a tournament's winner.

    The paper has one objective. With several, a tournament is won by constrained non-domination rank and then by
    crowding distance within the population (NSGA-II). Age is the trial number, so the population follows from the
    history and nothing else is remembered. It starts with ``population_size`` random architectures.
    """

    def __init__(
        self,
        space: SearchSpace,
        objectives: Sequence[Objective],
        constraints: Sequence[Constraint],
        predictors: Mapping[str, Predictor],
        **options: Any,
    ) -> None:
        super().__init__(space, objectives, constraints, predictors)
        chosen = read(OPTIONS, options)
        self._population_size: int = chosen["population_size"]
        self._sample_size: int = chosen["sample_size"]

    def wants(self, history: History) -> tuple[FitRequest, ...]:
        return ()

    def suggest(self, history: History, count: int, rng: np.random.Generator) -> Suggestions:
        taken = taken_rows(history)
        items: list[Suggestion] = []
        begun = int((history.complete | history.pending).sum())
        alive = np.flatnonzero(history.complete)[-self._population_size :]
        first = count if not len(alive) else min(count, max(0, self._population_size - begun))
        items += draw(self.space, self.constraints, first, rng, taken, "random: the first population")
        taken |= {item.genes.tobytes() for item in items}
        if len(items) == first and first < count:
            parents = tournament(history, self.constraints, alive, self._sample_size, count - first, rng)
            children = mutants(self.space, self.constraints, parents, rng, taken)
            born = [child for child in children if child is not None]
            items += [Suggestion(child, "mutant of a tournament winner") for child in born]
            taken |= {child.tobytes() for child in born}
            missing = count - len(items)
            items += draw(self.space, self.constraints, missing, rng, taken, "random: all mutants are known")
        return Suggestions(tuple(items))


def tournament(
    history: History,
    constraints: Sequence[Constraint],
    alive: np.ndarray[Any, Any],
    sample_size: int,
    count: int,
    rng: np.random.Generator,
) -> Genes:
    """(count, d): winners of ``count`` tournaments among the trials ``alive`` (indices), with ``sample_size`` entrants
    each, drawn with replacement. By constrained non-domination rank, then by crowding distance."""
    values = history.objectives[alive]
    rank = ranks(values, total_violation(constraints, history.violations[alive]))
    # Best first: by rank, then the lonelier; the winner of a tournament has the lowest place.
    place = np.empty(len(alive), dtype=np.int64)
    place[np.lexsort((-crowding(values, rank), rank))] = np.arange(len(alive))
    entrants = rng.integers(0, len(alive), size=(count, sample_size))
    winners = entrants[np.arange(count), place[entrants].argmin(axis=1)]
    parents: Genes = history.genes[alive[winners]]
    return parents
