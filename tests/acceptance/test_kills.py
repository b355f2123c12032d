"""SIGKILL to workers and to the whole server, with real processes: nothing is lost, doubled or changed."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from service.client import Client
from service.core.states import SearchState, State
from service.wire.jobs import JobKind, JobOut
from service.wire.searches import SearchIn, TrialOut
from service.wire.studies import EvaluatorSpec, ObjectiveIn, StudyIn
from tests.acceptance.processes import Server, make_space, make_study, make_supernet, until

BUDGET = 24


@contextmanager
def serving(home: Path, *, cpu_workers: int) -> Iterator[Server]:
    server = Server(home, cpu_workers=cpu_workers)
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of a server that was stopped after it had trained a super-network, undisturbed."""
    home = tmp_path_factory.mktemp("trained")
    with serving(home, cpu_workers=1) as server:
        task = make_space(server.client, server.dataset())
        make_supernet(server.client, task)
        job = server.client.jobs.wait(server.client.supernets.train("net").id)
        assert job.state is State.SUCCEEDED, job.reason
        make_study(server.client, task)
    return home


def finished(client: Client, search: int) -> list[TrialOut]:
    """The trials of a search once it has ended DONE, by number."""
    ended = until("the end of the search", lambda: _if_ended(client, search), 180)
    assert ended is SearchState.DONE
    return list(client.searches.trials(search))


def _if_ended(client: Client, search: int) -> SearchState | None:
    found = client.searches.get(search)
    return None if found.state is SearchState.RUNNING else found.state


def test_training_goes_on_from_its_checkpoint_after_the_worker_is_killed(trained: Path, tmp_path: Path) -> None:
    with serving(trained, cpu_workers=0) as server:
        undisturbed = server.client.supernets.get("net").weights
    with serving(tmp_path / "home", cpu_workers=0) as server:
        first = server.worker("first")
        task = make_space(server.client, server.dataset())
        make_supernet(server.client, task)
        job = server.client.supernets.train("net").id
        until("two epochs of training", lambda: server.client.jobs.get(job).progress.get("done", 0) >= 2)
        os.killpg(first.pid, signal.SIGKILL)
        server.worker("second")
        ended = server.client.jobs.wait(job)
        assert ended.state is State.SUCCEEDED, ended.reason
        assert (ended.worker, ended.attempts) == ("second", 2)
        assert server.client.supernets.get("net").weights == undisturbed


def test_a_worker_killed_in_the_middle_of_an_evaluation(tmp_path: Path) -> None:
    with serving(tmp_path / "home", cpu_workers=0) as server:
        client = server.client
        first = server.worker("first")
        task = make_space(client, server.dataset())
        evaluator = EvaluatorSpec(name="training", options={"epochs": 4})
        objectives = [ObjectiveIn(metric="error"), ObjectiveIn(metric="macs")]
        client.studies.create(
            StudyIn(name="own", space="mini", task=task, objectives=objectives, evaluator=evaluator, seed=5)
        )
        search = client.searches.create("own", SearchIn(designer="random", budget=8, batch=4)).id
        victim = until("an evaluation under way", lambda: _under_way(client))
        os.killpg(first.pid, signal.SIGKILL)
        server.worker("second")
        trials = finished(client, search)
        assert [trial.number for trial in trials] == list(range(1, 9))
        assert {trial.state for trial in trials} == {State.SUCCEEDED}
        assert len({trial.key for trial in trials}) == 8
        again = client.jobs.get(victim.id)
        assert (again.worker, again.attempts, again.state) == ("second", 2, State.SUCCEEDED)
        errors = [one for one in client.studies.measurements("own") if one.metric == "error"]
        assert sorted(one.key for one in errors) == sorted(trial.key for trial in trials)
        assert {one.attempt for one in errors} == {0}


def _under_way(client: Client) -> JobOut | None:
    leased = client.jobs.list(kind=JobKind.EVALUATE, state=State.LEASED)
    return next((job for job in leased if job.progress.get("done", 0) >= 1), None)


def test_the_whole_server_killed_in_the_middle_of_a_search(trained: Path, tmp_path: Path) -> None:
    calm, rough = tmp_path / "calm", tmp_path / "rough"
    shutil.copytree(trained, calm)
    shutil.copytree(trained, rough)
    wanted = SearchIn(name="guided", designer="guided", options={"initial": 10}, budget=BUDGET, batch=6)
    with serving(calm, cpu_workers=1) as server:
        undisturbed = finished(server.client, server.client.searches.create("study", wanted).id)

    server = Server(rough, cpu_workers=1)
    search = server.client.searches.create("study", wanted).id
    try:
        for share in (0.3, 0.7):
            until("progress", lambda now=server, least=share: _counted(now.client, search) >= least * BUDGET)
            server.kill()
            server = Server(rough, cpu_workers=1)
        trials = finished(server.client, search)
    finally:
        server.stop()

    assert [trial.genes for trial in trials] == [trial.genes for trial in undisturbed]
    assert [trial.metrics["error"] for trial in trials] == [trial.metrics["error"] for trial in undisturbed]
    assert len(trials) == BUDGET
    assert any(trial.predicted for trial in trials), "a predictor was at work"


def _counted(client: Client, search: int) -> int:
    counts = client.searches.get(search).counts
    return counts.succeeded + counts.pruned
