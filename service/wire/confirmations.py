"""Confirmations: the best of a search, measured again on seeds that it never saw."""

from __future__ import annotations

from pydantic import Field, FiniteFloat

from service.core.objectives import Direction
from service.core.states import State
from service.wire.base import Json, MetricName, Metrics, Name, Time, Wire
from service.wire.studies import EvaluatorSpec


class ConfirmIn(Wire):
    """Asks for the best architectures of a search to be measured again."""

    best: int = Field(
        default=5,
        ge=1,
        le=50,
        description="Architectures of the search's own front; when it has more, those that add most to the "
        "hypervolume. With a single objective, that many best values.",
    )
    seeds: int = Field(default=3, ge=1, le=20, description="Fresh seeds on which each architecture is measured.")
    evaluator: EvaluatorSpec | None = Field(
        default=None,
        description="How they are measured, for example by `training` from scratch; as in the study if left out.",
    )
    metrics: list[MetricName] | None = Field(
        default=None,
        min_length=1,
        max_length=16,
        description="What is measured: metrics of the study that depend on a seed, by default such objectives. Counted "
        "ones and latencies do not.",
    )


class SeedValue(Wire):
    """One measurement of a confirmation."""

    seed: int
    value: FiniteFloat


class ConfirmedMetric(Wire):
    """One metric of one architecture: what it was chosen on, and what came out again."""

    metric: MetricName
    selected: FiniteFloat | None = Field(description="What the search saw; null if it did not measure this metric.")
    values: list[SeedValue] = Field(description="What fresh seeds gave so far.")
    mean: FiniteFloat | None = Field(description="Their mean; null before the first.")
    ci_low: FiniteFloat | None = Field(description="Lower end of the mean's 95 % t interval; null for fewer than two.")
    ci_high: FiniteFloat | None = Field(description="Upper end of it.")
    drop: FiniteFloat | None = Field(
        description="By how much the mean is worse than `selected`, in the metric's unit; negative if it is better."
    )


class ConfirmedArchitecture(Wire):
    """One architecture of a confirmation."""

    key: str
    config: Json
    trial: int = Field(description="Id of the trial that it was chosen by.")
    selected: Metrics = Field(description="Everything the search saw of it.")
    metrics: list[ConfirmedMetric] = Field(description="One per metric that is measured again.")


class Drop(Wire):
    """The winner's curse on one metric: who is chosen for good values is chosen for lucky ones too."""

    metric: MetricName
    direction: Direction
    architectures: int = Field(description="Architectures compared: those with at least one confirmed value.")
    drop: FiniteFloat | None = Field(
        description="Mean drop over architectures, in the metric's unit; positive: it got worse. Null without any."
    )
    ci_low: FiniteFloat | None = Field(description="Lower end of its 95 % t interval; null for fewer than two.")
    ci_high: FiniteFloat | None = Field(description="Upper end of it.")
    kendall_tau: float | None = Field(
        description="Tau-b between selected and confirmed values; null for fewer than three architectures."
    )
    tau_low: float | None = Field(description="Lower end of its 95 % bootstrap interval.")
    tau_high: float | None = Field(description="Upper end of it.")
    words: str = Field(description="The same in a sentence.")


class MissingMeasurement(Wire):
    """A measurement that failed."""

    key: str
    seed: int
    job: int
    state: State
    reason: str


class ConfirmationOut(Wire):
    """A confirmation and what it has shown so far."""

    id: int
    study: Name
    search: int = Field(description="Id of the search.")
    evaluator: EvaluatorSpec
    same_protocol: bool = Field(
        description="Whether the evaluator is the one that the search used. If not, differences are not those of "
        "selection alone."
    )
    metrics: list[MetricName] = Field(description="What is measured again.")
    seeds: list[int] = Field(description="The fresh seeds. Trials are measured on another one.")
    architectures: list[ConfirmedArchitecture] = Field(description="By the first objective, best first.")
    drops: list[Drop] = Field(description="One per metric, over all architectures.")
    done: int = Field(description="Measurements there are: one per architecture and seed.")
    open: int = Field(description="Measurements that wait or are at work.")
    failed: int = Field(description="Measurements that failed. The same request queues them again.")
    failures: list[MissingMeasurement] = Field(description="Why, one per failed measurement.")
    created_at: Time
