"""What docs/own-training.md says, against real processes, with small budgets."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.client import Client
from service.core.states import SearchState
from tests.acceptance.processes import Server, until
from tests.documents import ROOT, blocks, commands

PAGE = ROOT / "docs" / "own-training.md"
EXAMPLES = ROOT / "docs" / "examples"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """``frontier serve``, the page's first command, with a worker that fits predictors."""
    assert commands(PAGE)[0] == ["serve"]
    running = Server(tmp_path_factory.mktemp("home"), cpu_workers=1, lease_s=30)
    yield running
    running.stop()


def environment(server: Server) -> dict[str, str]:
    return {**os.environ, "FRONTIER_URL": server.client.url, "PYTHONPATH": str(ROOT)}


@pytest.fixture(scope="module")
def looped(server: Server) -> str:
    """What the example prints; it is the page's command with a smaller budget."""
    (command,) = commands(PAGE, "python")
    assert command == ["docs/examples/own_training.py", "--budget", "30"]
    ended = subprocess.run(
        [sys.executable, command[0], "--budget", "12"],
        cwd=ROOT,
        env=environment(server),
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_the_example_searches_with_a_loop(server: Server, looped: str) -> None:
    assert len(re.findall(r"^ +\d+ SUCCEEDED", looped, re.MULTILINE)) == 12
    (search,) = server.client.searches.list("own-training")
    assert (search.state, search.designer, search.counts.succeeded) == (SearchState.DONE, "guided", 12)
    front = server.client.studies.front("own-training")
    assert looped.count("error 0.") == len(front.points)
    assert front.points[0].metrics["error"] < 0.5  # guessing would be 0.9
    trained = [job for job in server.client.jobs.list(study="own-training") if job.trial is not None]
    assert len(trained[0].progress["reports"]) == 12  # one per epoch


def test_the_python_block_of_the_page_runs(server: Server, looped: str) -> None:
    (block,) = blocks(PAGE, "python")
    small = block.replace("http://127.0.0.1:8470", server.client.url).replace("budget=30", "budget=2")
    assert small.count(server.client.url) == small.count("budget=2") == 1
    program = f"from own_training import train\n{small}"
    ended = subprocess.run(
        [sys.executable, "-c", program],
        cwd=EXAMPLES,
        env=environment(server),
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("DONE {")


def test_a_worker_runs_the_function(server: Server, looped: str, tmp_path: Path) -> None:
    worker, start, front = commands(PAGE)[1:]
    assert worker[0] == "worker"
    assert blocks(PAGE, "sh")[2].startswith("cd docs/examples\n")
    frontier = [sys.executable, "-m", "service.cli"]
    log = tmp_path / "worker.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [*frontier, *worker, "--name", "own"], cwd=EXAMPLES, env=environment(server), stdout=file, stderr=file
        )
    try:
        until("the worker", lambda: _announced(server.client))
        assert start[start.index("--budget") + 1] == "20"
        start[start.index("--budget") + 1] = "4"
        ran = subprocess.run(
            [*frontier, *start], cwd=tmp_path, env=environment(server), capture_output=True, text=True, timeout=250
        )
        assert ran.returncode == 0, ran.stderr + log.read_text()
        shown = subprocess.run(
            [*frontier, *front], cwd=tmp_path, env=environment(server), capture_output=True, text=True, timeout=60
        )
        assert "weights" in shown.stdout
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
        process.kill()
    assert process.returncode == 0
    newest = list(server.client.searches.list("own-training"))[-1]
    assert (newest.state, newest.designer, newest.counts.succeeded) == (SearchState.DONE, "random", 4)
    measured = {job.worker for job in server.client.jobs.list(search=newest.id) if job.trial is not None}
    assert measured <= {"own", None}  # None: the ledger answered


def _announced(client: Client) -> bool:
    return any(each.name == "own" and each.evaluators == ["external"] for each in client.workers.list())
