"""Constraints that need no measurement, and rows that keep to them.

Where a space counts MACs and parameters from the genes alone, a designer never suggests an architecture that breaks a
bound on them. Every loop here is bounded: a space with too little left gives fewer rows.
"""

from __future__ import annotations

from collections.abc import Sequence, Set

import numpy as np

from search_spaces.space import Bools, Genes, SearchSpace, distinct
from service.core.history import History
from service.core.objectives import Constraint, Values, excess

_ROUNDS = 12
_WALKERS = 32
_LARGEST_DRAW = 2**14
_STEPS = 64
_RATES = (0.0, 0.0, 0.0, None, None, 0.25, 0.5, 0.5)
"""Mutation rates of successive tries: one choice first, then further from the parent when all near it is taken."""


def breach(space: SearchSpace, constraints: Sequence[Constraint], genes: Genes) -> Values:
    """(n,): by how much each row breaks the computable constraints, relative to their bounds, summed; 0 is within."""
    computable = [constraint for constraint in constraints if constraint.metric in space.counted]
    if not computable or not len(genes):
        return np.zeros(len(genes))
    cost = space.cost(genes)
    columns = [excess(constraint, cost[constraint.metric].astype(np.float64)) for constraint in computable]
    return total_violation(computable, np.stack(columns, axis=1))


def total_violation(constraints: Sequence[Constraint], broken: Values) -> Values:
    """(n,): violations (n, c) in units of their own bounds, summed; a violation that is NaN (unmeasured) makes inf."""
    scales = np.array([max(abs(b) for b in (c.lower, c.upper) if b is not None) or 1.0 for c in constraints])
    total: Values = (np.where(np.isnan(broken), np.inf, broken) / scales.reshape(1, -1)).sum(axis=1)
    return total


def satisfies(space: SearchSpace, constraints: Sequence[Constraint], genes: Genes) -> Bools:
    """(n,): rows within every constraint on what the space counts; constraints on other metrics are not judged."""
    within: Bools = breach(space, constraints, genes) == 0
    return within


def taken_rows(history: History) -> set[bytes]:
    """The rows of the history that were to be fully evaluated, whatever became of them, as bytes.

    Those that were only scored are not among them: they may yet be evaluated.
    """
    return {row.tobytes() for row in history.genes[history.evaluation & (history.fidelity == 1.0)]}


def unseen(genes: Genes, taken: Set[bytes]) -> Bools:
    """(n,): rows that are not among ``taken``, the first of equal rows alone."""
    seen = set(taken)
    result = np.zeros(len(genes), dtype=bool)
    for index, row in enumerate(genes):
        text = row.tobytes()
        if text not in seen:
            seen.add(text)
            result[index] = True
    return result


def uniform(
    space: SearchSpace, constraints: Sequence[Constraint], count: int, rng: np.random.Generator, taken: Set[bytes]
) -> Genes:
    """(≤ count, d): distinct canonical rows within the computable constraints, none of them ``taken``.

    Rejection sampling from `SearchSpace.sample`, so as uniform as the space's own sampling; fewer rows when the
    space is exhausted, or when some 10^5 draws do not hit a narrow constraint (then see `near`).
    """
    found = np.empty((0, len(space.choices)), dtype=np.int8)
    draw = count
    for _ in range(_ROUNDS):
        if len(found) >= count:
            break
        drawn = space.sample(draw, rng)
        listed = len(drawn) < draw
        drawn = drawn[unseen(drawn, taken)]
        found = np.concatenate([found, drawn[satisfies(space, constraints, drawn)]])
        found = distinct(found)
        if listed:  # the space has no more rows than these
            break
        draw = min(4 * draw, _LARGEST_DRAW)
    return found[:count]


def near(
    space: SearchSpace, constraints: Sequence[Constraint], count: int, rng: np.random.Generator, taken: Set[bytes]
) -> Genes:
    """(≤ count, d): as `uniform`, but found by random walks towards and then within narrow constraints: not uniform.

    Walks start from samples and from the smallest and largest networks; a step is a mutation that does not break
    the constraints more.
    """
    found = np.empty((0, len(space.choices)), dtype=np.int8)
    if count < 1:
        return found
    extremes = space.canonical(space.extremes())
    walkers = np.concatenate([extremes, space.sample(max(_WALKERS, 2 * count), rng)])
    broken = breach(space, constraints, walkers)
    for _ in range(_STEPS):
        arrived = walkers[broken == 0]
        found = np.concatenate([found, arrived[unseen(arrived, taken | {row.tobytes() for row in found})]])
        if len(found) >= count:
            break
        steps = space.mutate(walkers, rng)
        further = breach(space, constraints, steps)
        better = further <= broken
        walkers[better], broken[better] = steps[better], further[better]
    return found[rng.permutation(len(found))[:count]]


def mutants(
    space: SearchSpace, constraints: Sequence[Constraint], parents: Genes, rng: np.random.Generator, taken: Set[bytes]
) -> list[Genes | None]:
    """For each parent (n, d) one child (d,) within the computable constraints, distinct and not ``taken``.

    None for a parent whose neighbourhood is taken: the tries are bounded.
    """
    children: list[Genes | None] = [None] * len(parents)
    seen = set(taken)
    for rate in _RATES:
        todo = [index for index, child in enumerate(children) if child is None]
        if not todo:
            break
        tried = space.mutate(parents[todo], rng, rate)
        within = satisfies(space, constraints, tried)
        for index, child, good in zip(todo, tried, within, strict=True):
            if good and child.tobytes() not in seen:
                seen.add(child.tobytes())
                children[index] = child
    return children
