"""Fronts that follow the ledger, on both databases: whatever is written, they are what a fresh computation gives."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from service.core import pareto
from service.core.objectives import Constraint, Direction, Objective, Values
from service.db import architectures, ending, front, fronts, ledger, studies, tables
from service.db.ledger import Entry
from service.db.session import Database
from service.wire.studies import ConstraintSpec, ObjectiveIn
from tests.world import World, statements

METRICS = ("error", "loss", "latency_ms")
DEVICES = ("cpu-a", "gpu-b")
ROWS = 40


@pytest.fixture
def world(database: Database) -> World:
    objectives = [ObjectiveIn(metric="error"), ObjectiveIn(metric="loss", bounds=(0, 4))]
    return World(database).found(objectives=objectives, metrics=["latency_ms"])


@pytest.fixture
def ids(world: World) -> list[int]:
    with world.database.write() as s:
        return architectures.ensure(s, world.space, world.genes(ROWS))


def _record(world: World, values: list[tuple[int, str, float, str]], study: str = "study") -> None:
    """(architecture, metric, value, device) each, in one transaction."""
    with world.database.write() as s:
        row = studies.row(s, study)
        entries = [
            Entry(each, studies.circumstances(s, row, device=device), {name: value}, study_id=row.id)
            for each, name, value, device in values
        ]
        ledger.record_all(s, entries)


def _random(rng: np.random.Generator, ids: list[int], count: int) -> list[tuple[int, str, float, str]]:
    # Few values, all multiples of 1/8: many equal rows, and sums that are exact in any order.
    return [
        (
            ids[rng.integers(len(ids))],
            METRICS[rng.integers(len(METRICS))],
            float(rng.integers(1, 25)) / 8,
            DEVICES[rng.integers(2)],
        )
        for _ in range(count)
    ]


def _brute(
    s: Session, axes: list[Objective], constraints: list[Constraint], study: str = "study"
) -> tuple[list[int], int, Values]:
    """The front from one query for all rows, as the definition says it."""
    row = studies.row(s, study)
    query = (
        select(tables.Measurement.metric, tables.Measurement.context_digest, tables.Measurement.architecture_id)
        .add_columns(func.avg(tables.Measurement.value), func.count())
        .join(tables.StudyMeasurement, tables.StudyMeasurement.measurement_id == tables.Measurement.id)
        .where(tables.StudyMeasurement.study_id == row.id)
        .group_by(tables.Measurement.metric, tables.Measurement.context_digest, tables.Measurement.architecture_id)
    )
    found = s.execute(query).all()
    counts: dict[str, dict[str, int]] = {}
    for name, digest, _, _, count in found:
        counts.setdefault(name, {}).setdefault(digest, 0)
        counts[name][digest] += count
    read = {name: min(each, key=lambda digest: (-each[digest], digest)) for name, each in counts.items()}
    means: dict[int, dict[str, float]] = {}
    for name, digest, architecture, mean, _ in found:
        if read[name] == digest:
            means.setdefault(architecture, {})[name] = mean
    kept, rows = [], []
    for architecture in sorted(means):
        known = means[architecture]
        if all(axis.metric in known for axis in axes) and all(
            limit.metric in known
            and (limit.lower is None or known[limit.metric] >= limit.lower)
            and (limit.upper is None or known[limit.metric] <= limit.upper)
            for limit in constraints
        ):
            kept.append(architecture)
            rows.append([(1 if a.direction is Direction.MINIMISE else -1) * known[a.metric] for a in axes])
    values = np.array(rows).reshape(len(rows), len(axes))
    chosen = pareto.front(values)
    return [kept[index] for index in chosen], len(kept), values[chosen]


def _axis(name: str, direction: Direction = Direction.MINIMISE) -> Objective:
    return Objective(name, direction, (0.0, 1.0) if direction is Direction.MINIMISE else (1.0, 0.0))


SHAPES: list[tuple[list[Objective], list[Constraint]]] = [
    ([_axis("error"), _axis("loss")], []),
    ([_axis("loss"), _axis("error", Direction.MAXIMISE)], []),
    ([_axis("error"), _axis("loss"), _axis("latency_ms")], []),
    ([_axis("error"), _axis("latency_ms")], [Constraint("loss", upper=1.5)]),
    ([_axis("error"), _axis("loss")], [Constraint("latency_ms", lower=0.5, upper=2.0), Constraint("error", upper=2.5)]),
]


@pytest.mark.parametrize("seed", range(4))
def test_a_front_that_follows_is_the_front_computed_anew(world: World, ids: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    for step in range(25):
        _record(world, _random(rng, ids, int(rng.integers(1, 12))))
        with world.database.read() as s:
            study = studies.row(s, "study")
            # Not each time: what is not asked for must follow all the same.
            for index in rng.permutation(len(SHAPES))[: rng.integers(1, len(SHAPES) + 1)]:
                axes, constraints = SHAPES[index]
                wanted = list(dict.fromkeys([a.metric for a in axes] + [c.metric for c in constraints]))
                with fronts.of(s).study(s, study.id) as measured:
                    contexts = ledger.study_contexts(s, study.id, studies.circumstances(s, study), wanted)
                    found = measured.front(contexts, axes, constraints)
                chosen, candidates, values = _brute(s, axes, constraints)
                assert (found.ids.tolist(), found.candidates) == (chosen, candidates), f"step {step}, shape {index}"
                np.testing.assert_array_equal(found.values, values)


def test_only_what_is_new_is_read(world: World, ids: list[int]) -> None:
    rng = np.random.default_rng(0)
    _record(world, _random(rng, ids, 200))
    with world.database.read() as s:
        front.front(s, "study")
    _record(world, [(ids[0], "error", 0.0, "cpu-a"), (ids[0], "loss", 0.0, "cpu-a")])
    with world.database.read() as s, statements(world.database) as seen:
        found = front.front(s, "study", ["error", "loss"])
        reads = [each for each in seen if "measurements.value" in each]
    assert len(reads) == 1
    assert len(found.points) == 1 or found.points[0].metrics["error"] < found.points[1].metrics["error"]
    with world.database.read() as s, statements(world.database) as seen:
        assert front.front(s, "study", ["error", "loss"]) == found
    assert not [each for each in seen if "measurements.value" in each]


def test_a_member_that_gets_worse_makes_room(world: World, ids: list[int]) -> None:
    best, second = ids[0], ids[1]
    for name in ("error", "loss"):
        _record(world, [(best, name, 1.0, "cpu-a"), (second, name, 2.0, "cpu-a")])

    def chosen() -> list[tuple[float, float]]:
        with world.database.read() as s:
            return [(p.metrics["error"], p.metrics["loss"]) for p in front.front(s, "study").points]

    assert chosen() == [(1.0, 1.0)]
    _record(world, [(best, "error", 5.0, "cpu-a")])
    assert chosen() == [(2.0, 2.0), (3.0, 1.0)]


def test_a_constraint_follows_the_replicates(world: World, ids: list[int]) -> None:
    with world.database.write() as s:
        limits = [ConstraintSpec(metric="loss", upper=1.5)]
        studies.create(s, world.study_in(name="small", constraints=limits))
    _record(world, [(ids[0], "error", 1.0, "cpu-a"), (ids[0], "loss", 1.0, "cpu-a")], "small")
    _record(world, [(ids[0], "macs", 5.0, "cpu-a")], "small")

    def candidates() -> tuple[int, int]:
        with world.database.read() as s:
            found = front.front(s, "small")
            return found.candidates, len(found.points)

    assert candidates() == (1, 1)
    _record(world, [(ids[0], "loss", 3.0, "cpu-a")], "small")
    assert candidates() == (0, 0)
    _record(world, [(ids[0], "loss", 0.5, "cpu-a")], "small")
    assert candidates() == (1, 1)


def test_an_older_snapshot_goes_on_with_what_others_have_seen(world: World, ids: list[int]) -> None:
    _record(world, [(ids[0], "error", 1.0, "cpu-a"), (ids[0], "loss", 1.0, "cpu-a")])
    with world.database.read() as old:
        studies.row(old, "study")  # its snapshot begins
        _record(world, [(ids[1], "error", 0.5, "cpu-a"), (ids[1], "loss", 0.5, "cpu-a")])
        with world.database.read() as s:
            newer = front.front(s, "study")
        assert front.front(old, "study") == newer
    assert [point.metrics["error"] for point in newer.points] == [0.5]


def test_what_was_rolled_back_is_on_no_front(world: World, ids: list[int]) -> None:
    _record(world, [(ids[0], "error", 1.0, "cpu-a"), (ids[0], "loss", 1.0, "cpu-a")])

    def fail() -> None:
        with world.database.write() as s:
            row = studies.row(s, "study")
            values = {"error": 0.1, "loss": 0.1}
            ledger.record_all(s, [Entry(ids[1], studies.circumstances(s, row), values, study_id=row.id)])
            assert len(front.front(s, "study").points) == 1
            ending.flush(s)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with world.database.read() as s:
        assert [point.metrics["error"] for point in front.front(s, "study").points] == [1.0]


def test_readers_and_writers_at_once_see_every_commit(world: World, ids: list[int]) -> None:
    """Each reader finds at least what was committed before it asked, while others write."""
    committed = 0
    failures: list[str] = []
    lock = threading.Lock()
    stop = threading.Event()

    def write() -> None:
        nonlocal committed
        for index in range(ROWS):
            _record(world, [(ids[index], "error", 1.0, "cpu-a"), (ids[index], "loss", 1.0, "cpu-a")])
            with lock:
                committed = index + 1
        stop.set()

    def read() -> None:
        while not stop.is_set():
            with lock:
                least = committed
            with world.database.read() as s:
                found = front.front(s, "study", ["error", "loss"])
            if found.candidates < least:
                failures.append(f"{found.candidates} of {least}")

    with ThreadPoolExecutor(4) as pool:
        done = [pool.submit(write), *(pool.submit(read) for _ in range(3))]
        for each in done:
            each.result()
    assert not failures
    with world.database.read() as s:
        assert front.front(s, "study", ["error", "loss"]).candidates == ROWS


@pytest.mark.parametrize("ask", [lambda s: studies.get(s, "study"), lambda s: studies.page(s, 10).items[0]])
def test_a_study_counts_its_measurements(world: World, ids: list[int], ask: Callable[[Session], Any]) -> None:
    counted = []
    for more in (0, 1, 2, 0):
        _record(world, [(ids[index], "error", 1.0, "cpu-a") for index in range(more)])
        with world.database.read() as s:
            counted.append(ask(s).measurements)
    assert counted == [0, 1, 3, 3]


def test_columns_beyond_the_limit_are_read_again(world: World, ids: list[int]) -> None:
    with world.database.write() as s:
        studies.create(s, world.study_in(name="other"))
    kept = fronts.Fronts(kept_bytes=1)
    for study in ("study", "other", "study"):
        _record(world, [(ids[0], "error", 1.0, "cpu-a")], study)
        with world.database.read() as s:
            row = studies.row(s, study)
            contexts = ledger.study_contexts(s, row.id, studies.circumstances(s, row), ["error"])
            with statements(world.database) as seen, kept.study(s, row.id) as measured:
                assert measured.means(contexts, [ids[0]]) == {ids[0]: {"error": 1.0}}
            assert len([each for each in seen if "measurements.value" in each]) == 1
    with world.database.read() as s, statements(world.database) as seen, kept.study(s, row.id):
        pass
    assert not [each for each in seen if "measurements.value" in each]  # the one in use stays
