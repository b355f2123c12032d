"""A small world for tests of the database: a tiny space, a data set, workers, a study, and what is done with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from sqlalchemy import event, update

from search_spaces.space import Genes, SearchSpace
from service.controller import Stepper
from service.core.spaces import build_space
from service.core.states import State
from service.db import queue, searches, spaces, studies, trials, workers
from service.db.searches import Claim
from service.db.session import Database
from service.db.tables import Job
from service.search.designer import Suggestion, Suggestions
from service.wire.base import Json
from service.wire.jobs import CompleteBatch, Completed, CompleteIn, Device, FailIn, JobKind, Lease, LeaseIn, WorkerIn
from service.wire.searches import SearchIn, SearchOut, TrialOut
from service.wire.spaces import DatasetOut, SpaceIn, Task
from service.wire.studies import EvaluatorSpec, ObjectiveIn, StudyIn

TINY: Json = {
    # 400 networks of a few thousand multiplications.
    "in_channels": 1,
    "classes": 10,
    "resolutions": [8],
    "kernels": [3, 5],
    "expansions": [3, 4],
    "depths": [1, 2],
    "stage_widths": [8, 16],
    "stage_strides": [1, 2],
    "stage_se": [False, True],
    "stage_activations": ["relu", "h_swish"],
    "stem_width": 8,
    "stem_stride": 1,
    "first_width": 8,
    "final_width": 32,
    "feature_width": 32,
}
DIGITS = DatasetOut(
    name="digits", digest="d" * 64, shape=[1, 8, 8], classes=10, counts={"train": 1000, "validation": 300, "test": 400}
)
CPU = Device(name="cpu-a", type="cpu", memory_mb=1000)
GPU = Device(name="gpu-b", type="cuda", memory_mb=80_000)

Measure = Callable[[Lease], Mapping[str, float]]


def error_of(genes: Sequence[int]) -> float:
    """A repeatable stand-in for an evaluation: between 0.1 and 0.7, different for most rows."""
    return round(0.1 + 0.6 * (sum((i + 1) * g for i, g in enumerate(genes)) % 97) / 97, 6)


def measured(lease: Lease) -> dict[str, float]:
    """Values of every metric that a lease asks for."""
    error = error_of(lease.payload["genes"])
    known = {"error": error, "loss": 3 * error, "latency_ms": 1 + error}
    return {name: known[name.partition("@")[0]] for name in lease.payload["metrics"]}


@dataclass
class World:
    """Opens one transaction for each thing done."""

    database: Database
    space: SearchSpace = field(default_factory=lambda: build_space("mobilenetv3", TINY, "function"))

    def found(self, **study: Any) -> World:
        """The space `tiny`, the worker `w` and the study `study`."""
        with self.database.write() as s:
            spaces.create(s, SpaceIn(name="tiny", plugin="mobilenetv3", options=TINY))
        self.worker("w")
        self.study(**study)
        return self

    def worker(self, name: str, **given: Any) -> None:
        known = {"kinds": list(JobKind), "device": CPU, "datasets": [DIGITS], "evaluators": ["training"]}
        with self.database.write() as s:
            workers.announce(s, WorkerIn(name=name, **{**known, **given}))

    def study_in(self, **given: Any) -> StudyIn:
        known = {
            "name": "study",
            "space": "tiny",
            "task": Task(dataset="digits"),
            "objectives": [ObjectiveIn(metric="error"), ObjectiveIn(metric="macs")],
            "evaluator": EvaluatorSpec(name="training"),
        }
        return StudyIn(**{**known, **given})

    def study(self, **given: Any) -> None:
        with self.database.write() as s:
            studies.create(s, self.study_in(**given))

    def search(self, study: str = "study", **given: Any) -> SearchOut:
        with self.database.write() as s:
            return searches.create(s, study, SearchIn(**{"designer": "random", "budget": 100, **given}))[0]

    def claim(self, search: int, controller: str = "c1", lease_s: float = 60) -> Claim:
        with self.database.write() as s:
            claim = searches.claim(s, search, controller, lease_s)
        assert claim is not None
        return claim

    def genes(self, count: int, seed: int = 0) -> Genes:
        """Different rows of the space."""
        return self.space.sample(count, np.random.default_rng(seed))

    def ask(self, search: int, genes: Genes, ask: int = 0, claim: Claim | None = None, **given: Any) -> list[int]:
        """Stores an ask for these rows; returns the ids of its trials."""
        claim = claim or self.claim(search)
        items = tuple(Suggestion(row, "a test", **given) for row in genes)
        said: list[dict[str, dict[str, float]]] = [{} for _ in items]
        with self.database.write() as s:
            snapshot = searches.snapshot(s, search)
            seen = {"completion": snapshot.completion, "pending": snapshot.pending, "predictors": {}}
            wanted = snapshot.study.metrics
            return searches.record_ask(s, claim, ask, Suggestions(items, {"ask": ask}), said, {}, seen, wanted)

    def lease(self, count: int = 64, worker: str = "w", lease_s: float = 60, **given: Any) -> list[Lease]:
        with self.database.write() as s:
            return queue.lease(s, [LeaseIn(worker=worker, count=count)], lease_s, **given)[0]

    def complete(
        self, leases: Sequence[Lease], measure: Measure = measured, *, worker: str = "w", device: str = CPU.name
    ) -> list[Completed]:
        results = [
            CompleteIn(job=each.job, token=each.token, result=evaluated(measure(each), device), seconds=2.0)
            for each in leases
        ]
        with self.database.write() as s:
            return queue.complete(s, [CompleteBatch(worker=worker, results=results)])[0].items

    def fail(self, lease: Lease, state: State = State.FAILED, failure: str = "invalid", **given: Any) -> Completed:
        body = FailIn(token=lease.token, state=state, failure=failure, **{"reason": "a test", **given})
        with self.database.write() as s:
            return queue.fail(s, lease.job, body)

    def wait_out(self, job: int) -> None:
        """As if the time until a job may be tried again had passed."""
        with self.database.write() as s:
            s.execute(update(Job).where(Job.id == job).values(not_before=None))

    def trials(self, search: int) -> list[TrialOut]:
        with self.database.read() as s:
            return trials.page(s, 1000, search=search).items

    def states(self, search: int) -> list[str]:
        return [trial.state.value for trial in self.trials(search)]


def evaluated(metrics: Mapping[str, float], device: str = CPU.name) -> Json:
    """The result of an evaluation."""
    return {"metrics": dict(metrics), "device": device}


def advance(database: Database, stepper: Stepper) -> bool:
    """What controllers do, in this thread: a step of every running search. True if anything was written."""
    with database.read() as s:
        ids = searches.running(s, "a test")
    wrote = False
    for search in ids:
        with database.write() as s:
            held = searches.claim(s, search, "a test", 60)
        wrote |= held is not None and stepper.step(held)
    return wrote


@contextmanager
def statements(database: Database) -> Iterator[list[str]]:
    """Collects the statements that run meanwhile; one that is sent with many rows counts once."""
    seen: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        seen.append(statement)

    event.listen(database.engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(database.engine, "before_cursor_execute", note)
