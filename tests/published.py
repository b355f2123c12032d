"""A table of made-up results, studies that search it, and what must hold when a search of it is over."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import product

import httpx
import numpy as np
from sqlalchemy import select

from service.client import Client
from service.core.states import OPEN, State
from service.db import events
from service.db.session import Database
from service.db.tables import Architecture, Job, Measurement, Search, Study, StudyMeasurement
from service.wire.base import Json
from service.wire.searches import TrialOut
from service.wire.spaces import SpaceIn, Task
from service.wire.studies import EvaluatorSpec, ObjectiveIn, StudyIn
from tests.tables import encode, imported

METRICS = ("error", "loss")
CHOICES = [{"name": f"choice{n}", "options": [f"option{o}" for o in range(5)]} for n in range(5)]
_TASK = Task(dataset="published")
_OBJECTIVES = [ObjectiveIn(metric="error", bounds=(0, 1)), ObjectiveIn(metric="loss", bounds=(0, 3))]


def rows() -> dict[tuple[int, ...], Json]:
    """Genes → a row of the table. Later choices matter less, and every value has noise of its own; measuring one
    architecture had cost 10 to 50 seconds."""
    made: dict[tuple[int, ...], Json] = {}
    rng = np.random.default_rng(5)
    weights = 0.7 ** np.arange(len(CHOICES))
    for genes in product(range(5), repeat=len(CHOICES)):
        size = float((np.array(genes) * weights).sum() / (4 * weights.sum()))
        error = 0.05 + 0.5 * np.exp(-3 * size) + 0.02 * rng.random()
        loss = 0.2 + 2 * size**2 + 0.1 * rng.random()
        metrics = {"error": round(float(error), 6), "loss": round(float(loss), 6)}
        made[genes] = {"genes": list(genes), "metrics": metrics, "seconds": round(float(rng.uniform(10, 50)), 3)}
    return made


TABLE = rows()


def study(name: str, evaluator: EvaluatorSpec) -> StudyIn:
    """A study of the table's metrics."""
    return StudyIn(name=name, space="five", task=_TASK, objectives=_OBJECTIVES, evaluator=evaluator, seed=7)


def publish(client: Client, scale: float) -> None:
    """The study ``published``, which holds the table, and ``replayed``, whose evaluations take ``scale`` times the
    seconds that the table says."""
    client.spaces.create(SpaceIn(name="five", plugin="declared", options={"choices": CHOICES}))
    client.studies.create(study("published", EvaluatorSpec(name="table")))
    replays = EvaluatorSpec(name="table", options={"study": "published", "scale": scale})
    client.studies.create(study("replayed", replays))
    with httpx.Client(base_url=client.url, trust_env=False) as http:
        told = imported(http, encode("ndjson", list(TABLE.values())), study="published")
    assert told["new"] == len(METRICS) * len(TABLE)


def check_trials(trials: Sequence[TrialOut], budget: int) -> None:
    """Exactly the budget, each with the table's values."""
    assert [trial.number for trial in trials] == list(range(1, budget + 1))
    assert {trial.state for trial in trials} == {State.SUCCEEDED}
    assert [trial.metrics for trial in trials] == [TABLE[tuple(trial.genes)]["metrics"] for trial in trials]


def check_study(database: Database, name: str, trials: Sequence[TrialOut]) -> None:
    """Of a study, all of whose trials are these: nothing is open, doubled or lost. All events are there."""
    with database.read() as s:
        study = s.scalars(select(Study.id).where(Study.name == name)).one()
        jobs = s.scalars(select(Job).join(Search, Search.id == Job.search_id).where(Search.study_id == study)).all()
        links = select(Measurement, Architecture.key).join(Architecture, Architecture.id == Measurement.architecture_id)
        links = links.join(StudyMeasurement, StudyMeasurement.measurement_id == Measurement.id)
        linked = s.execute(links.where(StudyMeasurement.study_id == study)).all()
        reported = s.scalars(select(Measurement).where(Measurement.job_id.in_([job.id for job in jobs]))).all()
        numbers = [event.number for event in events.after(s, 0, None, 10**9)]
    assert [job for job in jobs if job.state in OPEN] == []
    assert sorted(job.trial_id for job in jobs if job.trial_id is not None) == sorted(trial.id for trial in trials)
    # One value of each metric of each architecture; others are replicates, each by a lease of its own.
    first = [(key, each.metric) for each, key in linked if each.attempt == 0]
    assert sorted(first) == sorted(product({trial.key for trial in trials}, METRICS))
    assert max(Counter((each.job_id, each.token, each.metric) for each in reported).values()) == 1
    assert {each.id for each in reported} <= {each.id for each, _ in linked}
    assert numbers == list(range(1, len(numbers) + 1))
