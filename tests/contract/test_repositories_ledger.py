"""The ledger, on both databases: what was measured is kept, once, with how it was obtained."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from service.core.errors import Invalid
from service.core.metrics import Circumstances
from service.db import architectures, front, fronts, ledger, studies, tables
from service.db.session import Database
from tests.world import World

HERE = Circumstances(
    dataset="d" * 64, split="validation", evaluator="training", options={}, weights=None, seed=0, device="cpu-a"
)


@pytest.fixture
def world(database: Database) -> World:
    return World(database).found()


@pytest.fixture
def ids(world: World) -> list[int]:
    """Three stored architectures."""
    with world.database.write() as s:
        return architectures.ensure(s, world.space, world.genes(3))


def _record(world: World, architecture: int, circumstances: Circumstances = HERE, **given: Any) -> list[int]:
    entry = ledger.Entry(architecture, circumstances, **{"values": {"error": 0.5}, **given})
    with world.database.write() as s:
        return ledger.record_all(s, [entry])[0]


def _stored(world: World) -> list[tables.Measurement]:
    with world.database.read() as s:
        return list(s.scalars(select(tables.Measurement).order_by(tables.Measurement.id)))


def _known(world: World, ids: list[int], metrics: list[str], circumstances: Circumstances = HERE, **given: Any) -> Any:
    with world.database.read() as s:
        return ledger.lookup(s, ids, metrics, circumstances, **given)


def test_architectures_are_stored_once_in_the_order_asked(world: World, ids: list[int]) -> None:
    genes = world.genes(3)
    with world.database.write() as s:
        assert architectures.ensure(s, world.space, genes[[2, 0, 2, 1]]) == [ids[2], ids[0], ids[2], ids[1]]
        stored = s.get_one(tables.Architecture, ids[1])
    assert architectures.unpack([stored.genes], genes.shape[1]).tolist() == genes[1:2].tolist()
    assert stored.key == world.space.keys(genes[1:2])[0]


def test_rows_that_are_the_same_architecture_are_stored_as_one(world: World) -> None:
    row = world.space.extremes()[:1].copy()
    other = row.copy()
    inactive = ~world.space.active(row)[0]
    other[0, inactive] = 1
    assert inactive.any()
    with world.database.write() as s:
        one, two = architectures.ensure(s, world.space, row)[0], architectures.ensure(s, world.space, other)[0]
    assert one == two


def test_the_first_is_the_value_and_later_ones_are_replicates(world: World, ids: list[int]) -> None:
    for job, value in enumerate((0.5, 0.25, 0.75), start=1):
        _record(world, ids[0], values={"error": value}, job_id=job, token=1)
    assert [(m.attempt, m.value) for m in _stored(world)] == [(0, 0.5), (1, 0.25), (2, 0.75)]
    assert _known(world, ids, ["error"]) == {(ids[0], "error"): 0.5}


def test_a_repeated_report_is_recorded_once(world: World, ids: list[int]) -> None:
    first = _record(world, ids[0], values={"error": 0.5, "loss": 1.0}, job_id=1, token=2)
    assert _record(world, ids[0], values={"error": 0.5, "loss": 1.0}, job_id=1, token=2) == first
    assert len(_stored(world)) == 2
    assert _record(world, ids[0], values={"error": 0.5}, job_id=1, token=3) != first[:1]


def test_a_report_that_comes_twice_at_once_is_recorded_once(world: World, ids: list[int]) -> None:
    entry = ledger.Entry(ids[0], HERE, {"error": 0.5}, job_id=1, token=1)
    other = replace(entry, job_id=2)
    with world.database.write() as s:
        one, two, three = ledger.record_all(s, [entry, entry, other])
    assert one == two != three
    assert [m.attempt for m in _stored(world)] == [0, 1]


def test_many_threads_take_different_attempts(world: World, ids: list[int]) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda job: _record(world, ids[job % 3], job_id=job, token=1), range(24)))
    assert len({each[0] for each in found}) == 24
    attempts: dict[int, list[int]] = {}
    for measurement in _stored(world):
        attempts.setdefault(measurement.architecture_id, []).append(measurement.attempt)
    assert {each: sorted(some) for each, some in attempts.items()} == {each: list(range(8)) for each in ids}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_refused_by_name(world: World, ids: list[int], value: float) -> None:
    with pytest.raises(Invalid) as caught:
        _record(world, ids[0], values={"loss": 1.0, "error": value})
    assert caught.value.field == "metrics.error"
    assert _stored(world) == []


@pytest.mark.parametrize(
    ("change", "shared"),
    [
        ({"split": "test"}, {"latency_ms", "macs"}),
        ({"dataset": "e" * 64}, {"latency_ms", "macs"}),
        ({"evaluator": "supernet"}, {"latency_ms", "gradsign", "macs"}),
        ({"options": {"epochs": 3}}, {"latency_ms", "macs"}),
        ({"weights": "f" * 64}, {"latency_ms", "gradsign", "macs"}),
        ({"seed": 1}, {"latency_ms", "macs"}),
        ({"fidelity": 0.5}, {"latency_ms", "gradsign", "macs"}),
        ({"device": "gpu-b"}, {"error", "gradsign", "macs"}),
    ],
)
def test_a_value_is_reused_where_nothing_it_depends_on_differs(
    world: World, ids: list[int], change: dict[str, Any], shared: set[str]
) -> None:
    metrics = ["error", "latency_ms", "gradsign", "macs"]
    _record(world, ids[0], values=dict.fromkeys(metrics, 1.0))
    found = _known(world, ids, metrics, replace(HERE, **change))
    assert {name for _, name in found} == shared - {"macs"}  # counted, not looked up
    _record(world, ids[0], replace(HERE, **change), values=dict.fromkeys(metrics, 2.0), job_id=1, token=1)
    replicated = {m.metric for m in _stored(world) if m.attempt == 1}
    assert replicated == shared - {"macs"}


def test_what_is_counted_has_one_value(world: World, ids: list[int]) -> None:
    first = _record(world, ids[0], values={"macs": 7.0}, job_id=1, token=1)
    assert _record(world, ids[0], values={"macs": 7.0}, job_id=2, token=1) == first


def test_latencies_grow_old(world: World, ids: list[int]) -> None:
    _record(world, ids[0], values={"latency_ms": 1.0, "error": 0.5}, job_id=1, token=1)
    with world.database.write() as s:
        s.execute(update(tables.Measurement).values(created_at=tables.now().replace(year=2020)))
    assert _known(world, ids, ["latency_ms", "error"], max_age_s=3600) == {(ids[0], "error"): 0.5}
    _record(world, ids[0], values={"latency_ms": 2.0}, job_id=2, token=1)
    assert _known(world, ids, ["latency_ms"], max_age_s=3600) == {(ids[0], "latency_ms"): 2.0}


def test_a_latency_needs_its_device(world: World, ids: list[int]) -> None:
    _record(world, ids[0], values={"latency_ms": 1.0, "latency_ms@gpu-b": 3.0})
    nowhere = replace(HERE, device=None)
    assert _known(world, ids, ["latency_ms", "latency_ms@gpu-b"], nowhere) == {(ids[0], "latency_ms@gpu-b"): 3.0}


def test_seconds_are_shared_out_among_what_was_measured(world: World, ids: list[int]) -> None:
    _record(world, ids[0], values={"error": 0.5, "loss": 1.0, "macs": 7.0}, seconds=6.0, worker="w")
    assert {m.metric: m.seconds for m in _stored(world)} == {"error": 3.0, "loss": 3.0, "macs": 0.0}
    assert {m.worker for m in _stored(world)} == {"w"}


def test_studies_link_what_is_theirs(world: World, ids: list[int]) -> None:
    world.study(name="second")
    with world.database.read() as s:
        first, second = studies.row(s, "study").id, studies.row(s, "second").id
    _record(world, ids[0], study_id=first, job_id=1, token=1)
    _record(world, ids[1], study_id=second, job_id=2, token=1)
    with world.database.write() as s:
        shared = [m.id for m in _stored(world)]
        ledger.link(s, [(second, shared), (second, shared)])
    with world.database.read() as s:
        assert studies.get(s, "study").measurements == 1
        assert studies.get(s, "second").measurements == 2
        pages = front.measurements(s, "second", 1)
        rest = front.measurements(s, "second", 1, pages.next_page_token)
    assert [each.key for each in pages.items + rest.items] == world.space.keys(world.genes(2))
    assert rest.next_page_token is None
    with world.database.read() as s:
        assert front.measurements(s, "second", 5, key=rest.items[0].key).items == rest.items
    assert pages.items[0].context == HERE.context("error")


def _means(s: Session, ids: list[int], circumstances: Circumstances, name: str) -> dict[int, dict[str, float]]:
    study = studies.row(s, "study")
    with fronts.of(s).study(s, study.id) as measured:
        return measured.means(ledger.study_contexts(s, study.id, circumstances, [name]), ids)


def test_a_study_reads_means_over_its_replicates(world: World, ids: list[int]) -> None:
    with world.database.read() as s:
        study = studies.row(s, "study")
    for job, value in enumerate((0.2, 0.4), start=1):
        _record(world, ids[0], values={"error": value}, study_id=study.id, job_id=job, token=1)
    _record(world, ids[0], values={"error": 0.9}, job_id=3, token=1)  # nobody's
    _record(world, ids[1], replace(HERE, split="test"), study_id=study.id)
    with world.database.read() as s:
        assert _means(s, ids, HERE, "error") == {ids[0]: {"error": pytest.approx(0.3)}}
        assert _means(s, ids, replace(HERE, split="test"), "error") == {ids[1]: {"error": 0.5}}


def test_a_study_reads_the_latencies_of_the_device_with_the_most(world: World, ids: list[int]) -> None:
    with world.database.read() as s:
        study = studies.row(s, "study")
    for index, device in ((0, "cpu-a"), (0, "gpu-b"), (1, "gpu-b")):
        values = {"latency_ms": 1.0 if device == "cpu-a" else 2.0}
        _record(world, ids[index], replace(HERE, device=device), values=values, study_id=study.id)
    with world.database.read() as s:
        found = _means(s, ids, HERE, "latency_ms")
    assert found == {ids[0]: {"latency_ms": 2.0}, ids[1]: {"latency_ms": 2.0}}
