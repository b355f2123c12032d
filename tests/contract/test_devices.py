"""Devices, on both databases: a registry of them, and latencies that belong to one each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, text, update

from service.app import create_app
from service.client import Client
from service.core.errors import Invalid, NotFound
from service.core.failures import Failure
from service.core.metrics import Circumstances
from service.core.states import State
from service.db import architectures, devices, front, ledger, queue, studies, tables, workers
from service.db.session import Database
from service.settings import Settings
from service.wire.base import Json
from service.wire.jobs import CompleteBatch, CompleteIn, Device, DeviceOut, FailIn, Lease
from service.wire.studies import ObjectiveIn
from tests.commands import Run, runner
from tests.serving import Served, served
from tests.world import CPU, GPU, World, measured

HERE = Circumstances(
    dataset="d" * 64, split="validation", evaluator="training", options={}, weights=None, seed=0, device="cpu-a"
)


@pytest.fixture
def world(database: Database) -> World:
    return World(database).found()


def device(world: World, name: str) -> DeviceOut:
    with world.database.read() as s:
        return devices.get(s, name)


def changes(world: World) -> list[Json]:
    """The bodies of the events of changed devices."""
    with world.database.read() as s:
        query = select(tables.Event.body).where(tables.Event.kind == "device.changed").order_by(tables.Event.number)
        return list(s.scalars(query))


# ---------------------------------------------------------------------- the registry


def test_a_worker_registers_its_device(world: World) -> None:
    world.worker("g1", device=GPU.model_copy(update={"software": {"torch": "2.7"}}))
    world.worker("g2", device=GPU.model_copy(update={"software": {"torch": "2.8"}}))
    found = device(world, "gpu-b")
    assert (found.type, found.memory_mb, found.workers) == ("cuda", 80_000, ["g1", "g2"])
    assert found.software == {"torch": "2.8"}, "that of the last announcement"
    assert found.latencies == 0
    with world.database.read() as s:
        assert [each.name for each in devices.page(s, 10).items] == ["cpu-a", "gpu-b"]
        first = devices.page(s, 1)
        assert [each.name for each in devices.page(s, 1, first.next_page_token).items] == ["gpu-b"]
        with pytest.raises(NotFound, match="device"):
            devices.get(s, "gpu-c")


def test_a_device_keeps_its_type(world: World) -> None:
    with pytest.raises(Invalid, match="'cpu-a' is of type 'cpu'") as caught:
        world.worker("other", device=Device(name="cpu-a", type="cuda", memory_mb=5))
    assert caught.value.field == "device.type"
    assert device(world, "cpu-a").memory_mb == CPU.memory_mb
    with world.database.read() as s, pytest.raises(NotFound):
        workers.get(s, "other")


def test_memory_may_change_and_is_told(world: World) -> None:
    world.worker("w", device=CPU)
    assert changes(world) == []
    world.worker("w", device=CPU.model_copy(update={"memory_mb": 500}))
    assert device(world, "cpu-a").memory_mb == 500
    assert changes(world) == [{"device": "cpu-a", "memory_mb": 500, "memory_mb_before": 1000}]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"name": "gpu b"}, "device.name"),
        ({"name": ""}, "device.name"),
        ({"name": "x" * 81}, "device.name"),
        ({"type": "CUDA"}, "device.type"),
        ({"type": "c" * 21}, "device.type"),
        ({"memory_mb": 2**31}, "device.memory_mb"),
    ],
)
def test_what_cannot_be_a_device_is_refused_by_field(world: World, change: Mapping[str, Any], field: str) -> None:
    with pytest.raises(Invalid) as caught:
        world.worker("g", device=GPU.model_copy(update=dict(change)))
    assert caught.value.field == field


def test_devices_of_pipelines_are_there_until_a_worker_says_what_they_are(world: World) -> None:
    with world.database.write() as s:
        workers.ensure(s, "laptop")
        devices.ensure(s, "jetson")
        devices.ensure(s, "cpu-a")
    assert (device(world, "laptop").type, device(world, "laptop").workers) == ("external", ["laptop"])
    assert (device(world, "jetson").type, device(world, "jetson").memory_mb) == ("external", 0)
    assert device(world, "cpu-a").type == "cpu", "what is known stays"
    world.worker("j", device=Device(name="jetson", type="cuda", memory_mb=8000))
    assert (device(world, "jetson").type, device(world, "jetson").memory_mb) == ("cuda", 8000)


def test_only_live_workers_are_named(world: World) -> None:
    long_ago = tables.now() - timedelta(hours=1)
    world.worker("late")
    with world.database.write() as s:
        s.execute(update(tables.Worker).where(tables.Worker.name == "late").values(last_seen_at=long_ago))
        s.execute(update(tables.Device).values(last_seen_at=long_ago))
        seen = s.scalars(select(tables.Worker.last_seen_at).where(tables.Worker.name == "w")).one()
    found = device(world, "cpu-a")
    assert found.workers == ["w"]
    assert found.last_seen_at == seen, "a device lives as long as one of its workers"


# ---------------------------------------------------------------------- latencies belong to a device


def record(world: World, architecture: int, where: str, values: Mapping[str, float], **given: Any) -> None:
    with world.database.write() as s:
        circumstances = replace(HERE, device=where, options=given.pop("options", {}))
        ledger.record_all(s, [ledger.Entry(architecture, circumstances, values, **given)])


def test_latencies_are_counted_where_they_were_measured(world: World) -> None:
    world.worker("g", device=GPU)
    with world.database.write() as s:
        ids = architectures.ensure(s, world.space, world.genes(3))
    for each in ids:
        record(world, each, "cpu-a", {"latency_ms": 1.0, "error": 0.5})
    record(world, ids[0], "cpu-a", {"latency_ms": 1.1}, job_id=1, token=1)
    record(world, ids[0], "cpu-a", {"latency_ms@gpu-b": 0.1})
    record(world, ids[1], "gpu-b", {"latency_ms": 0.2}, options={"latency": {"most": 500}})
    assert (device(world, "cpu-a").latencies, device(world, "gpu-b").latencies) == (4, 2)


def test_latencies_are_counted_by_an_index_of_their_own(world: World) -> None:
    plan = (
        "SELECT count(*) FROM measurements JOIN contexts ON measurements.context_digest = contexts.digest "
        "WHERE contexts.digest IN ('a', 'b') AND substr(metric, 1, 10) = 'latency_ms'"
    )
    with world.database.read() as s:
        if s.get_bind().dialect.name == "postgresql":
            s.execute(text("SET LOCAL enable_seqscan = off"))
            rows = s.execute(text(f"EXPLAIN {plan}")).all()
        else:
            rows = s.execute(text(f"EXPLAIN QUERY PLAN {plan}")).all()
    assert "ix_measurements_latencies" in str(rows)


def test_the_ledger_answers_with_latencies_of_the_device_that_is_asked_for(world: World) -> None:
    with world.database.write() as s:
        (one,) = architectures.ensure(s, world.space, world.genes(1))
    record(world, one, "cpu-a", {"latency_ms": 1.0, "latency_ms@gpu-b": 9.0}, spreads={"latency_ms": 0.25})
    asked = ("latency_ms", "latency_ms@cpu-a", "latency_ms@gpu-b")
    with world.database.read() as s:
        on = {
            where: {name: each.value for name, each in ledger.known(s, [question])[0].items()}
            for where in ("cpu-a", "gpu-b", "other")
            for question in [ledger.Question(one, asked, replace(HERE, device=where))]
        }
        stored = {m.metric: (m.value, m.spread) for m in s.scalars(select(tables.Measurement))}
    assert on["cpu-a"] == {"latency_ms": 1.0, "latency_ms@gpu-b": 9.0}
    assert on["gpu-b"] == on["other"] == {"latency_ms@gpu-b": 9.0}
    assert stored == {"latency_ms": (1.0, 0.25), "latency_ms@gpu-b": (9.0, None)}


def test_another_protocol_is_not_answered_with_what_is_known(world: World) -> None:
    with world.database.write() as s:
        (one,) = architectures.ensure(s, world.space, world.genes(1))
    record(world, one, "cpu-a", {"latency_ms": 1.0})
    for options, known in (({}, True), ({"latency": {"most": 50}}, True), ({"latency": {"most": 500}}, False)):
        with world.database.read() as s:
            found = ledger.lookup(s, [one], ["latency_ms"], replace(HERE, options=options))
        assert bool(found) is known, options


@pytest.fixture
def timed(database: Database) -> World:
    """A study of error and of the latency on gpu-b, with a worker on each of two devices."""
    objectives = [ObjectiveIn(metric="error"), ObjectiveIn(metric="latency_ms@gpu-b", bounds=(0.0, 10.0))]
    world = World(database).found(objectives=objectives, metrics=["latency_ms"])
    world.worker("g", device=GPU)
    return world


def test_a_front_is_of_one_device(timed: World) -> None:
    search = timed.search().id
    timed.ask(search, timed.genes(4))
    assert timed.lease(worker="w") == [], "its latency is another device's"
    leases = timed.lease(worker="g")
    assert len(leases) == 4

    def of_gpu(lease: Lease) -> Mapping[str, float]:
        return {**measured(lease), "latency_ms@gpu-b": 2.0, "latency_ms@cpu-a": 0.001}

    timed.complete(leases, of_gpu, worker="g", device="gpu-b")
    # The same architectures, far faster on the processor: no front of the GPU knows of it.
    with timed.database.write() as s:
        study = studies.row(s, "study")
        ids = architectures.ensure(s, timed.space, timed.genes(4))
        for where in ("cpu-a", "gpu-b"):
            circumstances = studies.circumstances(s, study, device=where)
            for each in ids:
                entry = ledger.Entry(each, circumstances, {"latency_ms": 0.001}, study_id=study.id)
                ledger.record_all(s, [entry] if where == "cpu-a" else [])
    with timed.database.read() as s:
        found = front.front(s, "study")
        assert {point.metrics["latency_ms@gpu-b"] for point in found.points} == {2.0}
        stored = s.execute(select(tables.Measurement.metric, tables.Context.body).join(tables.Context)).all()
    assert "latency_ms@cpu-a" not in {metric for metric, _ in stored}, "a worker reported for another device"
    assert {body["device"] for metric, body in stored if metric == "latency_ms@gpu-b"} == {"gpu-b"}


def test_a_latency_without_a_device_is_read_of_one_device(database: Database) -> None:
    objectives = [ObjectiveIn(metric="error"), ObjectiveIn(metric="latency_ms", bounds=(0.0, 10.0))]
    world = World(database).found(objectives=objectives)
    with world.database.write() as s:
        study = studies.row(s, "study")
        ids = architectures.ensure(s, world.space, world.genes(5))
        for place, each in enumerate(ids):
            for where, value in (("cpu-a", 5.0 + place), ("gpu-b", 0.5)):
                if where == "cpu-a" or place < 2:
                    values = {"latency_ms": value} | ({"error": 0.5 - place / 100} if where == "cpu-a" else {})
                    circumstances = studies.circumstances(s, study, device=where)
                    ledger.record_all(s, [ledger.Entry(each, circumstances, values, study_id=study.id)])
    with world.database.read() as s:
        found = front.front(s, "study")
    assert {point.metrics["latency_ms"] for point in found.points} == {5.0, 6.0, 7.0, 8.0, 9.0}


# ---------------------------------------------------------------------- over HTTP


@pytest.fixture
def server(database: Database, tmp_path: Path) -> Iterator[Served]:
    settings = Settings(home=tmp_path, port=0, poll_s=0.02)
    with served(settings, create_app(settings, database)) as running:
        World(database).found()
        yield running


def test_devices_are_served(server: Served) -> None:
    with Client(server.url) as client:
        (found,) = client.devices.list()
        assert (found.name, found.type, found.workers, found.latencies) == ("cpu-a", "cpu", ["w"], 0)
        assert client.devices.get("cpu-a") == found
    assert server.http.get("/v1/devices/gpu-b").status_code == 404
    answer = server.http.get("/v1/devices/gpu b")
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "device")


def test_another_type_is_refused_with_its_field(server: Served) -> None:
    body = {"name": "x", "kinds": ["fit"], "device": {"name": "cpu-a", "type": "cuda", "memory_mb": 1}}
    answer = server.http.post("/v1/workers", json=body)
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "device.type")
    assert server.http.get("/v1/workers/x").status_code == 404


def test_the_command_line_shows_devices(
    server: Served, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes], tmp_path: Path
) -> None:
    monkeypatch.setenv("FRONTIER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("FRONTIER_URL", server.url)
    run: Run = runner(monkeypatch, capsysbinary)
    assert [each["name"] for each in run("devices", "list", "--json").json] == ["cpu-a"]
    assert "cpu-a" in run("devices", "list").out
    assert run("devices", "show", "cpu-a", "--json").json["workers"] == ["w"]
    missing = run("devices", "show", "gpu-b")
    assert (missing.code, missing.out) == (1, "")
    assert "there is no device 'gpu-b'" in missing.err


@pytest.mark.parametrize("path", ["/v1/jobs/1:fail", "/v1/trials/1:fail"])
def test_unknown_classes_of_failure_are_refused(server: Served, path: str) -> None:
    body = {"token": 1, "state": "FAILED", "failure": "gremlins", "reason": "nobody knows"}
    answer = server.http.post(path, json=body)
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "failure")
    assert "out_of_memory" in answer.json()["errors"][0]["message"]
    assert server.http.post(path, json=body | {"failure": "bug"}).status_code == 404
    assert {each.value for each in Failure} >= {"lost", "unavailable", "invalid", "drained"}
    assert FailIn(token=1, state=State.FAILED, failure=Failure.LOST, reason="").failure is Failure.LOST


def test_the_spread_is_kept_with_the_latency(timed: World) -> None:
    timed.ask(timed.search().id, timed.genes(1))
    (lease,) = timed.lease(worker="g")
    result = {"metrics": dict(measured(lease)), "device": "gpu-b", "spreads": {"latency_ms@gpu-b": 0.25}}
    one = CompleteIn(job=lease.job, token=lease.token, result=result, seconds=1.0)
    with timed.database.write() as s:
        queue.complete(s, [CompleteBatch(worker="g", results=[one])])
    with timed.database.read() as s:
        found = {each.metric: each.spread for each in front.measurements(s, "study", 10).items}
    assert found["latency_ms@gpu-b"] == 0.25
    assert found["error"] is None
