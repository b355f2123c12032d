"""Objectives and constraints: the one place where directions and bounds become "smaller is better"."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from service.core.errors import Invalid

Values: TypeAlias = NDArray[np.float64]

ANALYTIC = ("macs", "params")
"""Metrics that every space counts without building a network: constraints on them are checked before paying."""


class Direction(StrEnum):
    MINIMISE = "minimise"
    MAXIMISE = "maximise"


@dataclass(frozen=True, slots=True)
class Objective:
    """A metric with a direction. ``bounds`` are (ideal, nadir) for the hypervolume, in the metric's own units."""

    metric: str
    direction: Direction
    bounds: tuple[float, float]

    def __post_init__(self) -> None:
        ideal, nadir = self.bounds
        if not (math.isfinite(ideal) and math.isfinite(nadir)) or ideal == nadir:
            raise Invalid(
                f"objectives.{self.metric}.bounds", f"must be two different finite numbers, got {self.bounds}"
            )
        if (ideal < nadir) != (self.direction is Direction.MINIMISE):
            raise Invalid(
                f"objectives.{self.metric}.bounds",
                f"are (ideal, nadir), so to {self.direction} the first must be the better one; got {self.bounds}",
            )


@dataclass(frozen=True, slots=True)
class Constraint:
    """``lower`` ≤ metric ≤ ``upper``, either of them open when None."""

    metric: str
    lower: float | None = None
    upper: float | None = None

    def __post_init__(self) -> None:
        if self.lower is None and self.upper is None:
            raise Invalid(f"constraints.{self.metric}", "needs a lower or an upper bound")
        if self.lower is not None and self.upper is not None and self.lower > self.upper:
            raise Invalid(f"constraints.{self.metric}", f"lower bound {self.lower} is above upper bound {self.upper}")


def minimised(objectives: Sequence[Objective], rows: Sequence[Mapping[str, float]]) -> Values:
    """(n, m): each objective with its sign turned so that smaller is better; NaN where a row lacks the metric."""
    table = np.full((len(rows), len(objectives)), np.nan)
    for column, objective in enumerate(objectives):
        sign = 1.0 if objective.direction is Direction.MINIMISE else -1.0
        for row, metrics in enumerate(rows):
            value = metrics.get(objective.metric)
            if value is not None:
                table[row, column] = sign * value
    return table


def scaled(objectives: Sequence[Objective], values: Values) -> Values:
    """Minimised values (n, m) → 0 at the ideal, 1 at the nadir."""
    ideal, nadir = scale_bounds(objectives)
    return (values - ideal) / (nadir - ideal)


def scale_bounds(objectives: Sequence[Objective]) -> tuple[Values, Values]:
    """(ideal, nadir), (m,) each, minimised."""
    signs = np.array([1.0 if o.direction is Direction.MINIMISE else -1.0 for o in objectives])
    bounds = np.array([o.bounds for o in objectives], dtype=np.float64)
    return signs * bounds[:, 0], signs * bounds[:, 1]


def excess(constraint: Constraint, values: Values) -> Values:
    """(n,): by how much each value (n,) breaks the constraint, in the metric's units; 0 where it holds, NaN of NaN."""
    above = values - constraint.upper if constraint.upper is not None else np.zeros_like(values)
    below = constraint.lower - values if constraint.lower is not None else np.zeros_like(values)
    result: Values = np.maximum(np.maximum(above, below), np.where(np.isnan(values), np.nan, 0.0))
    return result


def violations(constraints: Sequence[Constraint], rows: Sequence[Mapping[str, float]]) -> Values:
    """(n, c): by how much each constraint is broken, 0 where it holds, NaN where the metric is missing."""
    table = np.full((len(rows), len(constraints)), np.nan)
    for column, constraint in enumerate(constraints):
        values = [metrics.get(constraint.metric) for metrics in rows]
        table[:, column] = excess(constraint, np.array([np.nan if value is None else value for value in values]))
    return table
