"""Trials in the hands of pipelines that evaluate for themselves."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, FiniteFloat

from service.core.failures import Failure
from service.core.states import SearchState, State
from service.wire.base import DeviceName, Json, MetricName, Metrics, Name, Time, Wire
from service.wire.searches import PredictionOut

PIPELINE = "pipeline"
"""Who takes trials, if nobody says."""

Token = Annotated[int, Field(ge=1, description="The fence that came with the trial.")]


class SuggestIn(Wire):
    """A pipeline asks for trials of a search."""

    worker: Name = Field(default=PIPELINE, description="Who asks; need not have been announced.")
    count: int = Field(default=1, ge=1, le=64, description="How many at most.")
    wait_s: float = Field(default=0, ge=0, le=30, description="Wait up to so many seconds for the first trial.")
    lease_s: float = Field(
        default=300,
        ge=5,
        le=86_400,
        description="Seconds for which the trials are yours; each report adds as many from then on.",
    )


class SuggestedTrial(Wire):
    """An architecture to be evaluated, and yours until `expires_at`."""

    trial: int = Field(description="Id of the trial: what reports and results are sent to.")
    job: int = Field(description="Id of the job behind it.")
    token: int = Field(description="The fence: goes with every report and with the result.")
    number: int = Field(description="Of the trial within its search, from 1.")
    key: str
    config: Json
    genes: list[int]
    metrics: list[MetricName] = Field(description="What is to be measured; what is known or counted is left out.")
    fidelity: float
    seed: int
    expires_at: Time = Field(description="End of the lease, UTC, unless a report pushes it on.")
    lease_s: float = Field(description="Seconds that each report adds.")
    predicted: dict[MetricName, PredictionOut]


class SuggestOut(Wire):
    """Trials, if there are any now."""

    trials: list[SuggestedTrial] = Field(description="Yours to evaluate; empty when none came in time.")
    state: SearchState = Field(description="State of the search.")
    done: bool = Field(description="The search has ended: nothing will come any more.")


class ReportIn(Wire):
    """How far a trial is."""

    token: Token
    step: int = Field(ge=0, le=2**53, description="Epochs, or whatever is counted, that are done.")
    total: int | None = Field(default=None, ge=1, le=2**53, description="Steps in all, where that is known.")
    note: str = Field(default="", max_length=200, description="A few words for people.")
    metrics: Metrics = Field(
        default_factory=dict, max_length=64, description="Metric → value after this step, kept with the trial's job."
    )


class ReportOut(Wire):
    """Whether to go on."""

    decision: Literal["continue", "stop"] = Field(description="stop: the result is not wanted any more.")
    reason: str = Field(description="Why to stop; empty otherwise.")
    expires_at: Time = Field(description="End of the lease, UTC.")


class TrialCompleteIn(Wire):
    """The result of a trial."""

    token: Token
    metrics: Metrics = Field(
        min_length=1,
        max_length=64,
        description="Metric → value: all that were asked for, and others if you like. MACs and parameters are counted "
        "by the server, whatever is sent.",
    )
    seconds: FiniteFloat = Field(default=0, ge=0, description="Seconds of work paid.")
    device: DeviceName | None = Field(
        default=None,
        description="What latencies were measured on; if left out the device that the metrics name, else the worker.",
    )
    worker: Name | None = Field(default=None, description="Who measured; who holds the trial if left out.")


class TrialFailIn(Wire):
    """A trial ended without a result, or goes back."""

    token: Token
    state: Literal["FAILED", "INFEASIBLE", "CANCELLED", "QUEUED"] = Field(
        description="FAILED: the work raised. INFEASIBLE: the architecture cannot be built or trained. CANCELLED: "
        "stopped as asked. QUEUED: hands it back, without using up an attempt."
    )
    reason: str = Field(min_length=1, max_length=2000, description="One sentence for people.")
    traceback: str | None = Field(default=None, max_length=100_000, description="Traceback of the failure.")
    failure: Failure | None = Field(default=None, description="Class of the failure; by default `state`'s.")
    seconds: FiniteFloat = Field(default=0, ge=0, description="Seconds of work paid.")


class TrialEndOut(Wire):
    """What became of a trial."""

    trial: int
    accepted: bool = Field(description="False: the token was stale. Measurements are kept either way.")
    state: State
