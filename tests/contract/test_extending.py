"""Larger budgets, on both databases: a search goes on from where it stood, and can still be verified."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.controller import Stepper
from service.core.errors import Conflict, Invalid, Stale
from service.core.states import SearchState
from service.db import searches, spaces
from service.db.artifacts import ArtifactStore
from service.db.session import Database
from service.wire.searches import SearchIn, SearchOut
from service.wire.spaces import SpaceIn
from tests.world import CPU, DIGITS, TINY, World, advance


@pytest.fixture
def world(database: Database) -> World:
    return World(database).found()


def extend(world: World, search: int, budget: int) -> SearchOut:
    with world.database.write() as s:
        return searches.extend(s, search, budget)


def run(world: World, stepper: Stepper, search: int) -> SearchOut:
    """Lets steps and worker work until the search ends or nothing happens."""
    for _ in range(200):
        wrote = advance(world.database, stepper)
        leases = world.lease()
        if leases:
            world.complete(leases)
        if not wrote and not leases:
            break
    with world.database.read() as s:
        return searches.get(s, search)


@pytest.mark.parametrize("designer", ["random", "evolution"])
def test_a_finished_search_goes_on_and_can_still_be_verified(world: World, tmp_path: Path, designer: str) -> None:
    stepper = Stepper(world.database, ArtifactStore(tmp_path))
    body = SearchIn(name="one", designer=designer, budget=6, batch=4)
    with world.database.write() as s:
        search = searches.create(s, "study", body)[0].id
    done = run(world, stepper, search)
    assert (done.state, done.counts.succeeded) == (SearchState.DONE, 6)
    first = [(trial.number, trial.key) for trial in world.trials(search)]
    longer = extend(world, search, 13)
    assert (longer.state, longer.budget, longer.ended_at) == (SearchState.RUNNING, 13, None)
    assert "extended to 13" in longer.reason
    done = run(world, stepper, search)
    assert (done.state, done.counts.succeeded) == (SearchState.DONE, 13)
    assert done.ended_at is not None
    trials = world.trials(search)
    assert [(trial.number, trial.key) for trial in trials][: len(first)] == first
    assert len({trial.key for trial in trials}) == 13
    asks, wrong = stepper.verify(search)
    assert (asks, wrong) == (4, [])
    # Its name still stands for the body it was made with.
    with world.database.write() as s:
        stored, new = searches.create(s, "study", body)
    assert (stored.id, stored.budget, new) == (search, 13, False)


def test_the_same_budget_changes_nothing_and_a_smaller_one_is_refused(world: World) -> None:
    search = world.search(budget=10).id
    with world.database.read() as s:
        before = searches.get(s, search)
    assert extend(world, search, 10) == before
    with pytest.raises(Invalid, match="must be larger than the 10") as caught:
        extend(world, search, 9)
    assert caught.value.field == "budget"
    longer = extend(world, search, 20)
    assert (longer.state, longer.budget) == (SearchState.RUNNING, 20)


def test_a_controller_that_knew_the_old_budget_cannot_end_the_search(world: World) -> None:
    search = world.search(budget=10).id
    held = world.claim(search)
    extend(world, search, 20)
    with world.database.write() as s, pytest.raises(Stale):
        searches.finish(s, held, SearchState.DONE, "the budget of 10 evaluations is spent")
    assert world.claim(search).token > held.token
    with world.database.read() as s:
        assert searches.get(s, search).state == SearchState.RUNNING


def test_a_paused_search_stays_paused_and_a_cancelled_one_is_refused(world: World) -> None:
    search = world.search(budget=10).id
    with world.database.write() as s:
        searches.set_state(s, search, "pause")
    assert extend(world, search, 20).state == SearchState.PAUSED
    with world.database.write() as s:
        searches.set_state(s, search, "cancel")
    with pytest.raises(Conflict, match="CANCELLED"):
        extend(world, search, 30)


def test_an_exhausted_search_just_ends_again(database: Database, tmp_path: Path) -> None:
    world = World(database)
    small = {**TINY, "depths": [1], "kernels": [3], "expansions": [3, 4]}
    with database.write() as s:
        spaces.create(s, SpaceIn(name="tiny", plugin="mobilenetv3", options=small))
    world.worker("w", device=CPU, datasets=[DIGITS])
    world.study()
    stepper = Stepper(database, ArtifactStore(tmp_path))
    search = world.search(budget=50, batch=10).id
    done = run(world, stepper, search)
    assert done.state == SearchState.DONE
    assert "exhausted" in done.reason
    extend(world, search, 60)
    again = run(world, stepper, search)
    assert (again.state, again.counts) == (SearchState.DONE, done.counts)
    assert "exhausted" in again.reason
