"""Studies for tests of the dashboard: two searches, probes, predictions, trials of every end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from service.core.spaces import build_space
from service.core.states import State
from service.db import artifacts, front, queue, searches, spaces, studies, supernets
from service.db.session import Database
from service.search.designer import Suggestion, Suggestions
from service.wire.base import Json
from service.wire.jobs import CompleteBatch, CompleteIn, HeartbeatIn, Lease
from service.wire.searches import SearchIn
from service.wire.spaces import SpaceIn, SupernetIn, Task
from service.wire.studies import EvaluatorSpec, ObjectiveIn, StudyIn
from tests.world import CPU, TINY, World

NASTY = '<script>alert("x")</script><img src=x onerror=alert(1)>'
"""What must never be markup."""

DIGITS_OPTIONS: Json = {
    # Blocks enough for a diagram of several rows.
    **TINY,
    "depths": [2, 3, 4],
    "stage_widths": [8, 16, 24, 32, 40],
    "stage_strides": [1, 2, 1, 2, 1],
    "stage_se": [False, True, False, True, True],
    "stage_activations": ["relu", "relu", "h_swish", "h_swish", "h_swish"],
}


@dataclass
class DashboardWorld:
    """A study named ``digits-mobile`` whose searches are advanced by hand."""

    world: World
    study: str = "digits-mobile"

    @staticmethod
    def in_database(database: Database, options: Json = DIGITS_OPTIONS) -> DashboardWorld:
        world = World(database, build_space("mobilenetv3", options, "function"))
        with database.write() as s:
            spaces.create(s, SpaceIn(name="mobile", plugin="mobilenetv3", options=options))
        world.worker("cpu-1")
        made = DashboardWorld(world)
        with database.write() as s:
            studies.create(
                s,
                StudyIn(
                    name=made.study,
                    space="mobile",
                    task=Task(dataset="digits"),
                    objectives=[ObjectiveIn(metric="error"), ObjectiveIn(metric="macs")],
                    metrics=["params", "latency_ms"],
                    evaluator=EvaluatorSpec(name="training"),
                ),
            )
        return made

    def start(self, name: str, designer: str = "random", budget: int = 60) -> int:
        """A running search; returns its id."""
        with self.world.database.write() as s:
            body = SearchIn(name=name, designer=designer, budget=budget)
            return searches.create(s, self.study, body)[0].id

    def ask(
        self, search: int, count: int, *, ask: int = 0, seed: int = 0, predict: bool = False, reason: str = "drawn"
    ) -> None:
        """One ask of random architectures, every third of them a probe where there are predictions."""
        rng = np.random.default_rng(seed)
        rows = self.world.genes(count, seed)
        if predict:
            # Chosen rows are better than random ones: the best of many.
            pool = self.world.genes(count * 4, seed + 1000)
            errors = np.array([self.values(row)["error"] for row in pool])
            quality = errors + self.world.space.cost(pool)["macs"] / 1e7
            best = pool[np.argsort(quality)[:count]]
            rows = np.where((np.arange(count) % 3 == 0)[:, None], rows, best).astype(np.int8)
        items = tuple(Suggestion(row, reason, probe=predict and index % 3 == 0) for index, row in enumerate(rows))
        said: list[Mapping[str, Mapping[str, float]]] = []
        for row in rows:
            mean = self.values(row)["error"] + rng.normal(0, 0.02)
            said.append({"error": {"mean": mean, "epistemic_std": 0.02, "std": 0.03}} if predict else {})
        claim = self.world.claim(search)
        with self.world.database.write() as s:
            snapshot = searches.snapshot(s, search)
            seen = {"completion": snapshot.completion, "pending": snapshot.pending, "predictors": {}}
            searches.record_ask(s, claim, ask, Suggestions(items), said, {}, seen, snapshot.study.metrics)

    def values(self, row: Any) -> dict[str, float]:
        """A stand-in for a measurement: larger networks err less, with noise that belongs to the row."""
        genes = np.asarray(row, dtype=np.int8)
        cost = {name: float(found[0]) for name, found in self.world.space.cost(genes[None]).items()}
        noise = np.random.default_rng(genes.view(np.uint8)).normal(0, 0.012)
        error = float(np.clip(0.02 + 0.5 * (2e5 / cost["macs"]) ** 0.5 + noise, 0.005, 0.9))
        return {"error": round(error, 5), "latency_ms": round(0.3 + cost["macs"] / 2.5e6 + 2 * abs(noise), 4)}

    def finish(self, count: int = 64) -> int:
        """Leases and completes trials; returns how many there were."""
        leases = self.world.lease(count, worker="cpu-1")
        if leases:
            self.world.complete(leases, self._measured, worker="cpu-1", device=CPU.name)
        return len(leases)

    def fail_one(self, reason: str) -> None:
        (lease,) = self.world.lease(1, worker="cpu-1")
        self.world.fail(lease, State.INFEASIBLE, "infeasible", reason=reason)

    def supernet_study(self, *, trained: bool) -> str:
        """A second study, over a super-network that is being trained or has been; returns its name."""
        task, db = Task(dataset="digits"), self.world.database
        self.world.worker("cpu-1", evaluators=["training", "supernet"])
        with db.write() as s:
            supernets.create(s, SupernetIn(name="net", space="mobile", task=task))
            supernets.train(s, "net")
            studies.create(
                s,
                StudyIn(
                    name="with-net",
                    space="mobile",
                    task=task,
                    objectives=[ObjectiveIn(metric="error"), ObjectiveIn(metric="macs")],
                    supernet="net",
                ),
            )
        (lease,) = self.world.lease(1, worker="cpu-1")
        progress = {"done": 217, "total": 864, "note": "epoch 14/54"}
        with db.write() as s:
            queue.heartbeat(s, lease.job, HeartbeatIn(token=lease.token, progress=progress))
        if trained:
            self.give(lease, {"weights": self.file("a" * 64), "summary": {}})
        return "with-net"

    def give(self, lease: Lease, result: Json) -> None:
        """Completes a job with any result."""
        done = CompleteIn(job=lease.job, token=lease.token, result=result, seconds=1.0)
        with self.world.database.write() as s:
            queue.complete(s, [CompleteBatch(worker="cpu-1", results=[done])])

    def file(self, digest: str) -> str:
        """Registers an artifact."""
        with self.world.database.write() as s:
            artifacts.register(s, digest, 10)
        return digest

    def keys(self) -> Sequence[str]:
        with self.world.database.read() as s:
            return [point.key for point in front.front(s, self.study).points]

    def _measured(self, lease: Lease) -> dict[str, float]:
        values = self.values(lease.payload["genes"])
        return {name: values[name] for name in lease.payload["metrics"]}


def filled(database: Database, guided: int = 48, random: int = 40) -> DashboardWorld:
    """A study as it is in the middle of its life."""
    made = DashboardWorld.in_database(database)
    first = made.start("guided", "guided", budget=60)
    for index in range(guided // 12):
        made.ask(first, 12, ask=index, seed=index, predict=True, reason="expected improvement 0.031")
        made.finish()
    second = made.start("random", budget=random)
    made.ask(second, random, seed=77)
    made.finish()
    made.ask(first, 3, ask=guided // 12, seed=99, predict=True, reason="expected improvement 0.012")
    made.fail_one(f"does not fit the device {NASTY}")
    return made
