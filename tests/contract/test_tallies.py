"""Counts and hypervolumes of searches that follow the ends of trials, on both databases."""

from __future__ import annotations

import numpy as np
import pytest

from service.core import pareto
from service.core.objectives import minimised
from service.core.states import COUNTED, State
from service.db import queue, searches, studies
from service.db.session import Database
from service.wire.jobs import CompleteBatch, CompleteIn, Lease
from service.wire.searches import SearchOut
from service.wire.studies import ConstraintSpec
from tests.world import World, evaluated, statements


@pytest.fixture
def world(database: Database) -> World:
    return World(database).found(constraints=[ConstraintSpec(metric="macs", upper=60_000)])


def _get(world: World, search: int) -> SearchOut:
    with world.database.read() as s:
        return searches.get(s, search)


def _afresh(world: World, search: int) -> tuple[dict[str, int], int, float, float | None]:
    """The same from all trials."""
    trials = world.trials(search)
    counts = {state.value.lower(): sum(trial.state is state for trial in trials) for state in State}
    full = [trial.metrics for trial in trials if trial.state in COUNTED and trial.fidelity == 1.0]
    with world.database.read() as s:
        study = studies.row(s, "study")
    objectives = studies.objectives(study)
    volume = pareto.hypervolume(objectives, minimised(objectives, full), studies.within(study, full)) if full else None
    return counts, sum(t.reused for t in trials), sum(t.paid_s for t in trials), volume


@pytest.mark.parametrize("seed", range(3))
def test_a_tally_that_follows_is_the_tally_computed_anew(world: World, seed: int) -> None:
    rng = np.random.default_rng(seed)
    ids = [world.search().id for _ in range(2)]
    claims = {search: world.claim(search) for search in ids}
    for step in range(12):
        search = ids[rng.integers(2)]
        with world.database.read() as s:
            asks = searches.progress(s, search).asks
        world.ask(search, world.genes(int(rng.integers(1, 5)), seed=int(rng.integers(9))), asks, claims[search])
        for lease in world.lease(int(rng.integers(1, 5))):
            end = rng.random()
            if end < 0.6:
                world.complete([lease])
            elif end < 0.8:
                world.fail(lease)
            else:
                world.fail(lease, State.QUEUED, seconds=1.5)
        for each in rng.permutation(ids)[: rng.integers(1, 3)].tolist():
            found, (counts, reused, paid, volume) = _get(world, each), _afresh(world, each)
            assert found.counts.model_dump() == counts, f"step {step}"
            assert (found.reused, found.paid_s) == (reused, pytest.approx(paid))
            assert found.hypervolume == (None if volume is None else pytest.approx(volume, rel=1e-12))


def test_what_was_rolled_back_is_not_remembered(world: World) -> None:
    search = world.search().id
    world.ask(search, world.genes(3))
    first, second, _ = world.lease(3)

    def end(lease: Lease, *, fail: bool) -> None:
        done = CompleteIn(job=lease.job, token=lease.token, result=evaluated({"error": 0.1}), seconds=1.0)
        with world.database.write() as s:
            queue.complete(s, [CompleteBatch(worker="w", results=[done])])
            # A session of the write: it sees the end that will not be.
            assert searches.page(s, 10).items[0].counts.succeeded == 1
            if fail:
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        end(first, fail=True)
    assert _get(world, search).counts.succeeded == 0
    end(second, fail=False)
    assert _get(world, search).counts.succeeded == 1


def test_only_trials_that_ended_since_are_read(world: World) -> None:
    search = world.search().id
    world.ask(search, world.genes(4))
    leases = world.lease(4)
    world.complete(leases[:3])
    before = _get(world, search)
    with statements(world.database) as seen:
        assert _get(world, search) == before
    assert not [each for each in seen if "trials.metrics" in each]
    world.complete(leases[3:])
    assert _get(world, search).counts.succeeded == 4
