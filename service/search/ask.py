"""One ask of a search: the designer's suggestions, and the probes that audit its predictors."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence, Set
from typing import Any

import numpy as np

from predictors.predictor import Architectures, Predictor
from search_spaces.plugins import UnknownPlugin, load
from search_spaces.space import Bools, Genes, SearchSpace
from service.core.errors import Fault, Invalid
from service.core.history import History
from service.core.objectives import Constraint, Objective
from service.search.constraints import satisfies, taken_rows, uniform
from service.search.designer import Designer, Suggestion, Suggestions

PROBE_SHARE = 0.1

MOST_CHEAP = 10_000
"""Cheap trials in one ask."""

MOST_CHEAP_ASKS = 100
"""Asks in a row that may give cheap trials alone."""


def make_designer(
    name: str,
    space: SearchSpace,
    objectives: Sequence[Objective],
    constraints: Sequence[Constraint],
    predictors: Mapping[str, Predictor],
    options: Mapping[str, Any],
) -> Designer:
    """The designer of this name. Raises `Invalid` for ``designer`` (unknown) or ``options.NAME`` (unknown, wrong)."""
    try:
        cls = load("designers", name)
    except UnknownPlugin as error:
        raise Invalid("designer", str(error), allowed=error.known) from error
    # Only these could clash with a designer's own parameters; all other names it judges itself.
    for reserved in ("self", "space", "objectives", "constraints", "predictors"):
        if reserved in options:
            raise Invalid(f"options.{reserved}", f"{name} has no such option")
    designer: Designer = cls(space, objectives, constraints, predictors, **options)
    return designer


def ask(
    designer: Designer,
    history: History,
    count: int,
    *,
    seed: int,
    search_number: int,
    ask_number: int,
    probe_share: float = PROBE_SHARE,
) -> Suggestions:
    """At most ``count`` evaluations: the designer's, then probes; fewer when the space is exhausted.

    Probes are drawn uniformly from the canonical architectures that satisfy the computable constraints. They are
    ``probe_share`` of all evaluations, counted over the whole search, and at least one in an ask for more than one;
    none with a share of 0, and none beside cheap trials alone, which are no evaluations. The answer follows from the
    arguments alone: the generator is ``default_rng([seed, search_number, ask_number])``.

    Raises `Fault` if the designer breaks its contract: too many suggestions, a row that is not canonical, is known,
    repeats or breaks a computable constraint, a cheap trial of nothing, or a memo or state that is not JSON.
    """
    if count < 1:
        return Suggestions((), history.state)
    rng = np.random.default_rng([seed, search_number, ask_number])
    probes = _due(int(history.evaluation.sum()), count, probe_share)
    # With nothing but a probe to suggest the designer is not asked, and its state stays.
    answer = designer.suggest(history, count - probes, rng) if count > probes else Suggestions((), history.state)
    taken = taken_rows(history)
    _check(designer, answer, count - probes, taken)
    evaluated = [item for item in answer.items if item.evaluates(designer.objectives)]
    if answer.items and not evaluated:
        _check_end(designer, history)
        return answer
    taken |= {item.genes.tobytes() for item in evaluated}
    rows = uniform(designer.space, designer.constraints, probes, rng, taken)
    drawn = tuple(Suggestion(row, "probe: drawn uniformly to audit the predictors", probe=True) for row in rows)
    return Suggestions(answer.items + drawn, answer.state)


def predict(designer: Designer, genes: Genes, history: History) -> list[dict[str, dict[str, float]]]:
    """What the designer's predictors say of rows (n, d), to be kept before they are measured; predictors that read
    scores are given those of the history.

    n objects: metric → ``mean``, ``epistemic_std`` and ``std`` in the metric's own units (not minimised). Metrics
    without a predictor are left out; without any predictor the objects are empty.
    """
    rows: list[dict[str, dict[str, float]]] = [{} for _ in range(len(genes))]
    features = history.scores(genes) if designer.predictors else {}
    architectures = Architectures(designer.space, genes, features)
    for metric, predictor in designer.predictors.items():
        prediction = predictor.predict(architectures)
        columns = (prediction.mean.tolist(), prediction.epistemic_std.tolist(), prediction.std.tolist())
        for row, mean, epistemic_std, std in zip(rows, *columns, strict=True):
            row[metric] = {"mean": mean, "epistemic_std": epistemic_std, "std": std}
    return rows


def _due(earlier: int, count: int, share: float) -> int:
    """How many of the next ``count`` trials are probes, so that they are ``share`` of all in the long run."""
    running = math.floor(share * (earlier + count) + 1e-9) - math.floor(share * earlier + 1e-9)
    return max(running, 1) if count > 1 and share > 0 else running


def _check(designer: Designer, answer: Suggestions, most: int, taken: Set[bytes]) -> None:
    name, space = type(designer).__name__, designer.space
    items = answer.items
    evaluations = sum(item.evaluates(designer.objectives) for item in items)
    if evaluations > most:
        raise Fault(f"{name} made {evaluations} suggestions, asked for were {most}")
    if len(items) - evaluations > MOST_CHEAP:
        raise Fault(f"{name} asked for {len(items) - evaluations} cheap trials, at most {MOST_CHEAP} may be in an ask")
    try:
        json.dumps([dict(answer.state), *(dict(item.memo) for item in items)], allow_nan=False)
    except (TypeError, ValueError) as error:
        raise Fault(f"{name}: state and memos must be JSON: {error}") from error
    seen = set(taken)
    for place, item in enumerate(items):
        where = f"{name}, suggestion {place}"
        if item.genes.shape != (len(space.choices),) or item.genes.dtype != np.int8:
            raise Fault(
                f"{where}: genes must be int8 ({len(space.choices)},), got {item.genes.dtype} {item.genes.shape}"
            )
        if not 0 < item.fidelity <= 1:
            raise Fault(f"{where}: the fidelity must be in (0, 1], is {item.fidelity}")
        if item.metrics == ():
            raise Fault(f"{where} asks for no metric")
        if not item.evaluates(designer.objectives):
            continue
        if item.fidelity == 1 and item.genes.tobytes() in seen:
            raise Fault(f"{where} is already in the search: {item.genes.tolist()}")
        if item.fidelity == 1:
            seen.add(item.genes.tobytes())
    if not items:
        return
    genes = np.stack([item.genes for item in items])
    _refuse(name, genes, ~space.valid(genes), "is not in the space")
    _refuse(name, genes, (space.canonical(genes) != genes).any(axis=1), "is not the canonical row")
    _refuse(name, genes, ~satisfies(space, designer.constraints, genes), "breaks a constraint on MACs or parameters")


def _check_end(designer: Designer, history: History) -> None:
    """Cheap trials cost no budget: a designer that asks for nothing else would go on for ever."""
    cheap = np.unique(history.asks[history.asks > history.asks[history.evaluation].max(initial=-1)])
    if len(cheap) >= MOST_CHEAP_ASKS:
        raise Fault(f"{type(designer).__name__} asked {len(cheap)} times in a row for cheap trials alone")


def _refuse(name: str, genes: Genes, wrong: Bools, what: str) -> None:
    if wrong.any():
        place = int(np.flatnonzero(wrong)[0])
        raise Fault(f"{name}, suggestion {place} {what}: {genes[place].tolist()}")
