"""The predictor-guided search: NSGA-II over predictions, then the batch that promises the most hypervolume."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

import numpy as np

from predictors.predictor import Predictor
from predictors.ranking import LEAST_PROBES
from search_spaces.plugins import names
from search_spaces.space import Genes, SearchSpace, distinct
from service.core.history import History
from service.core.objectives import ANALYTIC, Constraint, Objective, scaled
from service.core.pareto import front, ranks
from service.search.acquisition import boxes, expected_gain
from service.search.constraints import mutants, taken_rows, total_violation, unseen
from service.search.designer import Designer, FitRequest, Suggestion, Suggestions
from service.search.options import Option, read
from service.search.random import draw
from service.search.surrogate import Surrogate, credible_spread, evolve
from service.search.trust import audit, audited

_POOL = 512
"""Candidates, best first, among which a batch is picked."""

_LEAST_LABELS = 5
"""Measurements of a constraint's metric before a predictor of it is asked for."""


def _options() -> tuple[Option, ...]:
    return (
        Option("initial", 20, "random architectures measured before the first predictor", low=2),
        Option("population", 200, "architectures in each generation of the evolution over predictions", low=4),
        Option("generations", 20, "generations of the evolution over predictions", low=1),
        Option("optimism", 1.0, "epistemic standard deviations by which candidates are favoured", low=0),
        Option("untrusted_share", 0.2, "share measured without the predictor while it is not trusted", low=0, high=1),
        Option("family", "boosting", "family of the predictors", allowed=tuple(names("predictors"))),
        Option("family_options", {}, "options of the family"),
    )


@final
class Guided(Designer):
    """Spends evaluations where predictors see the largest expected gain of hypervolume.

    1. The first ``initial`` architectures are random.
    2. Then every ask has fresh predictors of all objectives that cannot be counted (and of such constraints' metrics).
       NSGA-II evolves a population over them, from the measured front and random rows, and everything it visits
       competes. The batch is picked one by one by expected hypervolume improvement over the measured front
       (`acquisition`), weighted with the probability that constraints hold; what was picked before, and what is still
       pending, counts as measured at its prediction, so a batch spreads out.
    3. Predictors are judged by the probes of `service.search.ask` (`trust.audit`). Until they are known to rank better
       than MACs and parameters do, ``untrusted_share`` of each batch does without them: mutants of the measured front
       while too few probes are measured to tell, uniform draws once there are enough.

    Nothing is remembered between asks.
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
        chosen = read(_options(), options)
        self._initial: int = chosen["initial"]
        self._population: int = chosen["population"]
        self._generations: int = chosen["generations"]
        self._optimism: float = chosen["optimism"]
        self._untrusted_share: float = chosen["untrusted_share"]
        self._family: str = chosen["family"]
        self._family_options: dict[str, Any] = chosen["family_options"]
        self._predicted = [c for c, objective in enumerate(self.objectives) if objective.metric not in ANALYTIC]

    def wants(self, history: History) -> tuple[FitRequest, ...]:
        if int(history.complete.sum()) < self._initial:
            return ()
        metrics = [self.objectives[column].metric for column in self._predicted]
        for column, constraint in enumerate(self.constraints):
            measured = np.isfinite(history.violations[history.complete, column]).sum()
            if constraint.metric not in (*ANALYTIC, *metrics) and measured >= _LEAST_LABELS:
                metrics.append(constraint.metric)
        return tuple(FitRequest(metric, self._family, self._family_options) for metric in metrics)

    def suggest(self, history: History, count: int, rng: np.random.Generator) -> Suggestions:
        taken = taken_rows(history)
        measured = int(history.complete.sum())
        missing = [
            self.objectives[c].metric for c in self._predicted if self.objectives[c].metric not in self.predictors
        ]
        if measured < self._initial or missing:
            early = f"{measured} of the first {self._initial} are measured"
            reason = f"random: {early if measured < self._initial else 'no predictor of ' + ', '.join(missing)}"
            return Suggestions(tuple(draw(self.space, self.constraints, count, rng, taken, reason)))
        items = self._without_predictor(history, count, rng, taken)
        taken |= {item.genes.tobytes() for item in items}
        items = self._picked(history, count - len(items), rng, taken) + items
        taken |= {item.genes.tobytes() for item in items}
        items += draw(self.space, self.constraints, count - len(items), rng, taken, "random: nothing promises a gain")
        return Suggestions(tuple(items))

    def _without_predictor(
        self, history: History, count: int, rng: np.random.Generator, taken: set[bytes]
    ) -> list[Suggestion]:
        """The part of the batch that does not rely on predictors that are not (yet) known to be good."""
        probes = min((int(audited(history, column).sum()) for column in self._predicted), default=LEAST_PROBES)
        known = probes >= LEAST_PROBES
        verdicts = [audit(self.space, history, column, rng) for column in self._predicted] if known else []
        doubted = [verdict.words for verdict in verdicts if not verdict.trusted]
        if known and not doubted:
            return []
        share = int(rng.binomial(count, self._untrusted_share))
        if known:
            return draw(self.space, self.constraints, share, rng, taken, f"random: the predictor is {doubted[0]}")
        words = f"the predictor is not trusted yet, {probes} of {LEAST_PROBES} probes are measured"
        parents = self._leaders(history, share, rng)
        children = mutants(self.space, self.constraints, parents, rng, taken) if share else []
        return [Suggestion(child, f"mutant of the front: {words}") for child in children if child is not None]

    def _leaders(self, history: History, count: int, rng: np.random.Generator) -> Genes:
        rows = np.flatnonzero(history.complete)
        rank = ranks(history.objectives[rows], total_violation(self.constraints, history.violations[rows]))
        best = rows[rank == 0]
        leaders: Genes = history.genes[best[rng.integers(0, len(best), size=count)]]
        return leaders

    def _picked(self, history: History, count: int, rng: np.random.Generator, taken: set[bytes]) -> list[Suggestion]:
        if count < 1:
            return []
        limit = credible_spread(scaled(self.objectives, history.objectives[history.complete]))
        surrogate = Surrogate(self.space, self.objectives, self.constraints, self.predictors, limit)
        genes, estimate = evolve(
            surrogate, self.space, self._seeds(history, rng), self._population, self._generations, self._optimism, rng
        )
        free = np.flatnonzero(unseen(genes, taken) & (estimate.breach == 0))
        genes, estimate = genes[free], estimate.take(free)
        known = scaled(self.objectives, history.objectives[front(history.objectives, history.feasible)])
        if history.pending.any():
            known = np.concatenate([known, surrogate(history.genes[history.pending]).mean])
        gain = expected_gain(estimate.mean, estimate.std, *boxes(known)) * estimate.feasible
        pool = np.argsort(-gain, kind="stable")[:_POOL]
        genes, estimate, gain = genes[pool], estimate.take(pool), gain[pool]
        items: list[Suggestion] = []
        left = np.ones(len(genes), dtype=bool)
        while len(items) < count and left.any():
            best = int(np.where(left, gain, -1.0).argmax())
            if gain[best] <= 0:
                break
            left[best] = False
            items.append(Suggestion(genes[best], f"predicted hypervolume gain {gain[best]:.2g}"))
            known = np.concatenate([known, estimate.mean[best : best + 1]])
            gain = expected_gain(estimate.mean, estimate.std, *boxes(known)) * estimate.feasible
        return items

    def _seeds(self, history: History, rng: np.random.Generator) -> Genes:
        """The best half of the first parents are measured ones, the rest are drawn."""
        rows = np.flatnonzero(history.complete)
        rank = ranks(history.objectives[rows], total_violation(self.constraints, history.violations[rows]))
        best = rows[np.argsort(rank, kind="stable")[: self._population // 2]]
        drawn = self.space.sample(self._population - len(best), rng)
        return distinct(np.concatenate([history.genes[best], drawn]))
