"""The ask/tell loop against a real server with a controller."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.client import Client, Conflict, Infeasible, NotFound, Running, Stopped
from service.client import optimize as optimizing
from service.core.states import SearchState, State
from service.db import queue
from service.wire.searches import TrialOut
from service.wire.trials import SuggestIn, TrialCompleteIn, TrialFailIn
from tests.homes import Home, create_study, error_of

Config = dict[str, Any]


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    made = Home(tmp_path)
    yield made
    made.down()


@pytest.fixture
def client(home: Home) -> Iterator[Client]:
    with Client(home.server.url) as made:
        create_study(made, "study")
        yield made


def test_a_search_runs_to_its_end(client: Client) -> None:
    seen: list[tuple[Config, Running]] = []
    ended: list[TrialOut] = []

    def train(config: Config, trial: Running) -> float:
        seen.append((config, trial))
        for epoch in range(trial.options["epochs"]):
            trial.report(epoch + 1, {"error": 0.9, "loss": float("nan")}, total=2)
        return error_of(config)

    search = client.optimize("study", train, designer="random", budget=12, on_trial=ended.append)
    assert (search.state, search.counts.succeeded, search.designer) == (SearchState.DONE, 12, "random")
    trials = {each.number: each for each in client.searches.trials(search.id)}
    for config, trial in seen:
        assert trial.number is not None
        stored = trials[trial.number]
        assert (stored.config, stored.metrics) == (config, {"error": error_of(config)})
        assert (trial.metrics, trial.fidelity, trial.seed, list(trial.genes)) == (("error",), 1.0, 0, stored.genes)
    assert [each.number for each in ended] == [trial.number for _, trial in seen]
    job = next(client.jobs.list(study="study"))
    assert [each["metrics"] for each in job.progress["reports"]] == [{"error": 0.9}] * 2
    best = min(error_of(config) for config, _ in seen)
    assert client.studies.front("study").points[0].metrics == {"error": best}


def test_several_threads_share_a_search(client: Client) -> None:
    together = threading.Barrier(3, timeout=30)
    began: list[str] = []

    def train(config: Config, trial: Running) -> dict[str, float]:
        began.append(threading.current_thread().name)
        if len(began) <= 3:
            together.wait()  # three trials at once
        return {"error": error_of(config)}

    study = client.studies.get("study")
    search = client.optimize(study, train, designer="random", budget=9, workers=3, worker="team")
    assert search.counts.succeeded == 9
    assert len(set(began[:3])) == 3
    assert client.workers.get("team").kinds == []


def test_ends_of_trials_are_told_apart(client: Client) -> None:
    def train(config: Config, trial: Running) -> Any:
        match trial.number:
            case 1:
                raise ValueError("this one breaks")
            case 2:
                raise Infeasible("too wide for the device")
            case 3:
                return {"loss": 1.0}
            case 4:
                return float("nan")
            case 5:
                return {"error": 0.5, "val acc": 0.5}
            case _:
                return {"error": error_of(config), "f1": 0.25}

    search = client.optimize("study", train, designer="random", budget=5)
    assert search.state is SearchState.DONE
    trials = list(client.searches.trials(search.id))
    assert [each.state for each in trials[:5]] == [State.FAILED, State.INFEASIBLE, *[State.FAILED] * 3]
    assert [each.reason for each in trials[:4]] == [
        "ValueError: this one breaks",
        "too wide for the device",
        "metrics.error: the function returned loss without it",
        "metrics.error: the function returned nan, which is not finite",
    ]
    assert "val acc" in trials[4].reason
    jobs = {job.trial: job for job in client.jobs.list(study="study")}
    assert "this one breaks" in (jobs[trials[0].id].traceback or "")
    assert {each.metric for each in client.studies.measurements("study")} == {"error", "f1"}


def test_a_cancelled_search_stops_the_function(client: Client) -> None:
    def train(config: Config, trial: Running) -> float:
        client.searches.cancel(next(client.searches.list("study")).id)
        trial.report(1, {"error": 0.5})
        raise AssertionError("a report after the end must not return")

    search = client.optimize("study", train, designer="random", budget=5)
    assert search.state is SearchState.CANCELLED
    first = next(client.searches.trials(search.id))
    assert (first.state, first.reason) == (State.CANCELLED, "the search is CANCELLED: cancel was asked for")


def test_a_search_goes_on(client: Client) -> None:
    stopped: list[int] = []

    def train(config: Config, trial: Running) -> float:
        if len(stopped) < 3:
            stopped.append(trial.number or 0)
            if len(stopped) == 3:
                raise KeyboardInterrupt
        return error_of(config)

    with pytest.raises(KeyboardInterrupt):
        client.optimize("study", train, designer="random", budget=6)
    (search,) = client.searches.list("study")
    assert (search.counts.succeeded, search.counts.leased, search.state) == (2, 0, SearchState.RUNNING)  # handed back
    assert client.optimize("study", train, designer="random", budget=6).id == search.id
    # It has ended: the next is a new one.
    assert client.optimize("study", train, designer="random", budget=6).id != search.id


def test_searches_by_name_and_id(client: Client) -> None:
    def train(config: Config, trial: Running) -> float:
        return error_of(config)

    first = client.optimize("study", train, designer="random", budget=3, search="mine")
    assert client.optimize("study", train, designer="random", budget=3, search="mine").id == first.id
    assert client.optimize("study", train, search=first.id).id == first.id
    with pytest.raises(Conflict, match="budget"):
        client.optimize("study", train, designer="random", budget=4, search="mine")
    with pytest.raises(ValueError, match="has a search 'mine' already"):
        client.optimize("study", train, designer="random", budget=3, search="mine", resume=False)
    create_study(client, "other")
    with pytest.raises(ValueError, match="belongs to study 'study', not to 'other'"):
        client.optimize("other", train, search=first.id)
    with pytest.raises(NotFound):
        client.optimize("nowhere", train)
    with pytest.raises(ValueError, match="at least 1"):
        client.optimize("study", train, workers=0)


def test_a_restarted_server_is_waited_for(home: Home, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimizing, "pause_s", lambda failures: 0.05)
    restarted: list[int] = []

    def train(config: Config, trial: Running) -> float:
        if not restarted:
            restarted.append(1)
            home.down()
            back = threading.Timer(0.5, home.up)
            back.start()
            trial.report(1, {"error": 0.75})  # nobody is there: it waits, or is kept
            back.join()
            trial.report(2, {"error": 0.5})
        return error_of(config)

    with Client(home.server.url, tries=2) as impatient:
        search = impatient.optimize("study", train, designer="random", budget=4)
    assert (search.state, search.counts.succeeded, search.counts.failed) == (SearchState.DONE, 4, 0)


def test_a_trial_outlives_its_lease(home: Home, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimizing, "LEASE_S", 5.0)
    beaten = threading.Event()
    first: list[int] = []

    def train(config: Config, trial: Running) -> float:
        if not first:
            first.append(1)
            # Heartbeats come by themselves, every third of the lease: longer than the lease must go by.
            began = next(client.jobs.list(study="study", state=State.LEASED))
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline:
                with home.server.database.write() as s:
                    queue.expire(s)
                job = client.jobs.get(began.id)
                assert job.state is State.LEASED
                if job.progress:  # a heartbeat came
                    beaten.set()
                    break
                time.sleep(0.05)
        return error_of(config)

    search = client.optimize("study", train, designer="random", budget=3)
    assert beaten.is_set()
    assert (search.counts.succeeded, search.counts.lost) == (3, 0)


def test_a_lost_trial_stops_the_function_and_keeps_what_is_measured(client: Client) -> None:
    lost: list[str] = []
    handed_back = TrialFailIn(token=1, state="QUEUED", reason="somebody else is to have it")

    def train(config: Config, trial: Running) -> float:
        if not lost:
            job = next(client.jobs.list(study="study", state=State.LEASED))
            client.trials.fail(job.trial or 0, handed_back)
            (stolen,) = client.trials.suggest(job.search or 0, SuggestIn(worker="thief")).trials
            try:
                trial.report(1, {"error": 0.5})
            except Stopped as error:
                lost.append(error.message)
                client.trials.complete(stolen.trial, TrialCompleteIn(token=stolen.token, metrics={"error": 0.125}))
                raise
        return error_of(config)

    search = client.optimize("study", train, designer="random", budget=3)
    assert "the trial is lost" in lost[0]
    assert search.counts.succeeded == 3
    assert next(client.searches.trials(search.id)).metrics == {"error": 0.125}


SCRIPT = """
import signal, sys, time
from service.client import Client

# Where the tests run in the background of a shell, Ctrl-C is ignored unless asked for.
signal.signal(signal.SIGINT, signal.default_int_handler)

def train(config, trial):
    sys.stdout.write("training\\n")  # in one piece: the threads' words would mix
    sys.stdout.flush()
    time.sleep(600)
    return 0.5

with Client(sys.argv[1]) as client:
    client.optimize("study", train, designer="random", budget=5, workers=int(sys.argv[2]))
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_ctrl_c_hands_back(client: Client, workers: int) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, client.url, str(workers)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        text=True,
    )
    assert process.stdout is not None
    try:
        for _ in range(workers):
            assert process.stdout.readline().startswith("training")
        process.send_signal(signal.SIGINT)
        assert process.wait(60) != 0
    finally:
        process.kill()
        process.stdout.close()
    (search,) = client.searches.list("study")
    assert (search.counts.leased, search.state) == (0, SearchState.RUNNING)
    assert search.counts.queued >= workers
