"""A real server in a thread of the test, over a real database in the test's folder."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import httpx
import numpy as np
import structlog
from fastapi import FastAPI

from service.app import create_app, run_server, server_of
from service.db import searches
from service.db.session import Database
from service.listening import bind
from service.search.designer import Suggestion, Suggestions
from service.settings import Settings
from service.wire.jobs import Device, JobKind, WorkerIn
from service.wire.spaces import DatasetOut

DIGEST = "d" * 64

# structlog's default prints local variables with every traceback; one test breaks handlers on purpose.
structlog.configure(
    processors=[
        structlog.contextvars.merge_contextvars,
        structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback),
    ],
    wrapper_class=structlog.make_filtering_bound_logger("warning"),
)


@cache
def _migrated() -> Path:
    """A migrated, empty database, made once and copied for each test."""
    path = Path(mkdtemp()) / "frontier.db"
    database = Database(f"sqlite:///{path}")
    database.upgrade()
    database.dispose()
    return path


def settings_in(folder: Path, **given: object) -> Settings:
    """Settings over a migrated database in ``folder``."""
    shutil.copy(_migrated(), folder / "frontier.db")
    return Settings(**{"home": folder, "port": 0, "poll_s": 0.02, **given})  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Served:
    """A server that runs, and a plain HTTP client of it."""

    url: str
    app: FastAPI
    http: httpx.Client
    database: Database


@contextmanager
def served(settings: Settings, app: FastAPI | None = None) -> Iterator[Served]:
    """Serves on a free port of the loopback interface."""
    app = app or create_app(settings)
    listener = bind(settings)
    listener.listen(256)
    server = server_of(app)
    thread = threading.Thread(target=lambda: asyncio.run(run_server(server, app, listener)), daemon=True)
    thread.start()
    url = "http://{}:{}".format(*listener.getsockname())
    try:
        with httpx.Client(base_url=url, timeout=30, trust_env=False) as http:
            yield Served(url, app, http, app.state.database)
    finally:
        server.should_exit = True
        thread.join(timeout=30)
        assert not thread.is_alive(), "the server did not shut down"


def worker_in(name: str = "w1", **given: object) -> WorkerIn:
    """An announcement of a worker with a data set of digits."""
    dataset = DatasetOut(
        name="digits",
        digest=DIGEST,
        shape=[1, 8, 8],
        classes=10,
        counts={"train": 1000, "validation": 300, "test": 400},
    )
    known = {
        "name": name,
        "kinds": list(JobKind),
        "device": Device(name="test-cpu", type="cpu", memory_mb=1000),
        "datasets": [dataset],
        "evaluators": ["supernet", "training"],
    }
    return WorkerIn(**{**known, **given})


SPACE = {
    "name": "tiny",
    "plugin": "mobilenetv3",
    "options": {
        "in_channels": 1,
        "classes": 10,
        "resolutions": [8],
        "kernels": [3, 5],
        "expansions": [2, 3],
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
    },
}
SUPERNET = {"name": "net", "space": "tiny", "task": {"dataset": "digits"}, "recipe": {"epochs": 1}}
STUDY = {
    "name": "study",
    "space": "tiny",
    "task": {"dataset": "digits"},
    "objectives": [{"metric": "error"}, {"metric": "macs"}],
    "supernet": "net",
}
SEARCH = {"name": "first", "designer": "random", "budget": 8, "batch": 4}
WEIGHTS = b"weights of a super-network"


def sha256(content: bytes) -> str:
    """The digest of an artifact."""
    return hashlib.sha256(content).hexdigest()


def announce(http: httpx.Client, name: str = "w1") -> None:
    """Announces a worker."""
    body = worker_in(name).model_dump_json()
    http.post("/v1/workers", content=body, headers={"Content-Type": "application/json"}).raise_for_status()


def lease(http: httpx.Client, count: int = 1, wait_s: float = 0) -> list[dict[str, Any]]:
    """Leases jobs as the worker w1."""
    answer = http.post("/v1/jobs:lease", json={"worker": "w1", "count": count, "wait_s": wait_s})
    found: list[dict[str, Any]] = answer.raise_for_status().json()["leases"]
    return found


def complete(http: httpx.Client, lease: dict[str, Any], result: dict[str, Any]) -> dict[str, Any]:
    """Reports a result as the worker w1."""
    one = {"job": lease["job"], "token": lease["token"], "result": result, "seconds": 0.5}
    answer = http.post("/v1/jobs:complete", json={"worker": "w1", "results": [one]}).raise_for_status()
    item: dict[str, Any] = answer.json()["items"][0]
    return item


def make_space(http: httpx.Client) -> None:
    """A worker, and the space `tiny`."""
    announce(http)
    http.post("/v1/spaces", json=SPACE).raise_for_status()


def make_study(http: httpx.Client) -> None:
    """The study `study` with a trained super-network."""
    make_space(http)
    http.post("/v1/supernets", json=SUPERNET).raise_for_status()
    http.post("/v1/supernets/net:train").raise_for_status()
    (job,) = lease(http)
    http.put(f"/v1/artifacts/{sha256(WEIGHTS)}", content=WEIGHTS).raise_for_status()
    complete(http, job, {"weights": sha256(WEIGHTS), "summary": {}})
    http.post("/v1/studies", json=STUDY).raise_for_status()


def make_search(server: Served, trials: int = 4, seed: int = 0) -> int:
    """A search of the study with one ask, as a controller makes it; returns its id."""
    answer = server.http.post("/v1/studies/study/searches", json=SEARCH).raise_for_status()
    search: int = answer.json()["id"]
    ask(server, search, trials, seed)
    return search


def ask(server: Served, search: int, trials: int, seed: int = 0) -> None:
    """One more ask of a search."""
    with server.database.write() as session:
        claim = searches.claim(session, search, "test", 30)
        assert claim is not None
        seen = searches.snapshot(session, search)
        genes = seen.space.sample(trials, np.random.default_rng(seed))
        items = tuple(Suggestion(genes=row, reason="drawn", probe=i == 0) for i, row in enumerate(genes))
        said = [{"error": {"mean": 0.1 * i, "epistemic_std": 0.1, "std": 0.2}} for i in range(len(items))]
        number = seen.search.asks
        searches.record_ask(session, claim, number, Suggestions(items), said, {}, {"completion": 0}, seen.study.metrics)


def evaluate(http: httpx.Client, count: int = 4) -> list[dict[str, Any]]:
    """Leases trials and measures them; errors fall as job ids grow."""
    leases = lease(http, count)
    for job in leases:
        measured = {"error": 1 / (2 + job["job"]), "macs": 1000.0}
        metrics = {name: measured[name] for name in job["payload"]["metrics"]}
        complete(http, job, {"metrics": metrics, "device": "test-cpu"})
    return leases
