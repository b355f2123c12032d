"""Who gets which job when: fair shares, priorities, back-off by class of failure, what devices must have."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta

import pytest
from sqlalchemy import select, update

from service.core.errors import Conflict, NotFound, Stale
from service.core.failures import Failure, retry_in_s
from service.core.states import SearchState, State
from service.db import queue, searches, studies, supernets, tables
from service.db.session import Database
from service.wire.jobs import CompleteBatch, CompleteIn, Device, Lease, LeaseIn
from service.wire.searches import SearchIn
from service.wire.spaces import Resources, SupernetIn, Task
from service.wire.studies import StudyIn
from tests.world import GPU, World, evaluated, measured


@pytest.fixture
def world(database: Database) -> World:
    return World(database).found()


def _job(world: World, job: int) -> tables.Job:
    with world.database.read() as s:
        return s.get_one(tables.Job, job)


def _searches_of(world: World, leases: list[Lease]) -> list[int]:
    return [_job(world, lease.job).search_id or 0 for lease in leases]


def _leased_one_by_one(world: World, count: int) -> Counter[int]:
    found: Counter[int] = Counter()
    for _ in range(count):
        found.update(_searches_of(world, world.lease(1)))
    return found


# ---------------------------------------------------------------------- shares


def test_searches_share_the_workers_whoever_queued_first(world: World) -> None:
    first, second = world.search().id, world.search().id
    world.ask(first, world.genes(20, seed=1))
    world.ask(second, world.genes(20, seed=2))
    assert _leased_one_by_one(world, 10) == {first: 5, second: 5}


def test_a_share_of_three_gets_three_times_as_much(world: World) -> None:
    large, small = world.search(share=3.0).id, world.search(share=1.0).id
    world.ask(small, world.genes(30, seed=1))
    world.ask(large, world.genes(60, seed=2))
    assert _leased_one_by_one(world, 40) == {large: 30, small: 10}


def test_who_comes_late_shares_from_then_on_and_catches_nothing_up(world: World) -> None:
    early = world.search().id
    world.ask(early, world.genes(40, seed=1))
    assert _leased_one_by_one(world, 20) == {early: 20}
    late = world.search().id
    world.ask(late, world.genes(40, seed=2))
    got = _leased_one_by_one(world, 20)
    assert abs(got[early] - got[late]) <= 2


def test_who_had_nothing_to_do_does_not_wait_behind_what_it_never_had(world: World) -> None:
    busy, idle = world.search().id, world.search().id
    world.ask(idle, world.genes(2, seed=1))
    world.complete(world.lease())
    for number in range(3):
        world.ask(busy, world.genes(20, seed=2 + number), ask=number)
        world.complete(world.lease())
    world.ask(busy, world.genes(20, seed=9), ask=3)
    world.ask(idle, world.genes(20, seed=8), ask=1)
    got = _leased_one_by_one(world, 10)
    assert abs(got[busy] - got[idle]) <= 2


def test_time_is_shared_not_numbers(world: World) -> None:
    slow, quick = world.search().id, world.search().id
    for search, seconds, seed in ((slow, 8.0, 1), (quick, 1.0, 2)):
        world.ask(search, world.genes(4, seed=seed))
        _complete(world, world.lease(), seconds)
    world.ask(slow, world.genes(40, seed=3), ask=1)
    world.ask(quick, world.genes(40, seed=4), ask=1)
    got = _leased_one_by_one(world, 27)
    # Eight of the quick ones take as long as one of the slow ones.
    assert got[slow] == 3
    assert got[quick] == 24


def _complete(world: World, leases: list[Lease], seconds: float) -> None:
    results = [
        CompleteIn(job=each.job, token=each.token, result=evaluated(measured(each)), seconds=seconds) for each in leases
    ]
    with world.database.write() as s:
        queue.complete(s, [CompleteBatch(worker="w", results=results)])


def test_a_smaller_priority_goes_before_all_shares(world: World) -> None:
    later, first = world.search(share=100.0).id, world.search(priority=-1).id
    world.ask(later, world.genes(5, seed=1))
    world.ask(first, world.genes(5, seed=2))
    assert _searches_of(world, world.lease(7)) == [first] * 5 + [later] * 2


def test_a_paused_search_gives_its_share_to_the_others(world: World) -> None:
    paused, other = world.search().id, world.search().id
    world.ask(paused, world.genes(5, seed=1))
    world.ask(other, world.genes(5, seed=2))
    with world.database.write() as s:
        searches.set_state(s, paused, "pause")
    assert _leased_one_by_one(world, 5) == {other: 5}
    with world.database.write() as s:
        searches.set_state(s, paused, "resume")
    assert _leased_one_by_one(world, 5) == {paused: 5}


def test_a_search_of_an_older_release_is_the_same_search(world: World) -> None:
    body = SearchIn(name="again", designer="random", budget=10)
    with world.database.write() as s:
        made, _ = searches.create(s, "study", body)
        stored = s.get_one(tables.Search, made.id)
        stored.body = {name: value for name, value in stored.body.items() if name not in ("share", "priority")}
    with world.database.write() as s:
        assert searches.create(s, "study", body) == (made, False)
        with pytest.raises(Conflict, match="share"):
            searches.create(s, "study", body.model_copy(update={"share": 2.0}))


# ---------------------------------------------------------------------- back-off


@pytest.mark.parametrize(
    ("failure", "pauses"),
    [
        (Failure.LOST, [0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, None]),
        (Failure.BUG, [5.0, None]),
        (Failure.UNAVAILABLE, [1.0, 5.0, 10.0, 20.0, 40.0, None]),
        (Failure.INFEASIBLE, [None]),
        (Failure.INVALID, [None]),
        (Failure.DRAINED, [0.0] * 10),
    ],
)
def test_each_class_of_failure_has_its_back_off(failure: Failure, pauses: list[float | None]) -> None:
    assert [retry_in_s(failure, attempt) for attempt in range(1, len(pauses) + 1)] == pauses


def test_a_bug_is_tried_once_more_after_a_while_and_is_a_dead_letter_then(world: World) -> None:
    search = world.search().id
    world.ask(search, world.genes(1))
    (lease,) = world.lease()
    before = tables.now()
    assert world.fail(lease, failure="bug", reason="boom", traceback="line 1", seconds=2.0).state is State.QUEUED
    job = _job(world, lease.job)
    assert job.not_before is not None
    assert before + timedelta(seconds=5) <= job.not_before <= tables.now() + timedelta(seconds=5)
    assert (job.failure, job.reason, job.traceback) == ("bug", "boom", "line 1")
    assert world.lease() == []
    world.wait_out(lease.job)
    (again,) = world.lease()
    assert (again.job, again.attempt) == (lease.job, 2)
    assert world.fail(again, failure="bug", reason="boom", traceback="line 2", seconds=3.0).state is State.FAILED
    dead = _job(world, lease.job)
    assert (dead.state, dead.failure, dead.traceback) == ("FAILED", "bug", "line 2")
    (trial,) = world.trials(search)
    assert (trial.state, trial.reason, trial.paid_s) == (State.FAILED, "boom; attempt 2", 5.0)


def test_what_succeeds_at_last_keeps_no_failure(world: World) -> None:
    world.ask(world.search().id, world.genes(1))
    (lease,) = world.lease()
    world.fail(lease, failure="unavailable")
    world.wait_out(lease.job)
    world.complete(world.lease())
    job = _job(world, lease.job)
    assert (job.state, job.failure, job.not_before) == ("SUCCEEDED", None, None)


def test_a_cancelled_job_is_not_tried_again(world: World) -> None:
    world.ask(world.search().id, world.genes(1))
    (lease,) = world.lease()
    with world.database.write() as s:
        queue.cancel(s, lease.job)
    assert world.fail(lease, failure="bug").state is State.CANCELLED


def test_out_of_memory_waits_for_a_larger_device_if_there_is_one(world: World) -> None:
    search = world.search().id
    world.ask(search, world.genes(2))
    one, other = world.lease(2)
    assert world.fail(one, failure="out_of_memory").state is State.FAILED  # nobody has more
    assert "no worker's device has more memory" in _job(world, one.job).reason
    world.worker("large", device=GPU)
    assert world.fail(other, failure="out_of_memory").state is State.QUEUED
    assert world.lease() == []
    (lease,) = world.lease(worker="large")
    assert lease.job == other.job


def test_out_of_memory_waits_for_nobody_who_lacks_something_else(world: World) -> None:
    _study(world, "cuda", device_type="cuda")
    world.worker("gpu", device=Device(name="gpu-small", type="cuda", memory_mb=1000))
    world.worker("server", device=Device(name="cpu-large", type="cpu", memory_mb=4000))
    (lease,) = world.lease(worker="gpu")
    assert world.fail(lease, failure="out_of_memory").state is State.FAILED
    assert "no worker's device has more memory" in _job(world, lease.job).reason


# ---------------------------------------------------------------------- what a device must have


def _study(world: World, name: str, **needed: object) -> int:
    with world.database.write() as s:
        kept = StudyIn.model_validate(studies.find(s, "study").body)  # type: ignore[union-attr]
        studies.create(s, kept.model_copy(update={"name": name, "resources": Resources.model_validate(needed)}))
    search = world.search(study=name).id
    world.ask(search, world.genes(1))
    return search


def test_jobs_go_to_devices_that_have_what_they_need(world: World) -> None:
    cuda, large = _study(world, "cuda", device_type="cuda"), _study(world, "large", memory_mb=2000)
    world.worker("gpu", device=GPU)
    world.worker("server", device=Device(name="cpu-large", type="cpu", memory_mb=2000))
    assert world.lease(worker="w") == []
    assert _searches_of(world, world.lease(worker="server")) == [large]
    assert _searches_of(world, world.lease(worker="gpu")) == [cuda]


def test_the_training_of_a_supernet_says_what_it_needs(world: World) -> None:
    with world.database.write() as s:
        needs = Resources(device_type="cuda", memory_mb=10_000)
        body = SupernetIn(name="net", space="tiny", task=Task(dataset="digits"), resources=needs)
        assert supernets.create(s, body)[0].resources == needs
        supernets.train(s, "net")
    world.worker("gpu", device=GPU)
    assert world.lease(worker="w") == []
    assert [lease.kind for lease in world.lease(worker="gpu")] == ["train_supernet"]


# ---------------------------------------------------------------------- several at once


def test_workers_that_ask_together_share_what_there_is(world: World) -> None:
    world.ask(world.search().id, world.genes(5))
    for name in ("a", "b", "c"):
        world.worker(name)
    with world.database.write() as s:
        given = queue.lease(s, [LeaseIn(worker=name, count=4) for name in ("a", "b", "c")])
    assert [len(leases) for leases in given] == [2, 2, 1]
    assert len({lease.job for leases in given for lease in leases}) == 5
    for name, leases in zip(("a", "b", "c"), given, strict=True):
        assert {_job(world, lease.job).worker for lease in leases} == {name}


def test_workers_that_can_run_different_jobs_each_get_theirs(world: World) -> None:
    _study(world, "cuda", device_type="cuda")
    world.ask(world.search().id, world.genes(2, seed=5))
    world.worker("gpu", device=GPU)
    with world.database.write() as s:
        cpu, gpu = queue.lease(s, [LeaseIn(worker="w", count=5), LeaseIn(worker="gpu", count=5)])
    assert len(cpu) == 2
    assert len(gpu) == 1


def test_one_unknown_worker_spoils_the_whole_lease(world: World) -> None:
    world.ask(world.search().id, world.genes(1))
    with pytest.raises(NotFound), world.database.write() as s:
        queue.lease(s, [LeaseIn(worker="w"), LeaseIn(worker="nobody")])
    assert len(world.lease()) == 1


def test_results_of_several_workers_end_each_their_own(world: World) -> None:
    search = world.search().id
    world.ask(search, world.genes(4))
    world.worker("a")
    mine, theirs = world.lease(2), world.lease(2, worker="a")
    bodies = [
        CompleteBatch(
            worker=name,
            results=[
                CompleteIn(job=each.job, token=each.token, result=evaluated(measured(each)), seconds=1.0)
                for each in leases
            ],
        )
        for name, leases in (("w", mine), ("a", theirs), ("a", theirs))
    ]
    with world.database.write() as s:
        answers = queue.complete(s, bodies)
    assert [[each.job for each in answer.items] for answer in answers] == [
        [lease.job for lease in leases] for leases in (mine, theirs, theirs)
    ]
    assert all(each.accepted for answer in answers for each in answer.items)
    assert world.states(search) == ["SUCCEEDED"] * 4
    with world.database.read() as s:
        said = dict(s.execute(select(tables.Measurement.job_id, tables.Measurement.worker)).all())
        assert said | {each.job: "w" for each in mine} | {each.job: "a" for each in theirs} == said
        assert searches.get(s, search).state == SearchState.RUNNING


def test_loaded_super_networks_come_first_but_not_for_ever(world: World) -> None:
    search, other = world.search().id, world.search().id
    world.ask(search, world.genes(3, seed=1))
    world.ask(other, world.genes(3, seed=2))
    with world.database.write() as s:
        favourite = tables.Job.search_id == other
        s.execute(update(tables.Job).where(favourite).values(needs_weights="a" * 64, turn=30.0))
        last = select(tables.Job.id).where(favourite).order_by(tables.Job.id.desc()).limit(1).scalar_subquery()
        s.execute(update(tables.Job).where(tables.Job.id == last).values(turn=1000.0))
    with world.database.write() as s:
        (leases,) = queue.lease(s, [LeaseIn(worker="w", count=6, weights=["a" * 64])])
    assert _searches_of(world, leases) == [other, other, search, search, search, other]


def test_a_result_of_another_worker_is_not_taken_for_the_holders(world: World) -> None:
    """As after a backup was put back: a worker from before has a job and token that are given out once more."""
    search = world.search().id
    world.ask(search, world.genes(1))
    world.worker("before")
    (lease,) = world.lease()
    assert not world.complete([lease], worker="before")[0].accepted
    assert world.states(search) == ["LEASED"]
    assert world.complete([lease])[0].accepted


def test_what_a_stranger_measured_is_kept_beside_what_the_holder_measured(world: World) -> None:
    """Whoever is first, also in one call; and what comes when the job has ended is no repeated report."""
    world.ask(world.search().id, world.genes(1))
    (lease,) = world.lease()
    batches = [
        CompleteBatch(
            worker=name,
            results=[CompleteIn(job=lease.job, token=lease.token, result=evaluated({"error": error}), seconds=1.0)],
        )
        for name, error in (("before", 0.3), ("w", 0.4), ("long-before", 0.5))
    ]
    with world.database.write() as s:
        answers = queue.complete(s, batches[:2])
    assert [answer.items[0].accepted for answer in answers] == [False, True]
    with world.database.write() as s:
        assert not queue.complete(s, batches[2:])[0].items[0].accepted
        assert queue.complete(s, batches[1:2])[0].items[0].accepted
        kept = select(tables.Measurement.worker, tables.Measurement.value)
        assert dict(s.execute(kept.where(tables.Measurement.metric == "error")).all()) == {
            "before": 0.3,
            "w": 0.4,
            "long-before": 0.5,
        }


def test_a_failure_that_comes_after_its_lease_ran_out_is_told_so(world: World) -> None:
    world.ask(world.search().id, world.genes(1))
    (lease,) = world.lease()
    with world.database.write() as s:
        assert queue.expire(s, tables.now() + timedelta(hours=1)) == 1
    with pytest.raises(Stale):
        world.fail(lease, failure="bug", reason="boom")
    (again,) = world.lease()
    for _ in range(2):  # the second as if the first answer had been lost
        assert world.fail(again, failure="unavailable", reason="boom").state is State.QUEUED
    assert _job(world, lease.job).attempts == 2
