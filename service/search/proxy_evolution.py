"""Evolution assisted by a zero-cost proxy (Zhang & Jia, "GradSign: Model Performance Inference with Theoretical
Insights", ICLR 2022, section 5: G-REA)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, final

import numpy as np
from numpy.typing import NDArray

from predictors.predictor import Architectures, Predictor
from predictors.proxies.proxy import catalogue
from search_spaces.plugins import names
from search_spaces.space import SearchSpace
from service.core.errors import Invalid
from service.core.history import History
from service.core.objectives import ANALYTIC, Constraint, Direction, Objective, Values
from service.core.pareto import crowding, ranks
from service.search.ask import MOST_CHEAP
from service.search.constraints import mutants, taken_rows
from service.search.designer import Designer, FitRequest, Suggestion, Suggestions
from service.search.evolution import tournament
from service.search.options import Option, read
from service.search.random import draw

Rows: TypeAlias = NDArray[np.int64]
"""Indices of trials."""

RANKINGS = ("score", "predictor")

_LEAST_LABELS = 10
"""Measured architectures with a score before a predictor is asked for."""

_FAMILY = "family"
"""In the memo of cheap trials, and of the evaluation that came of them: the number of their family, from 0."""


def _options() -> tuple[Option, ...]:
    return (
        Option(
            "proxy", "gradsign", "the zero-cost proxy that candidates are scored by", allowed=tuple(names("proxies"))
        ),
        Option("candidates", 10, "mutants scored for each evaluation", low=1, high=1000),
        Option("population_size", 50, "measured architectures alive at a time; the oldest die", low=2),
        Option("sample_size", 10, "architectures that compete to be the parent of each child", low=1),
        Option("ranking", "score", "what ranks the candidates: the score, or a predictor of it", allowed=RANKINGS),
        Option("family", "boosting", "family of the predictors", allowed=tuple(names("predictors"))),
        Option("family_options", {}, "options of the family"),
    )


@final
class ProxyEvolution(Designer):
    """Aging evolution in which each tournament's winner has ``candidates`` mutants, and the best-scored is measured.

    The mutants of one winner are a *family*. A family is asked for as cheap trials of the proxy alone, which the budget
    does not count; once all of them have ended, one ask later, its best-scored member is suggested for evaluation.
    Mutants for which the proxy is undefined are passed over; if it is so for a whole family the first one is measured,
    as plain evolution would. The first ``population_size`` architectures are random and not scored, as in the paper.

    With ``ranking="predictor"`` candidates are ranked by predictions of the objectives that cannot be counted, from
    predictors that are fitted to the measured architectures and read their scores beside their choices; by
    non-domination and crowding where there are several objectives. They learn what the score is worth, in which
    direction, and for which choices. So that there is something to learn from, the first population is scored too;
    until ten scored architectures are measured, candidates are ranked by their scores.

    What belongs together is in the memos of the trials; the scores come back in `History.features`. Nothing else is
    remembered.
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
        self._proxy: str = chosen["proxy"]
        self._candidates: int = chosen["candidates"]
        self._population_size: int = chosen["population_size"]
        self._sample_size: int = chosen["sample_size"]
        self._predicts: bool = chosen["ranking"] == "predictor"
        self._family: str = chosen["family"]
        self._family_options: dict[str, Any] = chosen["family_options"]
        if all(objective.metric == self._proxy for objective in self.objectives):
            raise Invalid("options.proxy", f"{self._proxy} is the study's objective: every evaluation measures it")
        if self._proxy in ANALYTIC and self._proxy not in space.counted:
            raise Invalid("options.proxy", f"the space counts no {self._proxy}")
        (about,) = catalogue([self._proxy])
        self._sign = 1.0 if about.direction == "higher" else -1.0
        self.scores = (self._proxy,)

    def wants(self, history: History) -> tuple[FitRequest, ...]:
        if not self._predicts or not self._ready(history, taken_rows(history)):
            return ()
        known = history.scores(history.genes[history.complete]).get(self._proxy)
        if known is None or np.isfinite(known).sum() < _LEAST_LABELS:
            return ()
        return tuple(
            FitRequest(objective.metric, self._family, self._family_options, self.scores)
            for objective in self.objectives
            if objective.metric not in ANALYTIC
        )

    def suggest(self, history: History, count: int, rng: np.random.Generator) -> Suggestions:
        taken = taken_rows(history)
        begun = int((history.evaluation & (history.complete | history.pending)).sum())
        alive = np.flatnonzero(history.complete)[-self._population_size :]
        first = count if not len(alive) else min(count, max(0, self._population_size - begun))
        items = draw(self.space, self.constraints, first, rng, taken, "random: the first population")
        taken |= {item.genes.tobytes() for item in items}
        cheap: list[Suggestion] = []
        if self._predicts:
            cheap = [
                Suggestion(item.genes, "to be scored: the first population", metrics=self.scores) for item in items
            ]
        if len(items) == first and first < count:
            waiting = len(_waiting(history))
            items += self._chosen(history, count - first, taken)
            # Families that are still being scored, or wait for the next ask, become evaluations too.
            made, barren = self._made(history, alive, max(0, count - first - waiting), rng, taken)
            items += draw(self.space, self.constraints, barren, rng, taken, "random: all mutants are known")
            cheap += made
        return Suggestions(tuple(items + cheap))

    def _ready(self, history: History, taken: set[bytes]) -> list[tuple[int, int, Rows]]:
        """Families that are scored, oldest first: number, size, and their members (k,) that were not ``taken``."""
        family, ready = _families(history), []
        for number in _waiting(history).tolist():
            members = np.flatnonzero(family == number)
            free = [row for row in members.tolist() if history.genes[row].tobytes() not in taken]
            if free and not history.pending[members].any():
                ready.append((number, len(members), np.array(free, dtype=np.int64)))
        return ready

    def _chosen(self, history: History, most: int, taken: set[bytes]) -> list[Suggestion]:
        """The best member of each family that is scored, oldest families first; adds them to ``taken``."""
        items: list[Suggestion] = []
        for number, size, members in self._ready(history, taken)[:most]:
            free = np.array([row for row in members if history.genes[row].tobytes() not in taken], dtype=np.int64)
            if len(free):
                best, reason = self._best(history, free, size)
                items.append(Suggestion(history.genes[best], reason, memo={_FAMILY: number}))
                taken.add(history.genes[best].tobytes())
        return items

    def _best(self, history: History, members: Rows, size: int) -> tuple[int, str]:
        """Which of the members of a family to measure, and why."""
        scores = self._scores(history)
        defined = members[np.isfinite(scores[members])]
        if not len(defined):
            return int(members[0]), f"mutant of a tournament winner: none of {size} has a {self._proxy} score"
        if self._predicts and all(o.metric in self.predictors or o.metric in ANALYTIC for o in self.objectives):
            values = self._predicted(history, defined)
            rank = ranks(values, np.zeros(len(values)))
            best = int(defined[np.lexsort((-crowding(values, rank), rank))[0]])
            by = f"as predicted with {self._proxy}"
        else:
            best = int(defined[scores[defined].argmax()])
            by = f"by {self._proxy}"
        return best, f"best of {size} mutants of a tournament winner {by}, {self._sign * scores[best]:.6g}"

    def _predicted(self, history: History, rows: Rows) -> Values:
        """(k, m): what is expected of some trials' architectures, minimised."""
        genes = history.genes[rows]
        architectures = Architectures(self.space, genes, history.scores(genes))
        costs, columns = self.space.cost(genes), []
        for objective in self.objectives:
            sign = 1.0 if objective.direction is Direction.MINIMISE else -1.0
            known = objective.metric in ANALYTIC
            found = costs[objective.metric] if known else self.predictors[objective.metric].predict(architectures).mean
            columns.append(sign * found.astype(np.float64))
        return np.stack(columns, axis=1)

    def _made(
        self, history: History, alive: Rows, most: int, rng: np.random.Generator, taken: set[bytes]
    ) -> tuple[list[Suggestion], int]:
        """Cheap trials of at most ``most`` new families, and how many winners had no mutant that is not known."""
        count = min(most, MOST_CHEAP // self._candidates)
        if count < 1:
            return [], 0
        family = _families(history)
        # Where the proxy is not defined it never will be.
        lost = history.genes[(family >= 0) & (history.states == "INFEASIBLE")]
        parents = tournament(history, self.constraints, alive, self._sample_size, count, rng)
        children = mutants(
            self.space,
            self.constraints,
            np.repeat(parents, self._candidates, axis=0),
            rng,
            taken | {row.tobytes() for row in lost},
        )
        number, items, barren = int(family.max(initial=-1)) + 1, [], 0
        for place in range(count):
            born = [c for c in children[place * self._candidates : (place + 1) * self._candidates] if c is not None]
            reason = f"to be scored: mutant of a tournament winner, family {number}"
            items += [Suggestion(child, reason, metrics=self.scores, memo={_FAMILY: number}) for child in born]
            number, barren = number + bool(born), barren + (not born)
        return items, barren

    def _scores(self, history: History) -> Values:
        """(n,): larger is better, NaN where a trial has no score."""
        column = history.features.get(self._proxy)
        if column is None:
            return np.full(len(history), np.nan)
        scores: Values = (self._sign * column[:, 0]).astype(np.float64)
        return scores


def _families(history: History) -> Rows:
    """(n,): the family of each cheap trial, -1 of all other trials."""
    numbers = [memo.get(_FAMILY, -1) for memo in history.memo]
    return np.where(history.evaluation, -1, np.array(numbers, dtype=np.int64).reshape(len(history)))


def _waiting(history: History) -> Rows:
    """The families of which something may yet come, ascending: nothing was suggested, and a member is left."""
    done = {memo.get(_FAMILY, -1) for memo, of in zip(history.memo, history.evaluation, strict=True) if of}
    taken = taken_rows(history)
    left = {
        int(number)
        for number, row, pending in zip(_families(history), history.genes, history.pending, strict=True)
        if number >= 0 and (pending or row.tobytes() not in taken)
    }
    return np.array(sorted(left - done), dtype=np.int64)
