"""What Prometheus is told, on both databases."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import update

from service.app import create_app
from service.controller import Stepper
from service.db import queue, tables
from service.db.artifacts import ArtifactStore
from service.db.session import Database
from service.db.tables import Job
from service.settings import Settings
from tests.dashboard_world import filled
from tests.serving import Served, complete, lease, make_study, served
from tests.world import advance


@pytest.fixture
def server(database: Database, tmp_path: Path) -> Iterator[Served]:
    settings = Settings(home=tmp_path, port=0, poll_s=0.02)
    with served(settings, create_app(settings, database)) as running:
        yield running


def scraped(server: Served) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    text = server.http.get("/metrics").raise_for_status().text
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(server: Served, name: str, **labels: str) -> float:
    return scraped(server)[name, tuple(sorted(labels.items()))]


def test_jobs_searches_and_work_are_counted(server: Served, tmp_path: Path) -> None:
    make_study(server.http)
    body = {"designer": "random", "budget": 8, "batch": 4, "probe_share": 0}
    server.http.post("/v1/studies/study/searches", json=body).raise_for_status()
    assert advance(server.database, Stepper(server.database, ArtifactStore(tmp_path / "artifacts")))
    assert value(server, "frontier_jobs", state="QUEUED") == 4
    assert value(server, "frontier_searches", state="RUNNING") == 1
    before = value(server, "frontier_worker_busy_seconds_total", worker="w1")  # the super-network's training
    (job,) = lease(server.http)
    assert value(server, "frontier_jobs", state="LEASED") == 1
    metrics = {"error": 0.5, "macs": 1.0}
    complete(server.http, job, {"metrics": metrics, "device": "test-cpu"})
    assert value(server, "frontier_worker_busy_seconds_total", worker="w1") - before == pytest.approx(0.5)
    assert value(server, "frontier_suggestion_seconds_count") == 1
    assert 0 < value(server, "frontier_suggestion_seconds_sum") < 60
    assert value(server, "frontier_suggestion_seconds_bucket", le="+Inf") == 1


def test_leases_that_ran_out_count_whoever_saw_it(server: Served) -> None:
    make_study(server.http)
    server.http.post("/v1/supernets", json={"name": "n2", "space": "tiny", "task": {"dataset": "digits"}})
    server.http.post("/v1/supernets/n2:train").raise_for_status()
    assert value(server, "frontier_lease_expiries_total") == 0
    (job,) = lease(server.http)
    with server.database.write() as s:
        s.execute(update(Job).where(Job.id == job["job"]).values(leased_until=tables.now().replace(year=2001)))
        queue.expire(s)
    assert value(server, "frontier_lease_expiries_total") == 1


def test_statements_are_timed_by_what_they_do(server: Served) -> None:
    make_study(server.http)
    for statement in ("select", "insert", "update"):
        assert value(server, "frontier_database_seconds_count", statement=statement) > 0
        assert value(server, "frontier_database_seconds_sum", statement=statement) > 0


def test_the_tau_of_running_studies_is_that_of_the_study_page(server: Served) -> None:
    made = filled(server.database)
    page = server.http.get(f"/v1/studies/{made.study}/predicted", params={"metric": "error"}).json()["probes"]
    for bound, field in (("value", "kendall_tau"), ("low", "ci_low"), ("high", "ci_high")):
        told = value(server, "frontier_predictor_probe_tau", study=made.study, metric="error", bound=bound)
        assert told == pytest.approx(page[field])
    for search in server.http.get("/v1/searches").json()["items"]:
        server.http.post(f"/v1/searches/{search['id']}:cancel")
    assert not [name for name, _ in scraped(server) if name == "frontier_predictor_probe_tau"]
