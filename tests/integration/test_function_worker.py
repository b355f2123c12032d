"""``frontier worker --evaluator``: a worker that runs a Python function."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from service.cli.root import app
from service.client import Client
from service.core.states import SearchState, State
from service.settings import Settings
from service.wire.confirmations import ConfirmIn
from service.wire.searches import SearchIn
from service.worker import run_worker
from tests.acceptance.processes import until
from tests.documents import ROOT
from tests.homes import Home, create_study, error_of

MODULE = """
from service.client import Infeasible

def train(config, trial):
    assert trial.options == {"epochs": 2} and trial.fidelity == 1.0 and trial.number is None
    assert set(trial.metrics) <= {"error", "time_s"}
    if (config["depth"], config["width1"]) == (1, 4):
        raise Infeasible("too small to learn")
    if (config["depth"], config["width1"]) == (1, 8):
        raise ZeroDivisionError("a bug of mine")
    if (config["depth"], config["width1"]) == (1, 16):
        return {"error": 0.5}
    for epoch in range(trial.options["epochs"]):
        trial.report(epoch + 1, {"error": 0.75}, total=2)
    error = 1 / (1 + config["depth"] * config["width1"] + config.get("width2", 0) / 64)
    return {"error": round(error, 6) + trial.seed / 1000, "time_s": 0.25, "f1": 0.5}
"""


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    made = Home(tmp_path)
    yield made
    made.down()


@pytest.fixture
def client(home: Home, tmp_path: Path) -> Iterator[Client]:
    """A client, and a worker process that calls ``mine:train`` of its folder as the evaluator `mine`."""
    code = tmp_path / "code"
    code.mkdir()
    (code / "mine.py").write_text(MODULE)
    environment = {**os.environ, "FRONTIER_URL": home.server.url, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "service.cli", "worker", "--name", "f", "--evaluator", "mine:train"]
    log = tmp_path / "worker.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [*command, "--evaluator-name", "mine"], cwd=code, env=environment, stdout=file, stderr=file
        )
    with Client(home.server.url) as made:
        try:
            until("the worker", lambda: [each.name for each in made.workers.list()] == ["f"])
            yield made
        finally:
            process.terminate()
            assert process.wait(60) == 0, log.read_text()


def test_a_worker_that_runs_a_function(client: Client) -> None:
    told = client.workers.get("f")
    assert (told.kinds, told.evaluators, told.datasets) == (["evaluate"], ["mine"], [])
    create_study(client, "study", "error", "time_s", evaluator="mine")
    search = client.searches.create("study", SearchIn(designer="random", budget=30, batch=36, probe_share=0))
    assert client.searches.wait(search.id).state is SearchState.DONE

    jobs = {job.trial: job for job in client.jobs.list(study="study")}
    seen: set[State] = set()
    for trial in client.searches.trials(search.id):
        seen.add(trial.state)
        match (trial.config["depth"], trial.config["width1"]):
            case _ if trial.state is State.CANCELLED:  # the budget was reached
                continue
            case (1, 4):
                assert (trial.state, trial.reason) == (State.INFEASIBLE, "too small to learn")
            case (1, 8):
                assert (trial.state, trial.reason) == (State.FAILED, "ZeroDivisionError: a bug of mine; attempt 2")
                assert "in train" in (jobs[trial.id].traceback or "")
            case (1, 16):
                assert trial.reason == "metrics.time_s: the function returned error without it"
            case _:
                assert trial.metrics == {"error": error_of(trial.config), "time_s": 0.25}
                assert jobs[trial.id].worker == "f"
    assert {State.SUCCEEDED, State.FAILED, State.INFEASIBLE} <= seen
    kept = list(client.studies.measurements("study"))
    assert {each.metric for each in kept} == {"error", "time_s", "f1"}

    # The best are measured again on fresh seeds, and the function is told which.
    asked = client.searches.confirm(search.id, ConfirmIn(best=1, seeds=2))
    (best,) = client.searches.wait_confirmed(asked.id).architectures
    by_metric = {each.metric: each for each in best.metrics}
    chosen = by_metric["error"].selected
    assert chosen is not None
    assert [each.value - chosen for each in by_metric["error"].values] == pytest.approx([0.001, 0.002])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--evaluator", "broken"], "must be MODULE:FUNCTION, is 'broken'"),
        (["--evaluator", "nowhere:train"], "there is no module 'nowhere'"),
        (["--evaluator", "needy:train"], "needy needs a module that is not installed: No module named 'not_there'"),
        (["--evaluator", "broken:train"], "broken cannot be imported: ValueError: at import"),
        (["--evaluator", "mine:fit"], "mine has no function 'fit'; it has train"),
        (["--evaluator", "mine:LIMIT"], "mine has no function 'LIMIT'; it has train"),
        (["--evaluator", "mine:train", "--kinds", "fit"], "takes neither --kinds nor --datasets"),
    ],
)
def test_functions_that_cannot_be(
    options: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text("LIMIT = 3\ndef train(config, trial): return 0.5\ndef _hidden(): pass\n")
    (tmp_path / "needy.py").write_text("import not_there\n")
    (tmp_path / "broken.py").write_text("raise ValueError('at import')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("mine", "needy", "broken"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    ended = CliRunner(env={"COLUMNS": "300", "FRONTIER_URL": "http://127.0.0.1:9"}).invoke(app, ["worker", *options])
    assert ended.exit_code != 0
    assert said in ended.output + str(ended.exception)


@pytest.mark.parametrize("name", ["training", "table"])
def test_a_function_has_a_name_of_its_own(name: str) -> None:
    with pytest.raises(ValueError, match=f"a function cannot be named {name}"):
        run_worker(Settings(), functions={name: lambda config, trial: 0.5})
