"""What the service's benchmark works on: a declared space of six choices, studies, values, and trials that wait."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search_spaces.space import Genes, SearchSpace
from service.client import Client
from service.core.spaces import build_space
from service.db import searches, studies
from service.db.rows import insert_all
from service.db.session import Database
from service.db.tables import Architecture, Trial, now
from service.search.designer import Suggestion, Suggestions
from service.wire.base import Json
from service.wire.jobs import Device, JobKind, WorkerIn
from service.wire.searches import SearchIn
from service.wire.spaces import DatasetOut, SpaceIn, Task
from service.wire.studies import EvaluatorSpec, ObjectiveIn, StudyIn

CHOICES: list[Json] = [{"name": f"choice{index}", "options": [f"option{o}" for o in range(9)]} for index in range(6)]
"""9^6 = 531,441 architectures. The peer's trials have the same six categorical parameters."""

DEVICE = "bench-cpu"
METRICS = ("error", "loss", "latency_ms")
SETS = (["error", "latency_ms"], ["error", "loss", "latency_ms"], ["loss", "latency_ms"], ["error", "loss"])
WORKERS = 8
_ASK = 500
_CLAIM_S = 86_400.0


def found(client: Client) -> None:
    """The space, a data set, eight workers and the studies `measured`, `leased` and `paged`."""
    client.spaces.create(SpaceIn(name="six", plugin="declared", options={"choices": CHOICES}))
    data = DatasetOut(name="bench", digest="b" * 64, shape=[3, 32, 32], classes=10, counts={"train": 1, "test": 1})
    for index in range(WORKERS):
        client.workers.announce(
            WorkerIn(
                name=f"bench-{index}",
                kinds=[JobKind.EVALUATE],
                device=Device(name=DEVICE, type="cpu", memory_mb=1000),
                datasets=[data],
                evaluators=["training"],
            )
        )
    for name in ("measured", "leased", "paged"):
        client.studies.create(
            StudyIn(
                name=name,
                space="six",
                task=Task(dataset="bench"),
                objectives=[
                    ObjectiveIn(metric="error"),
                    ObjectiveIn(metric="latency_ms", bounds=(0.0, 100.0)),
                ],
                metrics=["loss"],
                evaluator=EvaluatorSpec(name="training"),
            )
        )


def space() -> SearchSpace:
    """The declared space."""
    return build_space("declared", {"choices": CHOICES}, "function")


def rows_of(count: int, first: int = 0) -> Genes:
    """(count, 6): distinct rows of the space, the same for the same arguments, in an order without a pattern."""
    # Multiplication by a number prime to 9^6 permutes the architectures.
    numbers = (np.arange(first, first + count, dtype=np.int64) * 314_159) % 9**6
    return np.stack([(numbers // 9**place) % 9 for place in range(6)], axis=1).astype(np.int8)


def values_of(genes: Genes) -> NDArray[np.float64]:
    """(n, 3): error, loss and latency_ms of architectures. Larger ones are slower and tend to be better, with noise
    that belongs to the architecture, so that fronts are as small as real ones."""
    rng = np.random.default_rng(0)
    weights = rng.uniform(0.2, 1.0, size=6)
    size = (genes * weights).sum(axis=1) / (8 * weights.sum())
    noise = np.random.default_rng(int(genes.sum())).normal(size=(len(genes), 3))
    error = np.clip(0.05 + 0.5 * np.exp(-3.0 * size) + 0.03 * noise[:, 0], 0.001, 0.9)
    loss = 2.5 * error * np.exp(0.1 * noise[:, 1])
    latency = 2.0 * np.exp(2.5 * size + 0.2 * noise[:, 2])
    return np.stack([error, loss, latency], axis=1)


def lines(rows: int) -> Iterator[bytes]:
    """An NDJSON file of so many rows: one metric of one architecture, given as config, each."""
    options, block = [each["options"] for each in CHOICES], 3000
    for first in range(0, rows, 3 * block):
        genes = rows_of(min(block, -(-(rows - first) // 3)), first // 3)
        text = []
        for row, values in zip(genes.tolist(), values_of(genes).tolist(), strict=True):
            config = {f"choice{i}": options[i][gene] for i, gene in enumerate(row)}
            for name, value in zip(METRICS, values, strict=True):
                said: dict[str, Any] = {"config": config, "metric": name, "value": value}
                text.append(json.dumps({**said, "device": DEVICE} if name == "latency_ms" else said))
        yield ("\n".join(text[: rows - first]) + "\n").encode()


def queue_trials(database: Database, study: str, count: int, first: int) -> int:
    """So many trials of a new search that wait for workers, made as a controller makes them; the search's id."""
    with database.write() as s:
        search = searches.create(s, study, SearchIn(designer="random", budget=1_000_000, batch=_ASK))[0]
        claim = searches.claim(s, search.id, "benchmark", _CLAIM_S)
        wanted = studies.row(s, study).metrics
    if claim is None:
        raise SystemExit("another controller has the benchmark's search: run the controller later")
    for ask, begin in enumerate(range(0, count, _ASK)):
        items = tuple(Suggestion(row, "benchmark") for row in rows_of(min(_ASK, count - begin), first + begin))
        seen: Json = {"completion": 0, "pending": [], "predictors": {}}
        said: Sequence[dict[str, dict[str, float]]] = [{} for _ in items]
        with database.write() as s:
            searches.record_ask(s, claim, ask, Suggestions(items, {}), said, {}, seen, wanted)
    return search.id


def insert_trials(database: Database, study: str, count: int) -> None:
    """So many ended trials of one search, written as rows: what is timed is reading them."""
    designed, time = space(), now()
    with database.write() as s:
        search = searches.create(s, study, SearchIn(designer="random", budget=1_000_000))[0]
        searches.set_state(s, search.id, "cancel")
        stored = studies.row(s, study)
    genes = rows_of(2000)
    with database.write() as s:
        made = [
            {"space_digest": designed.digest, "key": f"{index:032x}", "genes": row.tobytes(), "created_at": time}
            for index, row in enumerate(genes)
        ]
        insert_all(s, Architecture, made)
        ids = [row.id for row in s.query(Architecture).filter(Architecture.key.in_([row["key"] for row in made]))]
    values = [dict(zip(METRICS, row, strict=True)) for row in values_of(genes).tolist()]
    for begin in range(0, count, 5000):
        with database.write() as s:
            insert_all(
                s,
                Trial,
                [
                    {
                        "search_id": search.id,
                        "study_id": stored.id,
                        "number": number + 1,
                        "ask": number // 10,
                        "architecture_id": ids[number % len(ids)],
                        "fidelity": 1.0,
                        "wanted": list(METRICS),
                        "state": "SUCCEEDED",
                        "reason": "",
                        "suggestion": "drawn uniformly",
                        "probe": False,
                        "evaluation": True,
                        "memo": {},
                        "predicted": {"error": {"mean": 0.2, "epistemic_std": 0.01, "std": 0.02, "predictor": None}},
                        "metrics": values[number % len(values)],
                        "reused": False,
                        "paid_s": 2.0,
                        "completion": number + 1,
                        "created_at": time,
                        "ended_at": time,
                    }
                    for number in range(begin, min(begin + 5000, count))
                ],
            )
