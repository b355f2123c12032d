"""What docs/deployment.md and docs/tables.md say, as processes on a real PostgreSQL: two of each, with keys."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psycopg
import pyarrow.parquet as pq
import pytest

from service.client import ApiError, Client
from service.core.states import SearchState, State
from tests.acceptance.processes import until
from tests.documents import ROOT, commands
from tests.shared import SHARED, needs_shared

PROGRAM = [sys.executable, "-m", "service.cli"]


@dataclass
class Team:
    """Processes over one database and one artifact folder."""

    folder: Path
    environment: dict[str, str]
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)
    urls: list[str] = field(default_factory=list)

    def frontier(self, *words: str, **more: str) -> str:
        """Runs a command to its end; its standard output."""
        ended = subprocess.run(
            [*PROGRAM, *words], env={**self.environment, **more}, cwd=self.folder, capture_output=True, text=True
        )
        assert ended.returncode == 0, f"frontier {' '.join(words)}: {ended.stdout}{ended.stderr}"
        return ended.stdout

    def start(self, name: str, *words: str, **more: str) -> Path:
        """Starts a process; its log."""
        log = self.folder / f"{name}.log"
        with log.open("ab") as file:
            process = subprocess.Popen(
                [*PROGRAM, *words], env={**self.environment, **more}, cwd=self.folder, stdout=file, stderr=file
            )
        self.running.append(process)
        return log

    def api(self, number: int) -> str:
        """Starts an API process; its address."""
        log = self.start(f"api{number}", "api", "--host", "127.0.0.1", "--port", "0")
        found = until("the API's address", lambda: re.search(r"Serving (http://\S+)", log.read_text()))
        url = found.group(1)
        until("a ready API", lambda: _answers(url))
        return url

    def stop(self) -> None:
        for process in reversed(self.running):
            process.terminate()
        for process in self.running:
            assert process.wait(30) in (0, -15), process.args


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory, postgresql: Callable[[str], str]) -> Iterator[Team]:
    folder = tmp_path_factory.mktemp("team")
    with psycopg.connect(postgresql("postgres").replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute("CREATE DATABASE team")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FRONTIER_")}
    environment |= {"FRONTIER_DATABASE_URL": postgresql("team"), "FRONTIER_ARTIFACTS": str(folder / "artifacts")}
    environment["PYTHONPATH"] = str(ROOT)
    made = Team(folder, environment)
    # The first three commands of the page; the others are the processes, which get ports and names of their own here.
    upgrade, for_person, for_workers, *processes = commands(ROOT / "docs" / "deployment.md")
    assert [words[0] for words in processes] == ["api", "controller", "worker"]
    made.frontier(*upgrade)
    person, worker = (made.frontier(*words).strip() for words in (for_person, for_workers))
    try:
        made.urls = [made.api(1), made.api(2)]
        for number, url in enumerate(made.urls):
            made.start(f"controller{number}", "controller")
            made.start(f"worker{number}", "worker", "--name", f"w{number}", FRONTIER_URL=url, FRONTIER_KEY=worker)
        made.environment |= {"FRONTIER_URL": made.urls[0], "FRONTIER_KEY": person}
        with Client(made.urls[1], key=person) as client:
            until("both workers", lambda: len(list(client.workers.list())) == 2)
        yield made
    finally:
        made.stop()


def test_nobody_gets_in_without_a_key(team: Team) -> None:
    for url in team.urls:
        assert httpx.get(f"{url}/v1/studies", trust_env=False).status_code == 401
        assert httpx.get(f"{url}/", trust_env=False).status_code == 303
    with Client(team.urls[0], key="frontier_no-such-key") as stranger, pytest.raises(ApiError) as refused:
        stranger.studies.list().__next__()
    assert refused.value.status == 401


def test_keys_are_made_listed_and_revoked_as_the_page_says(team: Team) -> None:
    made, listed, revoked = (team.frontier(*words) for words in commands(ROOT / "docs" / "keys.md"))
    assert made.startswith("frontier_")
    assert "alice" in listed
    assert made.strip() not in listed + revoked
    with Client(team.urls[0], key=made.strip()) as alice, pytest.raises(ApiError, match="revoked"):
        list(alice.studies.list())


@needs_shared
def test_the_table_of_the_documents_is_imported_searched_and_exported(team: Team) -> None:
    cells = pq.read_table(SHARED / "data/nb201/archs.parquet", columns=["idx", "arch_str"])
    for name in ("cifar10_acc", "cifar10_hw"):
        cells = cells.join(pq.read_table(SHARED / f"data/nb201/{name}.parquet"), "idx")
    cells = cells.sort_by("idx").select(["arch_str", "test_acc_200", "edgegpu_latency_ms"])
    pq.write_table(cells, team.folder / "table.parquet")

    said = [team.frontier(*words) for words in commands(ROOT / "docs" / "tables.md")]
    assert len(said) == 9
    with Client(team.urls[1], key=team.environment["FRONTIER_KEY"]) as client:
        # Two metrics of every cell.
        assert client.studies.get("published").measurements == 2 * 15_625
        true = client.studies.front("published")
        assert true.candidates == 15_625
        assert max(point.metrics["accuracy"] for point in true.points) == pytest.approx(94.37, abs=0.005)
        (search,) = client.searches.list("replayed")
        assert search.state is SearchState.DONE
        trials = list(client.searches.trials(search.id))
        assert [trial.state for trial in trials] == [State.SUCCEEDED] * 100
        by_cell = dict(zip(cells["arch_str"].to_pylist(), cells.to_pylist(), strict=True))
        space = client.spaces.get("cells")
        assert space.plugin == "nasbench201"
        for trial in trials:
            row = by_cell[_notation(trial.config)]
            assert trial.metrics["accuracy"] == row["test_acc_200"]
            assert trial.metrics["latency_ms@edgegpu"] == row["edgegpu_latency_ms"]
        found = client.studies.front("replayed").hypervolume
        assert found is not None
        assert true.hypervolume is not None
        assert 0.9 * true.hypervolume < found <= true.hypervolume
        assert {job.worker for job in client.jobs.list(study="replayed")} <= {"w0", "w1"}
    again = json.loads(team.frontier("import", "published", "published.csv", "--json"))
    assert (again["new"], again["unchanged"]) == (0, 2 * 15_625)
    team.frontier("search", "verify", str(search.id))


def _notation(config: dict[str, object]) -> str:
    e01, e02, e12, e03, e13, e23 = (config[f"e{edge}"] for edge in ("01", "02", "12", "03", "13", "23"))
    return f"|{e01}~0|+|{e02}~0|{e12}~1|+|{e03}~0|{e13}~1|{e23}~2|"
