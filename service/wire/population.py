"""The population of a study: how what was measured is spread, and which choices shift it."""

from __future__ import annotations

from typing import Literal, TypeAlias

from pydantic import Field

from service.core.objectives import Direction
from service.wire.base import MetricName, Wire

Rows: TypeAlias = Literal["drawn", "all"]


class CurveOut(Wire):
    """The empirical distribution function, with a pointwise 95 % bootstrap band."""

    thresholds: list[float] = Field(description="In the metric's unit, rising.")
    share: list[float] = Field(description="Of the architectures, at least as good as each threshold; 0 to 1.")
    low: list[float] = Field(description="Lower end of the band.")
    high: list[float] = Field(description="Upper end of the band.")


class ShiftOut(Wire):
    """Some architectures beside all the others."""

    n: int = Field(description="How many they are.")
    median: float = Field(description="In the metric's unit.")
    difference: float = Field(
        description="Their mean minus the others', in the metric's unit: the area between the distribution functions."
    )
    low: float = Field(description="Lower end of the difference's 95 % interval.")
    high: float = Field(description="Upper end of the difference's 95 % interval.")
    better: float = Field(description="Chance that one of them is better than one of the others; ties count half.")


class OptionShift(Wire):
    """What one option of a choice shifts."""

    option: str | int | float | None = Field(description="Null: the choice is inactive.")
    shift: ShiftOut = Field(description="Architectures with this option beside all others.")


class ChoiceShift(Wire):
    """How far one choice shifts the values."""

    choice: str = Field(description="Its name.")
    effect: float = Field(description="Share of the variance of ranks that the choice explains, 0 to 1.")
    p: float = Field(description="That of Kruskal and Wallis' test, corrected for the number of choices.")
    options: list[OptionShift]


class SpreadOut(Wire):
    """A sample of architectures, described."""

    n: int = Field(description="Architectures.")
    curve: CurveOut = Field(description="Their distribution function.")
    best: float = Field(description="In the metric's unit.")
    median: float = Field(description="In the metric's unit.")
    mean: float = Field(description="In the metric's unit.")
    mean_low: float = Field(description="Lower end of the mean's 95 % interval.")
    mean_high: float = Field(description="Upper end of the mean's 95 % interval.")
    choices: list[ChoiceShift] = Field(description="By effect, the largest first.")


class PopulationOut(Wire):
    """How the measured architectures of a study are spread, and those that a restriction leaves beside all."""

    metric: MetricName
    direction: Direction
    rows: Rows = Field(description="Which architectures were asked for.")
    measured: int = Field(description="Architectures with a value, however they came to be measured.")
    chosen: int = Field(description="Of those described, how many a search chose for what it expected of them.")
    whole: SpreadOut = Field(description="All that are described.")
    restricted: SpreadOut | None = Field(description="Those that the rules leave; null without rules.")
    shift: ShiftOut | None = Field(description="Those that the rules leave beside all others.")
