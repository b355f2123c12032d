"""Every process of a team is killed again and again, on both databases: the search ends as if nothing had happened."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import httpx
import numpy as np
import pytest
from rich import print as show
from rich.table import Table
from sqlalchemy import func, select

from service.client import Client, FrontierClientError
from service.core.states import OPEN, SearchState, State
from service.db import events
from service.db.session import Database
from service.db.tables import Architecture, Job, Measurement, Predictor, Study, StudyMeasurement, Trial
from service.wire.base import Json
from service.wire.jobs import JobKind
from service.wire.searches import SearchIn, SearchOut, TrialOut
from service.wire.spaces import SpaceIn, Task
from service.wire.studies import EvaluatorSpec, ObjectiveIn, StudyIn
from tests.acceptance.processes import Server, until
from tests.chaos import CONNECTIONS, Chaos, Fleet
from tests.tables import encode, imported

BUDGET = int(os.environ.get("CHAOS_EVALUATIONS", "100"))
SEED = int(os.environ.get("CHAOS_SEED", "1"))
EVERY_S = float(os.environ.get("CHAOS_EVERY_S", "1.5"))
LEASE_S = 2.0
METRICS = ("error", "loss")
CHOICES = [{"name": f"choice{n}", "options": [f"option{o}" for o in range(5)]} for n in range(5)]
INITIAL = 20
"""Evaluations before the first predictor."""
SCALE = 0.01
"""Rows of the table cost 10 to 50 seconds: replays take a tenth of a second to half of one."""

pytestmark = pytest.mark.timeout(120 + 6 * BUDGET)


def rows() -> dict[tuple[int, ...], Json]:
    """Genes → a row of the table: deeper choices matter less, and every value has noise of its own."""
    found: dict[tuple[int, ...], Json] = {}
    rng = np.random.default_rng(5)
    weights = 0.7 ** np.arange(len(CHOICES))
    for genes in product(range(5), repeat=len(CHOICES)):
        size = float((np.array(genes) * weights).sum() / (4 * weights.sum()))
        error = 0.05 + 0.5 * np.exp(-3 * size) + 0.02 * rng.random()
        loss = 0.2 + 2 * size**2 + 0.1 * rng.random()
        metrics = {"error": round(float(error), 6), "loss": round(float(loss), 6)}
        found[genes] = {"genes": list(genes), "metrics": metrics, "seconds": round(float(rng.uniform(10, 50)), 3)}
    return found


TABLE = rows()


def found(client: Client, scale: float) -> None:
    """The study ``published``, which holds the table, and ``replayed``, whose evaluations take their time."""
    client.spaces.create(SpaceIn(name="five", plugin="declared", options={"choices": CHOICES}))
    objectives = [ObjectiveIn(metric="error", bounds=(0, 1)), ObjectiveIn(metric="loss", bounds=(0, 3))]
    task = Task(dataset="published")
    for name, options in (("published", {}), ("replayed", {"study": "published", "scale": scale})):
        evaluator = EvaluatorSpec(name="table", options=options)
        client.studies.create(
            StudyIn(name=name, space="five", task=task, objectives=objectives, evaluator=evaluator, seed=7)
        )
    with httpx.Client(base_url=client.url, trust_env=False) as http:
        told = imported(http, encode("ndjson", list(TABLE.values())), study="published")
    assert told["new"] == len(METRICS) * len(TABLE)


def start(client: Client) -> int:
    """A search whose every ask rests on what was measured before, through predictors; its id."""
    options = {"initial": INITIAL, "population": 60, "generations": 6}
    wanted = SearchIn(name="guided", designer="guided", options=options, budget=BUDGET, batch=10)
    return client.searches.create("replayed", wanted).id


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an ended search came to, trial by trial."""

    genes: list[list[int]]
    metrics: list[Mapping[str, float]]

    @classmethod
    def of(cls, trials: list[TrialOut]) -> Outcome:
        return cls([trial.genes for trial in trials], [trial.metrics for trial in trials])


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """The same search at a server that nobody touches, on a database file."""
    server = Server(tmp_path_factory.mktemp("calm"), cpu_workers=2)
    try:
        found(server.client, 0.0)
        search = start(server.client)
        until("the end of the undisturbed search", lambda: _ended(server.client, search), 60 + 3 * BUDGET)
        return Outcome.of(list(server.client.searches.trials(search)))
    finally:
        server.stop()


def _ended(client: Client, search: int) -> SearchOut | None:
    try:
        seen = client.searches.get(search)
    except FrontierClientError:  # its API is away for longer than the client waits
        return None
    return None if seen.state is SearchState.RUNNING else seen


def test_a_search_ends_as_if_nobody_had_killed_anything(
    database: Database, database_url: str, tmp_path: Path, undisturbed: Outcome, capfd: pytest.CaptureFixture[str]
) -> None:
    with Fleet(tmp_path, database_url, lease_s=LEASE_S) as fleet, fleet.client() as client:
        found(client, SCALE)
        with Chaos(fleet, seed=SEED, every_s=EVERY_S) as chaos:
            search = start(client)
            ended = until("the end of the search", lambda: _ended(client, search), 90 + 5 * BUDGET)
        trials = list(client.searches.trials(search))
    report = Report(database, search)
    with capfd.disabled():
        report.show(chaos, database.dialect)

    assert ended.state is SearchState.DONE, ended.reason
    assert fleet.crashed == [], "nothing ends unless it is told to"
    assert all(chaos.strikes[kind] > 0 for kind in ("api", "controller", "worker", CONNECTIONS))
    # Exactly the budget, each with the table's values, in the order of an undisturbed run.
    assert [trial.number for trial in trials] == list(range(1, BUDGET + 1))
    assert {trial.state for trial in trials} == {State.SUCCEEDED}
    assert [trial.metrics for trial in trials] == [TABLE[tuple(trial.genes)]["metrics"] for trial in trials]
    assert Outcome.of(trials) == undisturbed
    assert all(trial.predicted for trial in trials[INITIAL:]), "predictors were at work"
    report.check(fleet)
    told = fleet.frontier("search", "verify", str(search))
    assert f"all {1 + max(trial.ask for trial in trials)} asks suggest again what is stored" in told


@dataclass
class Report:
    """What the database says when all is over."""

    database: Database
    search: int

    def __post_init__(self) -> None:
        with self.database.read() as s:
            of_search = select(Job).where(Job.search_id == self.search).order_by(Job.id)
            self.jobs = list(s.scalars(of_search))
            study = s.scalars(select(Study.id).where(Study.name == "replayed")).one()
            mine = (
                select(Measurement)
                .join(StudyMeasurement, StudyMeasurement.measurement_id == Measurement.id)
                .where(StudyMeasurement.study_id == study)
            )
            self.measured = list(s.scalars(mine))
            self.of_jobs = list(s.scalars(select(Measurement).where(Measurement.job_id.is_not(None))))
            self.architectures = set(s.scalars(select(Trial.architecture_id).where(Trial.search_id == self.search)))
            self.fitted = s.execute(
                select(Predictor.ask, Predictor.metric, func.count())
                .where(Predictor.search_id == self.search)
                .group_by(Predictor.ask, Predictor.metric)
            ).all()
            self.values = {
                identity: tuple(genes)
                for identity, genes in s.execute(select(Architecture.id, Architecture.genes)).all()
            }
            self.events = [event.number for event in events.after(s, 0, None, 10**6)]

    def check(self, fleet: Fleet) -> None:
        """Nothing is open, doubled or lost."""
        assert [job.state for job in self.jobs if job.state in OPEN] == []
        replays = [job for job in self.jobs if job.kind == JobKind.REPLAY]
        assert len({job.trial_id for job in replays}) == len(replays) == BUDGET
        assert {job.state for job in self.jobs} == {State.SUCCEEDED}
        assert {count for _, _, count in self.fitted} == {1}, "each ask has one predictor of each metric"
        # The ledger has one value of each metric of each architecture; others are replicates, by other leases.
        first = [(each.architecture_id, each.metric) for each in self.measured if each.attempt == 0]
        assert sorted(first) == sorted(product(self.architectures, METRICS))
        leases = Counter((each.job_id, each.token, each.metric) for each in self.of_jobs)
        assert set(leases.values()) == {1}
        assert {each.id for each in self.measured} >= {each.id for each in self.of_jobs}
        self._check_acknowledged(fleet)
        assert self.events == list(range(1, len(self.events) + 1)), "numbers of events are gapless"

    def _check_acknowledged(self, fleet: Fleet) -> None:
        """What workers were told to be taken in is there: once accepted, each in the ledger."""
        told, accepted = Counter[int](), Counter[int]()
        for line in fleet.logged("worker"):
            if line.get("event") == "done" and line["kind"] == JobKind.REPLAY:
                told[line["job"]] += 1
                accepted[line["job"]] += line["accepted"]
        assert max(accepted.values()) == 1
        kept = Counter(each.job_id for each in self.of_jobs if each.metric == "error")
        assert {job: (count, kept[job]) for job, count in told.items() if kept[job] < count} == {}

    def show(self, chaos: Chaos, dialect: str) -> None:
        """What was done to the processes, and what came of it."""
        table = Table(title=f"chaos on {dialect}: {BUDGET} evaluations, seed {SEED}", title_justify="left")
        table.add_column("what")
        table.add_column("how often", justify="right")
        for kind in ("api", "controller", "worker"):
            table.add_row(f"{kind} killed", str(chaos.strikes[kind]))
        what = "database locked" if dialect == "sqlite" else "database connections cut"
        table.add_row(what, str(chaos.strikes[CONNECTIONS]))
        table.add_row("leases lost", str(sum(job.attempts - 1 for job in self.jobs)))
        table.add_row("most leases of one job", str(max(job.token for job in self.jobs)))
        table.add_row("results that came too late", str(sum(each.attempt > 0 for each in self.measured)))
        show(table)
