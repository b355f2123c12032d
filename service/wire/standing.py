"""What zero-cost proxies are worth in a study: how they rank what was measured, beside what costs nothing to count."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from predictors.standing import Verdict
from service.core.objectives import Direction
from service.wire.base import Json, MetricName, Wire
from service.wire.population import Rows


class RankOut(Wire):
    """A rank correlation, positive where good scores mean good architectures; null where it is undefined."""

    value: float | None = Field(description="-1 to 1.")
    low: float | None = Field(description="Lower end of its 95 % bootstrap interval.")
    high: float | None = Field(description="Upper end of it.")
    n: int = Field(description="Architectures.")


class BesideOut(Wire):
    """A score beside what is counted, on the same architectures."""

    baseline: Literal["macs", "params"] = Field(description="What is counted.")
    tau: RankOut = Field(description="Kendall's tau-b of the count, taking larger networks to be better.")
    difference: RankOut = Field(description="The score's tau minus that; its interval is of the pair.")
    verdict: Verdict = Field(description="Whether the whole interval of the difference is above 0, below it, neither.")


class StandingOut(Wire):
    """How one score ranks what was measured."""

    name: MetricName
    title: str = Field(description="As its authors write it.")
    direction: Direction = Field(description="Whether good networks have a high score or a low one.")
    kendall: RankOut = Field(description="Kendall's tau-b.")
    spearman: RankOut = Field(description="Spearman's rho.")
    best_kendall: RankOut | None = Field(description="Tau-b within the best tenth; null with fewer than 20 in it.")
    best_spearman: RankOut | None = Field(description="Rho within it.")
    partial: RankOut | None = Field(
        description="Kendall's partial tau with MACs and parameters held fixed; null of what is counted."
    )
    beside: list[BesideOut] = Field(description="Empty of what is counted.")
    words: str = Field(description="The verdicts as words, for example: no better than MACs or parameters.")
    seconds: float | None = Field(description="Mean seconds of a score; what one pass gave shares its time evenly.")
    undefined: int = Field(description="Architectures of which it is known that they have no score.")
    context: Json = Field(description="What the scores depend on: of several contexts the one with the most scores.")


class CorrelationsOut(Wire):
    """Spearman's rho among scores, counts and the metric, all turned so that more should be better."""

    names: list[MetricName] = Field(description="Of rows and columns: the metric, the proxies, what is counted.")
    rho: list[list[float | None]] = Field(description="Row by row; null with fewer than 20 architectures in common.")
    n: list[list[int]] = Field(description="Architectures that have both.")


class ProxyStandings(Wire):
    """What each zero-cost proxy is worth in a study, by Kendall's tau, the highest first."""

    metric: MetricName
    direction: Direction
    rows: Rows = Field(description="Which architectures were asked for.")
    measured: int = Field(description="Architectures with a value of the metric, however they came to be measured.")
    scored: int = Field(description="Of those asked for, how many have a score as well.")
    n: int = Field(description="Architectures described: of more than 2,000 so many are drawn.")
    chosen: int = Field(description="Of those described, how many a search chose for what it expected of them.")
    caution: str | None = Field(description="What the choice of rows does to the correlations.")
    proxies: list[StandingOut] = Field(description="The highest Kendall's tau first.")
    counted: list[StandingOut] = Field(description="MACs and parameters themselves, as far as the space counts them.")
    correlations: CorrelationsOut = Field(description="Which of them rank alike.")
