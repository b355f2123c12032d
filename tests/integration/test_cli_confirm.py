"""``search confirm``, ``search extend`` and ``studies clone`` against a real server, with a worker beside it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from service.cli.root import app
from service.client import Client
from service.core.states import State
from service.wire.jobs import CompleteBatch, CompleteIn, FailIn, Lease, LeaseIn
from tests.serving import Served, announce, make_search, make_study, served, settings_in


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    with served(settings_in(tmp_path)) as running:
        monkeypatch.setenv("FRONTIER_URL", running.url)
        monkeypatch.setenv("FRONTIER_HOME", str(tmp_path / "home"))
        monkeypatch.setenv("COLUMNS", "200")
        make_study(running.http)
        yield running


def run(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(app, [*arguments], catch_exceptions=code != 0)
    if code == 0:
        assert result.exit_code == 0, result.output
    return result


def error_of(lease: Lease) -> float:
    """On the search's seed better by 0.05 than on others, which give the same."""
    genes = lease.payload["genes"]
    return 0.2 + 0.01 * (sum(genes) % 20) + (0.05 if lease.payload["seed"] else 0.0)


@contextmanager
def working(server: Served, fails_on: int | None = None) -> Iterator[None]:
    """A worker that measures at once, and fails on one seed."""
    stop = threading.Event()

    def work() -> None:
        with Client(server.url) as client:
            while not stop.is_set():
                for lease in client.jobs.lease(LeaseIn(worker="w1", count=16, wait_s=0.2)):
                    if lease.payload["seed"] == fails_on:
                        body = FailIn(token=lease.token, state=State.FAILED, failure="bug", reason="it raised")
                        client.jobs.fail(lease.job, body)
                        continue
                    metrics = {name: error_of(lease) for name in lease.payload["metrics"]}
                    result = {"metrics": metrics, "device": "test-cpu"}
                    done = CompleteIn(job=lease.job, token=lease.token, result=result, seconds=0.1)
                    client.jobs.complete(CompleteBatch(worker="w1", results=[done]))

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(30)
        assert not thread.is_alive()


@pytest.fixture
def search(server: Served) -> int:
    """A search with sixteen measured trials."""
    made = make_search(server, trials=16)
    with working(server), Client(server.url) as client:
        while client.searches.get(made).counts.succeeded < 16:
            pass
    return made


def test_the_best_are_measured_again_and_the_drop_is_told(server: Served, search: int) -> None:
    with working(server):
        said = run("search", "confirm", str(search), "--best", "3", "--seeds", "2")
    assert "confirming search" in said.stderr
    assert "error is on average 5 percentage points higher (worse) than what the search saw" in said.stdout
    with Client(server.url) as client:
        (found,) = client.searches.confirmations(search)
        assert (found.open, found.failed) == (0, 0)
        assert client.searches.confirmation(found.id) == found
        for each in found.architectures:
            assert each.key in said.stdout
    shown = json.loads(run("search", "confirm", str(search), "--best", "3", "--seeds", "2", "--json").stdout)
    assert shown["id"] == found.id
    assert shown["drops"][0]["drop"] == pytest.approx(0.05)


def test_failures_are_told_and_the_rest_is_shown(server: Served, search: int) -> None:
    with working(server, fails_on=2):
        said = run("search", "confirm", str(search), "--best", "1", "--seeds", "2")
    assert "on seed 2: failed" in said.stderr
    assert "it raised" in said.stderr
    assert "5 percentage points higher" in said.stdout
    with working(server):
        again = run("search", "confirm", str(search), "--best", "1", "--seeds", "2")
    assert "failed" not in again.stderr


def test_from_scratch_with_options_and_without_waiting(server: Served, search: int) -> None:
    arguments = ("search", "confirm", str(search), "--best", "1", "--seeds", "1", "--evaluator", "training")
    said = run(*arguments, "--options", '{"epochs": 2}', "--no-wait")
    assert "1 of 1 measurements are open" in said.stdout
    announce(server.http)
    with Client(server.url) as client:
        (lease,) = client.jobs.lease(LeaseIn(worker="w1", count=4, wait_s=0))
    assert lease.payload["evaluator"] == {"name": "training", "options": {"epochs": 2}}
    assert lease.payload["weights"] is None
    assert run("search", "confirm", str(search), "--options", '{"epochs": 2}', code=2).exit_code == 2


def test_a_budget_is_extended(server: Served, search: int) -> None:
    said = json.loads(run("search", "extend", str(search), "--budget", "40", "--json").stdout)
    assert (said["budget"], said["state"]) == (40, "RUNNING")
    refused = server.http.post(f"/v1/searches/{search}:extend", json={"budget": 39})
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["field"] == "budget"


def test_a_study_is_cloned_with_another_objective(server: Served, search: int) -> None:
    said = run(
        *("studies", "clone", "study", "smaller", "--objective", "error", "--objective", "params"),
        *("--constraint", "params<=100000", "--seed", "4", "--json"),
    )
    made = json.loads(said.stdout)
    assert [each["metric"] for each in made["objectives"]] == ["error", "params"]
    assert (made["seed"], made["constraints"][0]["upper"]) == (4, 100000)
    with Client(server.url) as client:
        assert made["measurements"] == client.studies.get("study").measurements
        assert client.studies.get("smaller").measurements == made["measurements"]
    body = {"name": "smaller", "objectives": [{"metric": "error"}, {"metric": "params"}]}
    again = server.http.post("/v1/studies/study:clone", json=body)
    assert (again.status_code, again.json()["errors"]) == (409, [])
    same = {**body, "seed": 4, "constraints": [{"metric": "params", "upper": 100000}]}
    assert server.http.post("/v1/studies/study:clone", json=same).status_code == 200
