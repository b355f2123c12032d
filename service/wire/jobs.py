"""Jobs, workers, and what they say to each other."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field, FiniteFloat, StringConstraints

from service.core.failures import Failure
from service.core.states import State
from service.wire.base import Digest, Json, MetricName, Metrics, Name, Time, Wire
from service.wire.spaces import DatasetOut

JobId = Annotated[int, Field(ge=1, le=2**63 - 1)]
Group = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")]


class JobKind(StrEnum):
    EVALUATE = "evaluate"
    TRAIN_SUPERNET = "train_supernet"
    FIT = "fit"
    PREDICT = "predict"
    SCORE = "score"
    REPLAY = "replay"
    EXPORT = "export"
    IMPORT = "import"
    """Done by the server itself: workers never get it."""


class Device(Wire):
    """What a worker computes on."""

    name: str = Field(
        description="Names the kind of device and its settings: latencies belong to it. At most 80 letters, digits, "
        "'_', '.', ':', '-'."
    )
    type: str = Field(
        description="cpu or cuda, at most 20 characters; the same for every worker that has the device. external for "
        "a pipeline that never announced itself."
    )
    memory_mb: int = Field(ge=0, description="Memory in MiB.")
    software: Json = Field(default_factory=dict, description="Versions that matter: torch, python ...")


class WorkerIn(Wire):
    """A worker announces itself."""

    name: Name
    kinds: list[JobKind] = Field(min_length=1, description="Jobs it can run.")
    device: Device
    datasets: list[DatasetOut] = Field(default_factory=list, description="Data sets it has.")
    evaluators: list[Annotated[str, StringConstraints(min_length=1, max_length=63)]] = Field(
        default_factory=list, description="Evaluators it has: plug-ins, or functions of its own."
    )


class DeviceOut(Device):
    """A device as the server knows it: as it was announced last."""

    created_at: Time = Field(description="When it was announced first, UTC.")
    last_seen_at: Time = Field(description="When a worker that has it was heard of last, UTC.")
    workers: list[Name] = Field(description="Workers that have it and were heard of within the last minute.")
    latencies: int = Field(description="Measured latencies that belong to it, repetitions included.")


class WorkerOut(WorkerIn):
    """A worker as the server knows it."""

    kinds: list[JobKind] = Field(description="Jobs it can run; none for a pipeline that takes trials of a search.")
    alive: bool = Field(description="Heard of within the last minute.")
    jobs: list[int] = Field(description="Ids of the jobs it holds.")
    last_seen_at: Time


class LeaseIn(Wire):
    """A worker asks for jobs."""

    worker: Name = Field(description="Must have been announced.")
    count: int = Field(default=1, ge=1, le=64)
    wait_s: float = Field(default=0, ge=0, le=30, description="Wait up to so long for the first job.")
    weights: list[Digest] = Field(default_factory=list, description="Super-networks already loaded: served first.")


class Lease(Wire):
    """A job in a worker's hands until `expires_at`, unless heartbeats push it on."""

    job: int
    kind: JobKind
    token: int = Field(description="The fence: grows with every lease of the job.")
    attempt: int = Field(description="From 1.")
    expires_at: Time
    lease_s: float = Field(description="Seconds that each heartbeat adds.")
    payload: Json = Field(description="The body of the kind's payload type.")
    checkpoint: Digest | None = Field(default=None, description="Artifact to go on from.")


class LeasesOut(Wire):
    """Leased jobs; empty when none came in time."""

    leases: list[Lease]


class HeartbeatIn(Wire):
    """A worker is alive and at work on a job."""

    token: int
    progress: Json | None = Field(default=None, description="done, total, note and metrics of the job so far.")
    checkpoint: Digest | None = Field(default=None, description="Uploaded artifact to resume from after a kill.")


class HeartbeatOut(Wire):
    """The lease is extended."""

    expires_at: Time
    stop: bool = Field(description="The job was cancelled: stop and report.")


class CompleteIn(Wire):
    """A job's result."""

    job: int
    token: int
    result: Json = Field(description="The body of the kind's result type.")
    seconds: float = Field(ge=0, description="Seconds of work paid.")


class CompleteBatch(Wire):
    """Results of one worker, each accepted or refused on its own."""

    worker: Name
    results: list[CompleteIn] = Field(min_length=1, max_length=64)


class Completed(Wire):
    """What became of one result."""

    job: int
    accepted: bool = Field(description="False: the token was stale. Measurements are kept either way.")
    state: State


class CompletedBatch(Wire):
    items: list[Completed]


class FailIn(Wire):
    """A job ended without a result."""

    token: int
    state: State = Field(description="FAILED (the work raised), INFEASIBLE or CANCELLED; QUEUED hands it back.")
    failure: Failure = Field(description="Class of the failure: it says whether, and when, the job is tried again.")
    reason: str = Field(max_length=2000, description="One sentence for people.")
    traceback: str | None = Field(default=None, max_length=100_000)
    seconds: float = Field(default=0, ge=0)


class JobNeeds(Wire):
    """What a worker must have to be given a job; null where anything will do."""

    dataset: Digest | None = Field(default=None, description="Digest of a data set.")
    evaluator: str | None = Field(default=None, description="Name of an evaluator.")
    device: str | None = Field(default=None, description="Name of a device: its latency is asked for.")
    device_type: str | None = Field(default=None, description="cpu or cuda.")
    memory_mb: int | None = Field(default=None, description="Least memory of the device, in MiB.")
    weights: Digest | None = Field(
        default=None, description="Super-network that the job uses; workers that have it come first."
    )


class JobOut(Wire):
    """A job as the server knows it."""

    id: int
    kind: JobKind
    state: State
    reason: str
    failure: Failure | None = Field(default=None, description="Class of its last failure; null if it never failed.")
    study: Name | None
    search: int | None
    trial: int | None
    priority: int = Field(default=0, description="A smaller one is served first.")
    needs: JobNeeds = Field(default_factory=JobNeeds, description="What a worker must have to be given it.")
    worker: str | None
    attempts: int
    max_attempts: int | None = Field(
        default=None, description="It is leased at most so often, whatever fails; classes of failure allow less."
    )
    not_before: Time | None = Field(default=None, description="Not leased earlier: it waits for another try.")
    leased_until: Time | None = Field(
        default=None, description="When the lease ends unless its worker is heard of; null if none."
    )
    progress: Json
    result: Json | None
    traceback: str | None
    created_at: Time
    leased_at: Time | None
    ended_at: Time | None


RESET = "reset"
"""Kind of an event that is none: it tells a reader that events were missed."""


class EventOut(Wire):
    """Something that happened; numbers are gapless in commit order.

    One of kind `reset` says instead that events were missed: load again what was made of earlier ones.
    """

    number: int = Field(
        description="Go on from here after a break; of a `reset`, the number that the stream goes on from."
    )
    kind: str = Field(description="What happened: `trial.ended`, `search.state` ...; or `reset`.")
    study: str | None
    search: int | None
    body: Json = Field(description="Depends on the kind; of a `reset`, the numbers of the `oldest` and `newest` event.")
    created_at: Time


class ScoredOut(Wire):
    """What is known of one architecture, of the proxies that were asked for."""

    key: str = Field(description="The architecture's key.")
    scores: Metrics = Field(description="Proxy → score; with `repeats` the mean over the initialisations.")
    intervals: dict[MetricName, tuple[FiniteFloat, FiniteFloat]] = Field(
        description="Proxy → ends of the score's 95 % interval over the initialisations, if there are several."
    )
    undefined: dict[MetricName, str] = Field(description="Proxy → why it has no score for this network.")


class ScoreOut(Wire):
    """How far the scoring of what was asked for is."""

    jobs: list[int] = Field(description="Ids of the jobs that score it: those that were queued, and those at work.")
    reused: int = Field(default=0, description="Architectures of which everything is known.")
    waiting: list[MetricName] = Field(
        default_factory=list, description="Aggregates whose columns are not all scored yet: ask again for them."
    )
    pools: dict[MetricName, int] = Field(
        default_factory=dict, description="Aggregate → how many of the architectures were ranked, having all columns."
    )
    rows: list[ScoredOut] | None = Field(
        default=None, description="Per architecture, in the order asked for, equal ones once; null if not asked for."
    )


class JobsIn(Wire):
    """Which jobs: those that pass every filter given. At least one must be."""

    ids: list[JobId] | None = Field(default=None, min_length=1, max_length=1000, description="Only these.")
    study: Name | None = Field(default=None, description="Only those of this study.")
    search: int | None = Field(default=None, ge=1, description="Only those of the search with this id.")
    kind: JobKind | None = Field(default=None, description="Only those of this kind.")
    state: State | None = Field(default=None, description="Only those in this state.")
    failure: Failure | None = Field(default=None, description="Only those whose last failure was of this class.")
    worker: Name | None = Field(default=None, description="Only those that this worker has, or had last.")
    group: Group | None = Field(default=None, description="Only those of this group of failures.")
    after: int = Field(default=0, ge=0, description="Only jobs with larger ids: `next` of the answer before.")
    limit: int = Field(default=500, ge=1, le=1000, description="At most so many in one transaction.")
    dry_run: bool = Field(default=False, description="Change nothing, and answer what would be done.")


class LeftAlone(Wire):
    """A job that nothing was done to."""

    job: int
    reason: str = Field(description="Why not, and what would help.")


class RetriedOut(Wire):
    """What became of dead letters that were to be tried again."""

    retried: list[int] = Field(description="Ids of the jobs that wait again, with all their attempts.")
    left_alone: list[LeftAlone] = Field(description="Jobs that nothing was done to.")
    next: int | None = Field(description="There may be more: pass it as `after`; null when all were looked at.")


class CancelledOut(Wire):
    """What became of jobs that were to be cancelled."""

    cancelled: list[int] = Field(description="Ids of those that waited: they have ended.")
    stopping: list[int] = Field(description="Ids of those at work: their workers hear of it with the next heartbeat.")
    left_alone: list[LeftAlone] = Field(description="Jobs that nothing was done to.")
    next: int | None = Field(description="There may be more: pass it as `after`; null when all were looked at.")


class FailureGroup(Wire):
    """Jobs that failed alike: of one kind, with one class of failure and, but for numbers and names, one reason."""

    group: str = Field(description="Names the group, to retry or cancel it.")
    kind: JobKind
    failure: Failure | None = Field(description="Class of the failure; null if nobody said.")
    reason: str = Field(description="The reason with `#` for numbers and digests and `…` for paths and workers.")
    dead: int = Field(description="How many are dead letters.")
    waiting: int = Field(description="How many wait for another try.")
    first_at: Time = Field(description="The first of these failures, UTC.")
    last_at: Time = Field(description="The last of these failures, UTC.")
    job: int = Field(description="Id of the newest of these jobs.")
    study: Name | None = Field(description="Study of the newest of these jobs; null if it has none.")
    last_line: str | None = Field(description="Last line of the newest job's traceback; null if it has none.")


class FailuresOut(Wire):
    """Failures by reason, the largest groups first."""

    groups: list[FailureGroup] = Field(description="The groups, those with most jobs first.")
    looked_at: int = Field(description="How many failed jobs were looked at, the newest first.")
    more: bool = Field(description="There are older ones, which were not looked at.")
