"""A small search space, a quick predictor and simulated searches, for the tests of designers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from predictors.predictor import Architectures, NotFitted, Prediction, Predictor, check_targets
from search_spaces.space import Bools, Choice, Genes, Graphs, IntArray, SearchSpace, Unsupported
from service.core.history import History
from service.core.objectives import Constraint, Direction, Objective, Values, minimised, violations
from service.search.ask import ask, predict
from service.search.designer import Designer, Suggestions

ERROR = Objective("error", Direction.MINIMISE, (0.0, 1.0))
MACS = Objective("macs", Direction.MINIMISE, (0.0, 400.0))


class Toy(SearchSpace):
    """``blocks`` choices of ``widths`` options; with ``gated`` a first choice says how many of them are active.

    MACs are 10 × (1 + option) × (1 + place / 4) summed over active blocks, parameters 3 × (1 + option).
    """

    def __init__(self, blocks: int = 6, widths: int = 4, gated: bool = True) -> None:
        choices = [Choice("depth", tuple(range(1, blocks + 1)))] if gated else []
        choices += [Choice(f"block{i}", tuple(range(widths))) for i in range(blocks)]
        super().__init__(
            "toy", choices, {"blocks": blocks, "widths": widths, "gated": gated}, identity="function", uniform=not gated
        )
        self.blocks, self.gated = blocks, gated

    def active(self, genes: Genes) -> Bools:
        result = np.ones(genes.shape, dtype=bool)
        if self.gated:
            result[:, 1:] = np.arange(self.blocks) <= genes[:, :1]
        return result

    def cost(self, genes: Genes) -> dict[str, IntArray]:
        width = np.where(self.active(genes), 1 + genes.astype(np.int64), 0)[:, int(self.gated) :]
        macs = (width * 10 * (1 + np.arange(self.blocks) / 4)).sum(axis=1)
        return {"params": 3 * width.sum(axis=1), "macs": np.round(macs).astype(np.int64)}

    def graphs(self, genes: Genes) -> Graphs:
        raise Unsupported("no graphs here")

    def extremes(self) -> Genes:
        first = self.allowed.argmax(axis=1)
        last = self.allowed.shape[1] - 1 - self.allowed[:, ::-1].argmax(axis=1)
        return self.canonical(np.stack([first, last]).astype(np.int8))

    def input_shape(self, row: Genes) -> tuple[int, ...]:
        return (1, 8, 8)

    @property
    def most_nodes(self) -> int:
        raise Unsupported("no graphs here")

    def inputs(self, row: Genes, batch: int, rng: np.random.Generator) -> Any:
        raise Unsupported("nothing is built here")

    def build(self, row: Genes) -> Any:
        raise Unsupported("nothing is built here")

    def supernet(self) -> Any:
        raise Unsupported("no super-network here")

    @property
    def cardinality(self) -> None:
        return None

    def _write(self, genes: Genes) -> list[str]:
        raise self.no_notation()

    def _parse(self, text: str) -> Sequence[int]:
        raise self.no_notation()

    def _draw(self, count: int, rng: np.random.Generator) -> Genes:
        return self._draw_rows(count, rng)

    def _merge(self, genes: Genes) -> Genes:
        return genes

    def _feasible(self, genes: Genes) -> Bools:
        return np.ones(len(genes), dtype=bool)


class Ridge(Predictor):
    """A ridge regression on one-hot genes, with its posterior standard deviation."""

    def __init__(self) -> None:
        self._fitted: tuple[Values, Values, float] | None = None

    def fit(
        self,
        groups: Sequence[Architectures],
        targets: Sequence[Any],
        rng: np.random.Generator,
        *,
        init_from: Predictor | None = None,
    ) -> Self:
        check_targets(groups, targets, 2)
        x, y = _one_hot(groups[-1]), np.asarray(targets[-1])
        covariance = np.linalg.inv(x.T @ x + 0.1 * np.eye(x.shape[1]))
        weights = covariance @ x.T @ y
        self._fitted = (weights, covariance, float(np.std(y - x @ weights)) + 1e-6)
        return self

    def predict(self, architectures: Architectures) -> Prediction:
        if self._fitted is None:
            raise NotFitted("fit first")
        weights, covariance, noise = self._fitted
        x = _one_hot(architectures)
        epistemic = noise * np.sqrt(np.einsum("nf,fg,ng->n", x, covariance, x))
        return Prediction(x @ weights, epistemic, np.hypot(epistemic, noise))

    def dump(self) -> bytes:
        raise NotImplementedError

    @classmethod
    def load(cls, data: bytes) -> Self:
        raise NotImplementedError


def _one_hot(architectures: Architectures) -> Values:
    genes, sizes = architectures.genes, architectures.space.sizes
    return np.concatenate([np.ones((len(genes), 1)), *(np.eye(s)[genes[:, i]] for i, s in enumerate(sizes))], axis=1)


Measure = Callable[[Genes], list[dict[str, float]]]
"""Rows (n, d) → n objects metric → value."""


def mismatch(space: Toy) -> Measure:
    """Error: the share of blocks, absent ones too, that differ from a hidden pattern; with MACs. Separable."""
    pattern = np.arange(space.blocks) * 7 % 4

    def measure(genes: Genes) -> list[dict[str, float]]:
        first = int(space.gated)
        right = (genes[:, first:] == pattern) & space.active(genes)[:, first:]
        macs = space.cost(genes)["macs"]
        return [{"error": 1 - float(r.mean()), "macs": float(m)} for r, m in zip(right, macs, strict=True)]

    return measure


@dataclass(frozen=True, slots=True)
class Problem:
    """What is searched, and how a trial turns out."""

    space: SearchSpace
    measure: Measure
    objectives: tuple[Objective, ...] = (ERROR, MACS)
    constraints: tuple[Constraint, ...] = ()

    def empty(self) -> History:
        return History.empty(len(self.space.choices), len(self.objectives), len(self.constraints))

    def score(self, genes: Genes, noise: float = 0.2) -> Values:
        """(n,): what cheap trials give. It falls with the error, noisily but repeatably; NaN, undefined, for one row
        in seven or so."""
        mixed = (genes.astype(np.int64) * np.arange(3, 3 + genes.shape[1]) ** 3).sum(axis=1) % 97
        error = np.array([row["error"] for row in self.measure(genes)])
        values: Values = np.where(mixed % 7 == 6, np.nan, 100 * (1 - error + noise * mixed / 97))
        return values


def appended(problem: Problem, history: History, designer: Designer, answer: Suggestions, ask_number: int) -> History:
    """The history with the suggestions as queued trials; memo and state go through JSON, as in the database."""
    n, m, c = len(answer.items), len(problem.objectives), len(problem.constraints)
    if not n:
        return replace(history, state=json.loads(json.dumps(dict(answer.state))))
    genes = np.stack([item.genes for item in answer.items])
    said = [{k: v["mean"] for k, v in row.items()} for row in predict(designer, genes, history)]
    memo = tuple(json.loads(json.dumps(dict(item.memo))) for item in answer.items)
    return History(
        numbers=np.r_[history.numbers, len(history) + 1 + np.arange(n)],
        asks=np.r_[history.asks, np.full(n, ask_number)],
        genes=np.concatenate([history.genes, genes]),
        fidelity=np.r_[history.fidelity, [item.fidelity for item in answer.items]],
        states=np.r_[history.states, np.full(n, "QUEUED")],
        objectives=np.concatenate([history.objectives, np.full((n, m), np.nan)]),
        violations=np.concatenate([history.violations, np.full((n, c), np.nan)]),
        predicted=np.concatenate([history.predicted, minimised(problem.objectives, said)]),
        probe=np.r_[history.probe, [item.probe for item in answer.items]],
        evaluation=np.r_[history.evaluation, [item.evaluates(problem.objectives) for item in answer.items]],
        cost_s=np.r_[history.cost_s, np.zeros(n)],
        features={
            name: np.concatenate([column, np.full((n, 1), np.nan)])
            for name, column in _columns(history, answer).items()
        },
        memo=history.memo + memo,
        state=json.loads(json.dumps(dict(answer.state))),
    )


def _columns(history: History, answer: Suggestions) -> dict[str, Any]:
    """The features so far, and an empty column for each score that is asked for the first time."""
    asked = {name for item in answer.items for name in item.metrics or ()}
    return {**{name: np.full((len(history), 1), np.nan) for name in sorted(asked)}, **history.features}


def scored(problem: Problem, history: History, rows: Any) -> History:
    """The history with the cheap trials of some rows (indices) ended: INFEASIBLE where there is no score."""
    states, values = history.states.copy(), problem.score(history.genes[rows])
    states[rows] = np.where(np.isnan(values), "INFEASIBLE", "SUCCEEDED")
    features = {name: column.copy() for name, column in history.features.items()}
    for column in features.values():
        column[rows, 0] = values
    return replace(history, states=states, features=features)


def ended(problem: Problem, history: History, rows: Any, state: str = "SUCCEEDED") -> History:
    """The history with the trials of some rows (indices) ended; measured if they succeeded or were pruned."""
    states, objectives, broken = history.states.copy(), history.objectives.copy(), history.violations.copy()
    states[rows] = state
    if state in ("SUCCEEDED", "PRUNED"):
        metrics = problem.measure(history.genes[rows])
        objectives[rows] = minimised(problem.objectives, metrics)
        broken[rows] = violations(problem.constraints, metrics)
    return replace(history, states=states, objectives=objectives, violations=broken)


def fitted(problem: Problem, designer: Designer, history: History) -> dict[str, Predictor]:
    """What the designer wants, as ridge regressions of the complete trials."""
    genes = history.genes[history.complete]
    result: dict[str, Predictor] = {}
    for request in designer.wants(history):
        targets = np.array([row[request.metric] for row in problem.measure(genes)])
        result[request.metric] = Ridge().fit(
            [Architectures(problem.space, genes)], [targets], np.random.default_rng(len(genes))
        )
    return result


Make = Callable[[Mapping[str, Predictor]], Designer]


def asked(
    problem: Problem, make: Make, history: History, count: int, number: int, *, seed: int = 0, slack: int = 0
) -> tuple[Suggestions, History]:
    """The answer to ask ``number``, after as many asks for cheap trials alone as its designer needs, all but ``slack``
    of which end; and the history with these."""
    for _ in range(5):
        designer = make(fitted(problem, make({}), history))
        answer = ask(designer, history, count, seed=seed, search_number=1, ask_number=number)
        if not answer.items or any(item.evaluates(problem.objectives) for item in answer.items):
            return answer, history
        history = appended(problem, history, designer, answer, number)
        due = np.flatnonzero((history.states == "QUEUED") & ~history.evaluation)
        history = scored(problem, history, due[: max(len(due) - slack, 0)])
    raise AssertionError("the designer asks for nothing but cheap trials")


def simulate(
    problem: Problem, make: Make, asks: int, count: int, *, seed: int = 0, slack: int = 0, rebuilt: bool = True
) -> History:
    """A search of ``asks`` asks for ``count``; the last ``slack`` trials of an ask are still open at the next.

    It goes on, as a controller does, until it has ``asks`` · ``count`` evaluations or the space has no more: asks that
    give cheap trials come on top. One evaluation in nine fails and one in eleven is infeasible. With ``rebuilt`` every
    ask gets a new designer, else one lives on and only its predictors are replaced.
    """
    history, alive = problem.empty(), make({})

    def living(predictors: Mapping[str, Predictor]) -> Designer:
        alive.predictors = dict(predictors)
        return alive

    for number in range(3 * asks):
        left = asks * count - int(history.evaluation.sum())
        if not left:
            break
        maker = make if rebuilt else living
        answer, history = asked(problem, maker, history, min(count, left), number, seed=seed, slack=slack)
        if not answer.items:
            break
        history = appended(problem, history, maker(fitted(problem, make({}), history)), answer, number)
        due = np.flatnonzero(history.states == "QUEUED")
        due = due[: max(len(due) - slack, 0)]
        history = scored(problem, history, due[~history.evaluation[due]])
        due = due[history.evaluation[due]]
        failed, infeasible = due % 9 == 8, due % 11 == 10
        history = ended(problem, history, due[failed], "FAILED")
        history = ended(problem, history, due[infeasible & ~failed], "INFEASIBLE")
        history = ended(problem, history, due[~failed & ~infeasible])
    return history
