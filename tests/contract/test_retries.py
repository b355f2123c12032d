"""Dead letters: grouped by reason, tried again, cancelled; on both databases, with searches that can be verified."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.controller import Stepper
from service.core.errors import Invalid, NotFound, Stale
from service.core.failures import Failure
from service.core.reasons import pattern
from service.core.states import DEAD, SearchState, State
from service.db import (
    asks,
    backlog,
    confirmations,
    failures,
    jobs,
    predictors,
    queue,
    retries,
    searches,
    supernets,
    tables,
)
from service.db.artifacts import ArtifactStore
from service.db.session import Database
from service.search.designer import FitRequest
from service.wire.confirmations import ConfirmIn
from service.wire.jobs import CancelledOut, FailuresOut, JobKind, JobOut, JobsIn, Lease, RetriedOut
from service.wire.searches import SearchOut
from service.wire.spaces import SupernetIn, Task
from tests.world import World, advance


@pytest.fixture
def world(database: Database) -> World:
    return World(database).found()


def kill(world: World, leases: Sequence[Lease], reason: str = "the work raised", **given: Any) -> None:
    """Ends jobs for good."""
    for each in leases:
        done = world.fail(each, failure=Failure.INVALID, **{"reason": reason, **given})
        assert done.state in DEAD


def retry(world: World, **given: Any) -> RetriedOut:
    with world.database.write() as s:
        return retries.retry(s, JobsIn(**given))


def cancel(world: World, **given: Any) -> CancelledOut:
    with world.database.write() as s:
        return retries.cancel(s, JobsIn(**given))


def groups(world: World, **given: Any) -> FailuresOut:
    with world.database.read() as s:
        return failures.groups(s, **given)


def job(world: World, number: int) -> JobOut:
    with world.database.read() as s:
        return jobs.get(s, number)


def got(world: World, search: int) -> SearchOut:
    with world.database.read() as s:
        return searches.get(s, search)


def progress(world: World, search: int) -> searches.Progress:
    with world.database.read() as s:
        return searches.progress(s, search)


def reasons(done: RetriedOut | CancelledOut) -> dict[int, str]:
    return {each.job: each.reason for each in done.left_alone}


# ---------------------------------------------------------------------- the replay rule


@pytest.mark.parametrize("slack", [0, 3])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_search_is_verified_after_its_failures_were_tried_again(
    world: World, tmp_path: Path, slack: int, seed: int
) -> None:
    """Trials fail, are tried again at any moment, some twice; every ask still finds what it had seen."""
    rng = np.random.default_rng([slack, seed])
    stepper = Stepper(world.database, ArtifactStore(tmp_path))
    # Whether its first population is complete depends on how many trials have failed by then.
    options = {"population_size": 12, "sample_size": 4}
    search = world.search(designer="evolution", options=options, budget=24, batch=4, slack=slack, max_failures=50).id
    reopened, failed = 0, 0
    for _ in range(400):
        wrote = advance(world.database, stepper)
        leases = world.lease(int(rng.integers(1, 5)))
        for lease in leases:
            if rng.random() < 0.35 and failed < 30:
                kill(world, [lease], seconds=3.0)
                failed += 1
            else:
                world.complete([lease])
        if rng.random() < 0.3:
            reopened += len(retry(world, search=search).retried)
        if not wrote and not leases:
            break
    done = got(world, search)
    assert (done.state, done.counts.succeeded) == (SearchState.DONE, 24)
    assert reopened >= 3
    stored, wrong = stepper.verify(search)
    assert stored > 4
    assert wrong == []
    # What is shown is what a count of all trials gives, here and in another process.
    trials = world.trials(search)
    assert done.counts.failed == sum(trial.state is State.FAILED for trial in trials)
    assert done.paid_s == pytest.approx(sum(trial.paid_s for trial in trials))
    other = Database(str(world.database.engine.url.render_as_string(hide_password=False)))
    with other.read() as s:
        assert searches.get(s, search) == done
    other.dispose()


def test_asks_see_a_trial_as_it_was_at_their_moment(world: World) -> None:
    search = world.search(slack=5).id
    claim = world.claim(search)
    world.ask(search, world.genes(3), 0, claim)
    first, *others = world.lease(3)
    kill(world, [first], seconds=2.0)
    world.ask(search, world.genes(1, seed=5), 1, claim)  # saw it fail
    assert retry(world, ids=[first.job]).retried == [first.job]
    claim = world.claim(search)
    world.ask(search, world.genes(1, seed=6), 2, claim)  # saw it open
    world.complete(others)
    world.complete([each for each in world.lease() if each.job == first.job])
    world.ask(search, world.genes(1, seed=7), 3, claim)  # saw it succeed
    with world.database.read() as s:
        seen = [asks.snapshot(s, search, number) for number in range(4)]
        stored = [each for _, each in asks.seen(s, search)]
    assert [str(each.history.states[0]) for each in seen[1:]] == ["FAILED", "QUEUED", "SUCCEEDED"]
    assert [float(each.history.cost_s[0]) for each in seen[1:]] == [2.0, 0.0, 4.0]
    assert np.isfinite(seen[3].history.objectives[0]).all()
    assert not np.isfinite(seen[1].history.objectives[0]).any()
    assert [each.pending for each in seen] == [each["pending"] for each in stored]
    (trial, *_) = world.trials(search)
    assert (trial.state, trial.paid_s) == (State.SUCCEEDED, 4.0)


# ---------------------------------------------------------------------- trials and their searches


def test_a_dead_trial_waits_again_with_all_its_attempts(world: World) -> None:
    search = world.search().id
    world.ask(search, world.genes(2))
    first, second = world.lease(2)
    world.complete([second])
    kill(world, [first], traceback="Traceback\nValueError: x", seconds=1.5)
    assert progress(world, search).failures == 1
    assert retry(world, ids=[first.job]) == RetriedOut(retried=[first.job], left_alone=[], next=None)
    found = job(world, first.job)
    assert (found.state, found.attempts, found.failure, found.reason) == (State.QUEUED, 0, None, "")
    assert found.traceback == "Traceback\nValueError: x"
    now = progress(world, search)
    assert (now.open, now.counted, now.failures) == (1, 1, 0)
    shown = got(world, search)
    assert (shown.counts.queued, shown.counts.failed, shown.paid_s) == (1, 0, 3.5)
    (again,) = world.lease(4)
    assert (again.job, again.attempt) == (first.job, 1)
    assert again.token > first.token
    with pytest.raises(Stale):
        world.fail(first, failure=Failure.INVALID)
    world.complete([again])
    assert got(world, search).counts.succeeded == 2
    # A second time there is nothing to do.
    assert reasons(retry(world, ids=[first.job])) == {
        first.job: "it is SUCCEEDED: only jobs that are FAILED or LOST are tried again"
    }


def test_a_lost_trial_waits_again(world: World) -> None:
    search = world.search().id
    world.ask(search, world.genes(1))
    with world.database.read() as s:
        (stored,) = jobs.page(s, 5).items
    for _ in range(8):
        with world.database.write() as s:
            row = s.get_one(tables.Job, stored.id)
            row.not_before = None
        if not world.lease(1, lease_s=-1):
            break
        with world.database.write() as s:
            queue.expire(s)
    assert world.states(search) == ["LOST"]
    assert retry(world, state=State.LOST, search=search).retried == [stored.id]
    assert world.states(search) == ["QUEUED"]


def test_a_search_that_failed_runs_again_when_enough_is_tried_again(world: World, tmp_path: Path) -> None:
    stepper = Stepper(world.database, ArtifactStore(tmp_path))
    search = world.search(budget=8, batch=4, max_failures=1).id
    advance(world.database, stepper)
    leases = world.lease(4)
    kill(world, leases[:3])
    assert advance(world.database, stepper)
    assert got(world, search).state is SearchState.FAILED
    assert world.lease(4) == []
    dead = [each.job for each in leases[:3]]
    too_few = retry(world, ids=dead[:1])
    assert too_few.retried == []
    assert "3 failures where 1 are allowed: at least 2 must" in reasons(too_few)[dead[0]]
    assert retry(world, ids=dead[:2]).retried == dead[:2]
    assert (got(world, search).state, got(world, search).ended_at) == (SearchState.RUNNING, None)
    # The one at work when the search failed was told to stop.
    world.fail(leases[3], State.CANCELLED, Failure.CANCELLED)
    while leases := world.lease():
        world.complete(leases)
        advance(world.database, stepper)
    done = got(world, search)
    assert (done.state, done.counts.succeeded, done.counts.failed) == (SearchState.DONE, 8, 1)
    assert stepper.verify(search)[1] == []


@pytest.mark.parametrize(("verb", "said"), [("cancel", "is CANCELLED: its trials are not"), (None, "extend it first")])
def test_trials_of_searches_that_ended_are_left_alone(world: World, verb: str | None, said: str) -> None:
    search = world.search(budget=2).id
    world.ask(search, world.genes(3))
    leases = world.lease(3)
    kill(world, leases[:1])
    world.complete(leases[1:])
    if verb is None:
        with world.database.write() as s:
            searches.finish(s, searches.claim(s, search, "c1", 60), SearchState.DONE, "spent")  # type: ignore[arg-type]
    else:
        with world.database.write() as s:
            searches.set_state(s, search, verb)
    before = got(world, search)
    done = retry(world, search=search)
    assert done.retried == []
    assert said in reasons(done)[leases[0].job]
    assert got(world, search) == before
    assert job(world, leases[0].job).state is State.FAILED


def test_the_budget_is_not_overspent(world: World) -> None:
    search = world.search(budget=4).id
    world.ask(search, world.genes(5))
    leases = world.lease(5)
    kill(world, leases[:3])
    done = retry(world, search=search)
    assert done.retried == [leases[0].job, leases[1].job]
    assert "4 evaluations, is spoken for" in reasons(done)[leases[2].job]
    with world.database.write() as s:
        searches.extend(s, search, 5)
    assert retry(world, search=search).retried == [leases[2].job]


def test_a_controller_that_did_not_know_cannot_ask(world: World) -> None:
    search = world.search().id
    held = world.claim(search)
    world.ask(search, world.genes(1), 0, held)
    kill(world, world.lease(1))
    retry(world, search=search)
    with pytest.raises(Stale):
        world.ask(search, world.genes(1, seed=3), 1, held)


def test_a_paused_search_stays_paused(world: World) -> None:
    search = world.search().id
    world.ask(search, world.genes(1))
    leases = world.lease(1)
    kill(world, leases)
    with world.database.write() as s:
        searches.set_state(s, search, "pause")
    assert retry(world, search=search).retried == [leases[0].job]
    assert got(world, search).state is SearchState.PAUSED
    assert world.lease(1) == []


# ---------------------------------------------------------------------- other kinds


def test_a_training_is_queued_again_once(world: World) -> None:
    with world.database.write() as s:
        supernets.create(s, SupernetIn(name="net", space="tiny", task=Task(dataset="digits")))
        first = supernets.train(s, "net").id
    kill(world, world.lease(1), "diverged")
    with world.database.write() as s:
        second = supernets.train(s, "net").id
    kill(world, world.lease(1), "diverged again")
    done = retry(world, kind=JobKind.TRAIN_SUPERNET)
    assert done.retried == [second]
    assert f"job {second} is a newer training" in reasons(done)[first]
    with world.database.read() as s:
        found = supernets.get(s, "net")
    assert (found.state, found.summary, found.job) == (supernets.TRAINING, {}, second)
    assert "is TRAINING" in reasons(retry(world, kind=JobKind.TRAIN_SUPERNET))[first]
    assert [each.job for each in world.lease(4)] == [second]


def test_a_fit_is_tried_again_until_its_ask_is_made(world: World) -> None:
    search = world.search().id
    held = world.claim(search)
    world.ask(search, world.genes(2), 0, held)
    world.complete(world.lease(2))
    with world.database.write() as s:
        wanted = FitRequest("error", "boosting", {})
        version = predictors.request(s, held, 1, wanted, 2, 2, [0, 1, 1, 0])
    (fit,) = world.lease(1)
    kill(world, [fit], "boom")
    assert retry(world, search=search).retried == [fit.job]
    with world.database.read() as s:
        found = predictors.get(s, version)
    assert (found.state, found.summary) == (State.QUEUED, {})
    # The controller had seen that there is no predictor, and is about to ask without.
    with pytest.raises(Stale):
        world.ask(search, world.genes(1, seed=3), 1, held)
    kill(world, world.lease(1), "boom")
    world.ask(search, world.genes(1, seed=3), 1)
    done = retry(world, search=search)
    assert (done.retried, reasons(done)) == ([], {fit.job: f"ask 1 of search {search} was made without it"})


def test_what_another_job_does_is_not_done_twice(world: World) -> None:
    search = world.search().id
    world.ask(search, world.genes(2))
    world.complete(world.lease(2))

    def confirm() -> None:
        with world.database.write() as s:
            confirmations.create(s, search, ConfirmIn(best=1, seeds=1))

    confirm()
    first = world.lease(4)
    kill(world, first)
    confirm()
    second = world.lease(4)
    kill(world, second)
    done = retry(world, study="study")
    assert done.retried == [second[0].job]
    assert reasons(done) == {first[0].job: f"job {second[0].job} does the same"}
    assert reasons(retry(world, study="study")) == {first[0].job: f"job {second[0].job} does the same"}


# ---------------------------------------------------------------------- filters, batches, groups


def test_filters_batches_and_what_is_only_looked_at(world: World) -> None:
    one, two = world.search().id, world.search().id
    world.ask(one, world.genes(5))
    world.ask(two, world.genes(2, seed=3))
    leases = sorted(world.lease(7), key=lambda lease: lease.job)
    kill(world, leases[:5], "first reason 5")
    kill(world, leases[5:], "second reason")
    ids = [each.job for each in leases]
    look = retry(world, search=one, dry_run=True)
    assert look.retried == ids[:5]
    assert job(world, ids[0]).state is State.FAILED
    assert got(world, one).counts.failed == 5
    assert retry(world, search=two, failure=Failure.BUG).retried == []
    assert retry(world, search=two, worker="nobody").retried == []
    part = retry(world, search=one, limit=2)
    assert (part.retried, part.next) == (ids[:2], ids[1])
    part = retry(world, search=one, limit=2, after=part.next)
    assert (part.retried, part.next) == (ids[2:4], ids[3])
    found = {each.reason: each for each in groups(world).groups}
    assert {name: each.dead for name, each in found.items()} == {"first reason #": 1, "second reason": 2}
    assert retry(world, group=found["second reason"].group).retried == ids[5:]
    assert reasons(retry(world, ids=[ids[0], 999])) == {
        ids[0]: "it is QUEUED: only jobs that are FAILED or LOST are tried again",
        999: "there is no such job, or another filter leaves it out",
    }


@pytest.mark.parametrize("act", [retry, cancel])
def test_filters_that_are_none_or_wrong_are_refused(world: World, act: Any) -> None:
    with pytest.raises(Invalid, match="every job") as caught:
        act(world, limit=5)
    assert caught.value.field == "filter"
    with pytest.raises(Invalid, match="must be one of") as caught:
        act(world, state=State.SUCCEEDED)
    assert caught.value.field == "state"
    with pytest.raises(NotFound):
        act(world, study="nowhere")
    with pytest.raises(NotFound):
        act(world, search=99)


def test_what_waits_is_cancelled_and_what_is_at_work_is_told(world: World) -> None:
    search = world.search().id
    world.ask(search, world.genes(4))
    working, over = world.lease(2)
    world.complete([over])
    looked = cancel(world, search=search, dry_run=True)
    assert len(looked.cancelled) == 2
    assert world.states(search).count("QUEUED") == 2
    done = cancel(world, search=search)
    assert (done.cancelled, done.stopping) == (looked.cancelled, [working.job])
    assert sorted(world.states(search)) == ["CANCELLED", "CANCELLED", "LEASED", "SUCCEEDED"]
    assert world.fail(working, State.QUEUED, Failure.BUG).state is State.CANCELLED
    assert reasons(cancel(world, ids=[over.job])) == {over.job: "it has ended already"}
    assert progress(world, search).open == 0


def test_failures_fall_together_by_reason(world: World) -> None:
    search = world.search().id
    world.ask(search, world.genes(6))
    leases = world.lease(6)
    for each in leases[:4]:
        kill(
            world,
            [each],
            f"job {each.job}: cannot read /data/{each.job}/x.pt",
            traceback="Traceback\nKeyError: 'x'\n\n",
        )
    kill(world, leases[4:5], "another")
    found = groups(world)
    assert (found.looked_at, found.more) == (5, False)
    first, second = found.groups
    assert (first.reason, first.dead, first.waiting, first.kind) == ("job #: cannot read …", 4, 0, JobKind.EVALUATE)
    assert (first.job, first.study, first.last_line) == (leases[3].job, "study", "KeyError: 'x'")
    assert first.first_at <= first.last_at
    assert (second.reason, second.dead, second.last_line) == ("another", 1, None)
    assert groups(world, kind=JobKind.FIT).groups == []
    assert groups(world, search=search).looked_at == 5
    assert groups(world, since=first.last_at + timedelta(hours=1)).looked_at == 0
    with pytest.raises(NotFound):
        groups(world, study="nowhere")


def test_what_waits_for_another_try_is_told_apart_and_can_be_cancelled(world: World) -> None:
    search = world.search().id
    world.ask(search, world.genes(3))
    first, second, third = world.lease(3)
    for each in (first, second):
        assert world.fail(each, failure=Failure.BUG, reason=f"job {each.job} broke").state is State.QUEUED
    kill(world, [third])
    waiting = next(each for each in groups(world).groups if each.failure is Failure.BUG)
    assert (waiting.dead, waiting.waiting, waiting.reason) == (0, 2, "job # broke")
    (kind,) = _backlog(world)
    assert (kind.kind, kind.ready, kind.later, kind.count(State.FAILED)) == (JobKind.EVALUATE, 0, 2, 1)
    assert kind.next_at is not None
    assert retry(world, group=waiting.group).retried == []
    assert "it is QUEUED" in reasons(retry(world, ids=[first.job]))[first.job]
    assert cancel(world, group=waiting.group).cancelled == [first.job, second.job]
    assert world.states(search) == ["CANCELLED", "CANCELLED", "FAILED"]


def _backlog(world: World) -> list[backlog.Backlog]:
    with world.database.read() as s:
        return backlog.by_kind(s)


def test_trials_that_are_tried_again_wait_for_their_turn(world: World) -> None:
    one, two = world.search().id, world.search().id
    world.ask(one, world.genes(2))
    dead = world.lease(2)
    kill(world, dead)
    world.ask(two, world.genes(6, seed=3))
    world.complete(world.lease(3))
    retry(world, search=one)
    order = [each.job for each in world.lease(5)]
    # Neither first, as if they had waited all the time, nor behind all of the other search.
    assert set(order[:2]) - {each.job for each in dead}
    assert {each.job for each in dead} <= set(order)


def test_only_the_newest_failures_are_looked_at(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.ask(world.search().id, world.genes(4))
    leases = world.lease(4)
    kill(world, leases[:2], "old")
    kill(world, leases[2:], "new")
    monkeypatch.setattr(failures, "NEWEST", 2)
    found = groups(world)
    assert [(each.reason, each.dead) for each in found.groups] == [("new", 2)]
    assert (found.looked_at, found.more) == (2, True)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("job 17: x", "job 18: x"),
        ("no artifact 9f86d081884c7d659a2feaa0c55ad015", "no artifact 00000000884c7d659a2feaa0c55ad015"),
        ("cannot open /tmp/a1/b.pt: no space", "cannot open /var/lib/x: no space"),
        ("needs 2.50 GiB, has 1.9e-1 GiB", "needs 12 GiB, has 3,000 GiB"),
        ("id 123e4567-e89b-12d3-a456-426614174000 is gone", "id 00000000-e89b-12d3-a456-426614174fff is gone"),
        ("at 0x7f3a10 in f", "at 0x10 in f"),
        ("worker w-1 was not heard of", "worker w-1  was\nnot heard of"),
    ],
)
def test_reasons_that_differ_in_little_are_one(one: str, other: str) -> None:
    assert pattern(one, "w-1") == pattern(other, "w-1")


def test_reasons_that_differ_are_not_one() -> None:
    assert pattern("conv2d has no bias") != pattern("conv3d has no bias")
    assert pattern("lost gpu-1", "gpu-1") == pattern("lost cpu-7", "cpu-7") == "lost …"
    assert pattern("either/or") == "either/or"
    assert len(pattern("x" * 5000)) <= 240
    assert pattern("/" * 100_000 + "a" * 100_000)


def test_jobs_are_listed_by_what_they_failed_of(world: World) -> None:
    world.ask(world.search().id, world.genes(3))
    leases = world.lease(2)
    kill(world, leases[:1])
    with world.database.read() as s:
        (dead,) = jobs.page(s, 5, dead=True).items
        assert jobs.page(s, 5, failure=Failure.INVALID).items == [dead]
        assert (dead.id, dead.failure, dead.leased_until) == (leases[0].job, Failure.INVALID, None)
        assert [each.id for each in jobs.page(s, 5, worker="w", state=State.LEASED).items] == [leases[1].job]
        (held,) = jobs.page(s, 5, state=State.LEASED).items
        assert jobs.page(s, 5, failure=Failure.OUT_OF_MEMORY).items == []
    assert held.leased_until is not None
    assert (held.needs.dataset, held.needs.evaluator, held.priority, held.max_attempts >= 1) == (
        "d" * 64,
        "training",
        0,
        True,
    )
