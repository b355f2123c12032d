"""The client against a real server."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

from service.client import (
    ApiError,
    Client,
    Conflict,
    ConnectionFailed,
    DigestMismatch,
    Invalid,
    JobFailed,
    NotFound,
    Stale,
    WaitTimeout,
)
from service.core.states import State
from service.db import events, spaces
from service.db.session import Database
from service.wire.jobs import CompleteBatch, CompleteIn, FailIn, HeartbeatIn, JobKind, JobOut, LeaseIn
from service.wire.searches import SearchIn
from service.wire.spaces import SpaceIn, SupernetIn
from service.wire.studies import ScoreIn, StudyIn
from tests.serving import (
    SEARCH,
    SPACE,
    STUDY,
    SUPERNET,
    WEIGHTS,
    Served,
    evaluate,
    make_search,
    make_study,
    served,
    settings_in,
    sha256,
    worker_in,
)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Served]:
    with served(settings_in(tmp_path)) as running:
        yield running


@pytest.fixture
def client(server: Served) -> Iterator[Client]:
    with Client(server.url) as made:
        yield made


def test_the_client_needs_neither_torch_nor_a_server_side_library() -> None:
    # Not rich: httpx itself loads it where it is installed.
    heavy = "torch fastapi starlette sqlalchemy alembic typer structlog pydantic_settings networkx xgboost optuna"
    code = f"import sys, service.client; print([m for m in {heavy.split()} if m in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_a_study_from_nothing_to_its_front(server: Served, client: Client) -> None:
    client.workers.announce(worker_in())
    space = client.spaces.create(SpaceIn.model_validate(SPACE))
    assert client.spaces.create(SpaceIn.model_validate(SPACE)) == space == client.spaces.get("tiny")
    client.supernets.create(SupernetIn.model_validate(SUPERNET))
    job = client.supernets.train("net")
    assert client.supernets.train("net").id == job.id

    (lease,) = client.jobs.lease(LeaseIn(worker="w1"))
    assert (lease.job, lease.kind) == (job.id, JobKind.TRAIN_SUPERNET)
    digest = client.artifacts.upload(WEIGHTS)
    beat = client.jobs.heartbeat(job.id, HeartbeatIn(token=lease.token, progress={"done": 1, "total": 4}))
    assert not beat.stop
    result = CompleteIn(job=job.id, token=lease.token, result={"weights": digest, "summary": {}}, seconds=1)
    done = CompleteBatch(worker="w1", results=[result])
    assert client.jobs.complete(done) == client.jobs.complete(done)
    assert client.jobs.wait(job.id).state is State.SUCCEEDED
    assert client.supernets.get("net").weights == digest

    study = client.studies.create(StudyIn.model_validate(STUDY))
    search = client.searches.create(study.name, SearchIn.model_validate(SEARCH))
    assert client.searches.create(study.name, SearchIn.model_validate(SEARCH)).id == search.id
    make_search(server)
    evaluate(server.http)
    assert [trial.number for trial in client.searches.trials(search.id)] == [1, 2, 3, 4]
    assert [trial.number for trial in client.studies.trials("study", order="newest")] == [4, 3, 2, 1]
    front = client.studies.front("study")
    assert client.studies.architecture("study", front.points[0].key).on_front
    assert client.studies.front("study", ["macs"]).metrics == ["macs"]
    assert client.studies.hypervolume("study")[0].evaluations == [1, 2, 3, 4]
    assert len(client.studies.predicted("study", "error", search.id).points) == 4
    assert {one.metric for one in client.studies.measurements("study")} == {"error", "macs"}
    assert client.studies.score("study", ScoreIn(proxies=["synflow"], sample=2)).jobs
    assert {job.study for job in client.studies.test_front("study")} == {"study"}
    assert client.studies.export("study", front.points[0].key).kind is JobKind.EXPORT
    assert client.searches.cancel(client.searches.resume(client.searches.pause(search.id).id).id).state == "CANCELLED"
    assert [each.id for each in client.searches.list("study")] == [search.id]
    assert [each.name for each in client.datasets.list()] == ["digits"]
    assert [each.name for each in client.workers.list()] == ["w1"]
    assert list(client.predictors.list("study")) == []
    assert client.trials.get(1).search == search.id
    assert client.ready()["checks"]["database"] == "ok"


def test_lists_run_over_all_pages(server: Served, client: Client) -> None:
    with server.database.write() as session:
        for number in range(205):  # more than one page, of 200
            spaces.create(session, SpaceIn.model_validate({**SPACE, "name": f"space{number:03}"}))
    assert [space.name for space in client.spaces.list()] == [f"space{number:03}" for number in range(205)]
    first = client.spaces.page(size=2)
    second = client.spaces.page(size=2, token=first.next_page_token)
    assert [space.name for space in second.items] == ["space002", "space003"]


def test_errors_have_types_and_name_fields(client: Client) -> None:
    with pytest.raises(NotFound, match="no study 'nope'") as missing:
        client.studies.get("nope")
    assert missing.value.request_id
    with pytest.raises(Invalid) as wrong:
        client.spaces.create(SpaceIn(name="x", plugin="nope"))
    assert [error.field for error in wrong.value.problem.errors] == ["plugin"]
    client.spaces.create(SpaceIn.model_validate(SPACE))
    with pytest.raises(Conflict, match="identity"):
        client.spaces.create(SpaceIn.model_validate({**SPACE, "identity": "row"}))
    with pytest.raises(NotFound):
        client.spaces.get("a/../b?c")
    assert issubclass(Stale, Conflict)
    assert issubclass(Conflict, ApiError)


def test_a_lost_lease_is_stale(server: Served, client: Client) -> None:
    make_study(server.http)
    make_search(server)
    (lease,) = client.jobs.lease(LeaseIn(worker="w1"))
    client.jobs.fail(lease.job, FailIn(token=lease.token, state=State.QUEUED, failure="drained", reason="going"))
    with pytest.raises(Stale):
        client.jobs.heartbeat(lease.job, HeartbeatIn(token=lease.token))


def test_waiting_for_a_job_shows_progress_and_raises_its_failure(server: Served, client: Client) -> None:
    client.workers.announce(worker_in())
    client.spaces.create(SpaceIn.model_validate(SPACE))
    client.supernets.create(SupernetIn.model_validate(SUPERNET))
    job = client.supernets.train("net").id
    with pytest.raises(WaitTimeout):
        client.jobs.wait(job, timeout_s=0)
    seen: list[JobOut] = []
    moved = threading.Event()

    def note(found: JobOut) -> None:
        seen.append(found)
        moved.set()

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.jobs.wait, job, note)
        (lease,) = client.jobs.lease(LeaseIn(worker="w1"))
        moved.wait(30)
        client.jobs.heartbeat(job, HeartbeatIn(token=lease.token, progress={"done": 2, "total": 4}))
        while not any(found.progress.get("done") == 2 for found in seen):
            moved.clear()
            moved.wait(30)
        failure = FailIn(token=lease.token, state=State.FAILED, failure="invalid", reason="no such thing")
        client.jobs.fail(job, failure)
        with pytest.raises(JobFailed, match="no such thing") as failed:
            waiting.result(60)
    assert failed.value.job.state is State.FAILED


def test_artifacts_travel_whole_or_not_at_all(server: Served, client: Client, tmp_path: Path) -> None:
    source = tmp_path / "source.bin"
    source.write_bytes(bytes(range(256)) * 10_000)
    digest = client.artifacts.upload(source)
    assert digest == sha256(source.read_bytes())
    assert client.artifacts.upload(source.read_bytes()) == digest
    assert client.artifacts.has(digest)
    target = client.artifacts.download(digest, tmp_path / "new" / "target.bin")
    assert target.read_bytes() == source.read_bytes() == client.artifacts.read(digest)
    with pytest.raises(NotFound):
        client.artifacts.download("0" * 64, tmp_path / "new" / "other.bin")
    server.app.state.services.artifacts.path(digest).write_bytes(b"rotten")
    with pytest.raises(DigestMismatch):
        client.artifacts.download(digest, tmp_path / "new" / "other.bin")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["target.bin"]


def test_events_go_on_where_they_were_when_the_server_comes_back(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = settings_in(tmp_path, port=port)
    with Client(f"http://127.0.0.1:{port}") as client:
        with served(settings) as running:
            make_study(running.http)
            followed = client.events(after=0)
            first = [next(followed).number for _ in range(3)]
        with served(settings) as running:
            make_search(running)
            rest = [next(followed) for _ in range(6)]
    numbers = first + [event.number for event in rest]
    assert numbers == list(range(1, 10))


def test_events_from_now_on_miss_none_though_the_connection_breaks_before_the_first(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = settings_in(tmp_path, port=port)
    with Client(f"http://127.0.0.1:{port}") as client, ThreadPoolExecutor(1) as pool:
        with served(settings) as running:
            make_study(running.http)
            with running.database.read() as session:
                last = events.last(session)
            first = pool.submit(next, client.events())
            while "frontier_event_streams 1.0" not in running.http.get("/metrics").text:
                pass
        database = Database(settings.database)
        with database.write() as session:
            events.emit(session, "ask")
        database.dispose()
        with served(settings):
            assert first.result(timeout=60).number == last + 1


def test_missed_events_are_told_as_a_reset(server: Served, client: Client) -> None:
    make_study(server.http)
    with server.database.write() as session:
        last = events.last(session)
        events.trim(session, timedelta(0), 2)
    followed = client.events(after=1)
    reset, *kept = [next(followed) for _ in range(3)]
    assert (reset.kind, reset.number, reset.body) == ("reset", last - 2, {"oldest": last - 1, "newest": last})
    assert [event.number for event in kept] == [last - 1, last]


def test_a_server_that_is_not_there_is_said_to_be_so() -> None:
    with Client("http://127.0.0.1:9", tries=1) as client:
        with pytest.raises(ConnectionFailed, match=r"127\.0\.0\.1:9"):
            client.health()
        with pytest.raises(ConnectionFailed):
            next(client.events())
