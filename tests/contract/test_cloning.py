"""Clones of studies, on both databases: the same measurements under other objectives, at once and only once."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select

from service.core.errors import Conflict, Invalid, NotFound
from service.db import cloning, events, front, searches, studies
from service.db.session import Database
from service.db.tables import StudyMeasurement
from service.wire.studies import CloneIn, ConstraintSpec, ObjectiveIn, StudyIn, StudyOut
from tests.world import World

LOSS = ObjectiveIn(metric="loss", bounds=(0.0, 3.0))


@pytest.fixture
def world(database: Database) -> World:
    """A study with a search of twelve trials, measured in error, loss and MACs."""
    made = World(database).found(metrics=["loss"], constraints=[ConstraintSpec(metric="params", upper=10**9)])
    made.ask(made.search().id, made.genes(12))
    made.complete(made.lease())
    return made


def clone(world: World, **given: Any) -> tuple[StudyOut, bool]:
    with world.database.write() as s:
        return cloning.clone(s, "study", CloneIn(**{"name": "copy", **given}))


def links(world: World, name: str) -> dict[int, int]:
    """Measurement → number of the commit that linked it."""
    with world.database.read() as s:
        query = select(StudyMeasurement.measurement_id, StudyMeasurement.number)
        return dict(s.execute(query.where(StudyMeasurement.study_id == studies.row(s, name).id)).all())


def test_the_front_in_other_objectives_is_there_at_once(world: World) -> None:
    made, new = clone(world, objectives=[LOSS, ObjectiveIn(metric="params")])
    assert new
    assert [each.metric for each in made.objectives] == ["loss", "params"]
    assert set(made.metrics) == {"loss", "params", "error", "macs"}
    with world.database.read() as s:
        source = studies.get(s, "study")
        assert studies.get(s, "copy") == made
        found, there = front.front(s, "copy"), front.front(s, "study", ["loss", "params"])
    assert (made.task, made.evaluator, made.space, made.seed) == (
        source.task,
        source.evaluator,
        source.space,
        source.seed,
    )
    assert found.candidates == 12
    assert [(point.key, point.metrics) for point in found.points] == [
        (point.key, {name: point.metrics[name] for name in made.metrics}) for point in there.points
    ]


def test_every_link_is_copied_with_the_number_of_the_commit(world: World) -> None:
    before = links(world, "study")
    made, _ = clone(world)
    with world.database.read() as s:
        last = events.last(s)
        told = events.after(s, last - 1)
    assert links(world, "copy") == dict.fromkeys(before, last)
    assert made.measurements == len(before) > 0
    assert links(world, "study") == before
    assert [(event.kind, event.study) for event in told] == [("study.created", "copy")]


def test_the_clone_goes_on_by_itself_and_reuses_what_is_known(world: World) -> None:
    clone(world, objectives=[LOSS], seed=9)
    with world.database.read() as s:
        assert (studies.get(s, "copy").searches, studies.get(s, "copy").seed) == (0, 9)
    search = world.search("copy").id
    world.ask(search, world.genes(12))
    assert world.lease() == []
    with world.database.read() as s:
        assert searches.get(s, search).reused == 12


def test_the_same_clone_is_answered_and_another_one_refused(world: World) -> None:
    made, _ = clone(world, objectives=[LOSS])
    assert clone(world, objectives=[LOSS]) == (made, False)
    with pytest.raises(Conflict, match="objectives"):
        clone(world, objectives=[ObjectiveIn(metric="error")])
    with world.database.write() as s, pytest.raises(Conflict, match="clone_of"):
        cloning.clone(s, "copy", CloneIn(name="copy", objectives=[LOSS]))
    with world.database.read() as s:
        body = StudyIn.model_validate({k: v for k, v in studies.row(s, "copy").body.items() if k != "clone_of"})
    with world.database.write() as s, pytest.raises(Conflict, match="clone_of"):
        studies.create(s, body)


def test_what_a_new_study_may_not_be_a_clone_may_not_either(world: World) -> None:
    for given, field in (
        ({"objectives": [ObjectiveIn(metric="loss")]}, "objectives.0.bounds"),
        ({"objectives": [LOSS, LOSS]}, "objectives.1.metric"),
        ({"constraints": [ConstraintSpec(metric="error")]}, "constraints.0"),
    ):
        with pytest.raises(Invalid) as caught:
            clone(world, **given)
        assert caught.value.field == field
    with world.database.write() as s, pytest.raises(NotFound):
        cloning.clone(s, "nowhere", CloneIn(name="copy"))
    with world.database.read() as s:
        assert studies.find(s, "copy") is None
