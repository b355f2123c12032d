"""Jobs, workers, and what they say to each other."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field, StringConstraints

from service.core.states import State
from service.wire.base import Digest, Json, Name, Time, Wire
from service.wire.spaces import DatasetOut


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

    name: str = Field(description="Names the kind of device and its settings: latencies belong to it.")
    type: str = Field(description="cpu or cuda; external for a pipeline that never announced itself.")
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
    failure: str = Field(description="Class of the failure: bug, out_of_memory, infeasible, cancelled, drained.")
    reason: str = Field(max_length=2000, description="One sentence for people.")
    traceback: str | None = Field(default=None, max_length=100_000)
    seconds: float = Field(default=0, ge=0)


class JobOut(Wire):
    """A job as the server knows it."""

    id: int
    kind: JobKind
    state: State
    reason: str
    study: Name | None
    search: int | None
    trial: int | None
    worker: str | None
    attempts: int
    progress: Json
    result: Json | None
    traceback: str | None
    created_at: Time
    leased_at: Time | None
    ended_at: Time | None


class EventOut(Wire):
    """Something that happened; numbers are gapless in commit order."""

    number: int
    kind: str
    study: str | None
    search: int | None
    body: Json
    created_at: Time


class ScoreOut(Wire):
    """Progress of what was asked for in one go."""

    jobs: list[int] = Field(description="Ids of the jobs that were queued.")
    reused: int = Field(default=0, description="Architectures that needed none.")
