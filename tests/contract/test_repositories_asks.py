"""Asks, on both databases: fenced, atomic, answered from the ledger, and asked again from what they had seen."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import numpy as np
import pytest
from sqlalchemy import func, select

from service.core.errors import Conflict, Invalid, NotFound, Stale
from service.core.states import SearchState, State
from service.db import artifacts, events, predictors, queue, searches, studies, tables
from service.db.searches import Claim
from service.db.session import Database
from service.search.designer import FitRequest, Suggestion, Suggestions
from service.wire.jobs import CompleteBatch, CompleteIn, JobKind
from service.wire.searches import AuditIn
from service.wire.studies import ConstraintSpec, ObjectiveIn
from tests.world import World, error_of, statements


@pytest.fixture
def world(database: Database) -> World:
    return World(database).found()


def _rows(world: World) -> dict[str, int]:
    with world.database.read() as s:
        of = (tables.Ask, tables.Trial, tables.Job, tables.Architecture, tables.Measurement, tables.Event)
        return {table.__tablename__: s.scalars(select(func.count()).select_from(table)).one() for table in of}


# ---------------------------------------------------------------------- claims


def test_two_controllers_never_hold_one_search(world: World) -> None:
    search = world.search().id

    def take(number: int) -> Claim | None:
        with world.database.write() as s:
            return searches.claim(s, search, f"c{number}", 60)

    with ThreadPoolExecutor(8) as pool:
        held = [claim for claim in pool.map(take, range(8)) if claim is not None]
    assert len(held) == 1


def test_a_claim_is_renewed_by_its_holder_and_passes_on_when_it_ran_out(world: World) -> None:
    search = world.search().id
    first = world.claim(search, "c1")
    assert world.claim(search, "c1") == first
    with world.database.write() as s:
        assert searches.claim(s, search, "c2", 60) is None
    expired = world.claim(search, "c1", lease_s=-1)
    taken = world.claim(search, "c2")
    assert taken.token > expired.token
    with world.database.write() as s:
        assert searches.claim(s, search, "c1", 60) is None


def test_a_released_search_is_free_at_once(world: World) -> None:
    search = world.search().id
    held = world.claim(search, "c1")
    with world.database.write() as s:
        searches.release(s, held)
    assert world.claim(search, "c2").token > held.token


def test_only_running_searches_are_claimed(world: World) -> None:
    search = world.search().id
    with world.database.write() as s:
        assert searches.running(s, "c1") == [search]
        searches.set_state(s, search, "pause")
        assert searches.running(s, "c1") == []
        assert searches.claim(s, search, "c1", 60) is None
        assert searches.claim(s, 99, "c1", 60) is None


# ---------------------------------------------------------------------- asks


def test_an_ask_stores_its_trials_and_queues_their_jobs(world: World) -> None:
    search = world.search().id
    genes = world.genes(5)
    ids = world.ask(search, genes)
    trials = world.trials(search)
    assert [trial.id for trial in trials] == ids
    assert [trial.number for trial in trials] == [1, 2, 3, 4, 5]
    assert [trial.genes for trial in trials] == genes.tolist()
    assert [trial.key for trial in trials] == world.space.keys(genes)
    assert {trial.state for trial in trials} == {State.QUEUED}
    with world.database.read() as s:
        assert searches.progress(s, search) == searches.Progress(
            state=SearchState.RUNNING,
            asks=1,
            trials=5,
            open=5,
            scored=0,
            counted=0,
            failures=0,
            completions=0,
            budget=100,
            batch=10,
            slack=0,
            max_failures=50,
        )
        jobs = queue.page(s, 10, kind=JobKind.EVALUATE).items
    assert sorted(job.trial or 0 for job in jobs) == ids


@pytest.mark.parametrize("wrong", ["token", "number", "state"])
def test_an_ask_of_yesterday_is_refused_whole(world: World, wrong: str) -> None:
    search = world.search().id
    claim = world.claim(search)
    if wrong == "token":
        claim = Claim(search, claim.token - 1)
    if wrong == "state":
        with world.database.write() as s:
            searches.set_state(s, search, "pause")
    before = _rows(world)
    with pytest.raises(Stale):
        world.ask(search, world.genes(3), ask=1 if wrong == "number" else 0, claim=claim)
    assert _rows(world) == before


def test_an_ask_that_fails_half_way_leaves_nothing(world: World) -> None:
    search = world.search().id
    claim = world.claim(search)
    before = _rows(world)
    items = tuple(Suggestion(row, "a test") for row in world.genes(2))
    good = {"error": {"mean": 0.5, "epistemic_std": 0.1, "std": 0.1}}
    bad = {"error": {"mean": math.nan, "epistemic_std": 0.1, "std": 0.1}}
    with pytest.raises(Invalid) as caught, world.database.write() as s:
        searches.record_ask(s, claim, 0, Suggestions(items), [good, bad], {}, {}, ["error"])
    assert caught.value.field == "predictions.1.error"
    assert _rows(world) == before


def test_the_same_ask_from_many_threads_is_stored_once(world: World) -> None:
    search = world.search().id
    claim = world.claim(search)
    genes = world.genes(4)

    def ask(_: int) -> bool:
        try:
            world.ask(search, genes, claim=claim)
        except Stale:
            return False
        return True

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(ask, range(6))) == 1
    assert _rows(world)["trials"] == 4


def test_asks_of_several_searches_share_architectures(world: World) -> None:
    ids = [world.search().id for _ in range(4)]
    claims = [world.claim(each) for each in ids]
    genes = world.genes(30)

    def ask(index: int) -> None:
        order = np.random.default_rng(index).permutation(30)
        world.ask(ids[index], genes[order], claim=claims[index])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(ask, range(4)))
    rows = _rows(world)
    assert (rows["trials"], rows["architectures"]) == (120, 30)


def test_an_ask_takes_few_statements_whatever_its_size(world: World) -> None:
    search = world.search(batch=100).id
    claim = world.claim(search)
    genes = world.genes(101)
    taken = []
    for ask, rows in enumerate((genes[:1], genes[1:])):
        with statements(world.database) as seen:
            world.ask(search, rows, ask=ask, claim=claim)
        taken.append(len(seen))
    assert taken[0] == taken[1] <= 25, taken


def test_an_empty_ask_is_stored_too(world: World) -> None:
    search = world.search().id
    assert world.ask(search, world.genes(0)) == []
    with world.database.read() as s:
        assert searches.progress(s, search).asks == 1


# ---------------------------------------------------------------------- reuse when a trial is made


def test_what_another_search_measured_is_not_paid_for_again(world: World) -> None:
    first, second = world.search().id, world.search().id
    genes = world.genes(4)
    world.ask(first, genes[:3])
    world.complete(world.lease())
    world.ask(second, genes)
    old, new = world.trials(first), world.trials(second)
    assert [trial.state for trial in new] == [State.SUCCEEDED] * 3 + [State.QUEUED]
    assert [trial.reused for trial in new] == [True] * 3 + [False]
    assert [trial.paid_s for trial in new] == [0.0] * 4
    assert [trial.metrics for trial in new[:3]] == [trial.metrics for trial in old]
    with world.database.read() as s:
        progress = searches.progress(s, second)
        assert searches.get(s, second).reused == 3
        assert studies.get(s, "study").measurements == 6
    assert (progress.counted, progress.completions, progress.open) == (3, 3, 1)
    assert len(world.lease()) == 1


def test_another_study_links_what_it_reuses(world: World) -> None:
    world.study(name="second", seed=5)
    world.study(name="third", objectives=[ObjectiveIn(metric="error"), ObjectiveIn(metric="params")])
    first = world.search().id
    genes = world.genes(3)
    world.ask(first, genes)
    world.complete(world.lease())
    before = _rows(world)["measurements"]
    for name in ("second", "third"):
        search = world.search(name).id
        world.ask(search, genes)
        assert world.states(search) == ["SUCCEEDED"] * 3
        with world.database.read() as s:
            assert studies.get(s, name).measurements == 6
    assert _rows(world)["measurements"] == before + 3  # the parameters, counted for the third


@pytest.mark.parametrize(
    "other",
    [
        {"metrics": ["loss"]},
        {"metrics": ["latency_ms"]},
        {"evaluator": {"name": "training", "options": {"epochs": 9}}},
    ],
)
def test_other_circumstances_are_measured_anew(world: World, other: dict[str, object]) -> None:
    world.study(name="second", **other)
    first, second = world.search().id, world.search("second").id
    genes = world.genes(2)
    world.ask(first, genes)
    world.complete(world.lease())
    world.ask(second, genes)
    assert world.states(second) == ["QUEUED"] * 2


def test_a_cheaper_evaluation_is_another(world: World) -> None:
    search = world.search().id
    claim = world.claim(search)
    genes = world.genes(2)
    world.ask(search, genes, claim=claim, fidelity=0.25)
    world.complete(world.lease())
    world.ask(search, genes, ask=1, claim=claim)
    assert world.states(search) == ["SUCCEEDED"] * 2 + ["QUEUED"] * 2


def test_what_can_be_counted_needs_no_worker_and_is_no_evaluation(world: World) -> None:
    search = world.search().id
    genes = world.genes(2)
    world.ask(search, genes, metrics=("macs",))
    trials = world.trials(search)
    assert [trial.metrics for trial in trials] == [{"macs": v} for v in world.space.cost(genes)["macs"].tolist()]
    with world.database.read() as s:
        progress = searches.progress(s, search)
        assert searches.get(s, search).hypervolume is None
    assert (progress.counted, progress.completions, progress.trials) == (0, 2, 2)


# ---------------------------------------------------------------------- what a designer sees


def test_a_snapshot_shows_the_search_as_arrays(world: World) -> None:
    world.study(
        name="bounded",
        objectives=[ObjectiveIn(metric="error", direction="maximise"), ObjectiveIn(metric="macs")],
        constraints=[ConstraintSpec(metric="params", upper=9000)],
    )
    search = world.search("bounded").id
    claim = world.claim(search)
    genes = world.genes(4)
    said = {"error": {"mean": 0.5, "epistemic_std": 0.1, "std": 0.2}}
    items = tuple(Suggestion(row, "a test", memo={"i": i}, probe=i == 1) for i, row in enumerate(genes))
    with world.database.write() as s:
        wanted = ["error", "macs", "params"]
        searches.record_ask(s, claim, 0, Suggestions(items, {"x": [1]}), [said] * 4, {"error": 7}, {}, wanted)
    leases = world.lease(3)
    world.complete(leases[1:2])
    world.fail(leases[2])
    with world.database.read() as s:
        seen = searches.snapshot(s, search)
    history, cost = seen.history, world.space.cost(genes)
    assert seen.completion == 2
    assert seen.pending == [1, 4]
    assert history.states.tolist() == ["QUEUED", "SUCCEEDED", "FAILED", "QUEUED"]
    assert np.array_equal(history.genes, genes)
    assert history.numbers.tolist() == [1, 2, 3, 4]
    assert history.asks.tolist() == [0] * 4
    expected = np.full((4, 2), np.nan)
    expected[1] = [-error_of(genes[1].tolist()), cost["macs"][1]]
    np.testing.assert_array_equal(history.objectives, expected)
    broken = max(0.0, float(cost["params"][1]) - 9000)
    np.testing.assert_array_equal(history.violations, [[np.nan], [broken], [np.nan], [np.nan]])
    np.testing.assert_array_equal(history.predicted, [[-0.5, np.nan]] * 4)
    assert history.probe.tolist() == [False, True, False, False]
    assert history.cost_s.tolist() == [0, 2, 0, 0]
    assert history.memo == tuple({"i": i} for i in range(4))
    assert history.state == {"x": [1]}
    assert [o.metric for o in seen.objectives] == ["error", "macs"]
    assert world.trials(search)[0].predicted["error"].predictor == 7


def test_an_ask_can_be_asked_again_from_what_it_had_seen(world: World) -> None:
    search = world.search(slack=5).id
    claim = world.claim(search)
    genes = world.genes(9)
    world.ask(search, genes[:4], claim=claim)
    leases = world.lease(3)
    world.complete([leases[2], leases[0]])
    with world.database.read() as s:
        live = searches.snapshot(s, search)
    world.ask(search, genes[4:6], ask=1, claim=claim)
    world.complete(leases[1:2])
    world.complete(world.lease())
    world.ask(search, genes[6:], ask=2, claim=claim)
    with world.database.read() as s:
        again = searches.snapshot(s, search, ask=1)
        first = searches.snapshot(s, search, ask=0)
        with pytest.raises(NotFound):
            searches.snapshot(s, search, ask=3)
    assert (again.completion, again.pending) == (live.completion, live.pending) == (2, [2, 4])
    for name in ("numbers", "asks", "genes", "states", "objectives", "cost_s", "probe"):
        np.testing.assert_array_equal(getattr(again.history, name), getattr(live.history, name), err_msg=name)
    assert again.history.state == live.history.state == {"ask": 0}
    assert len(first.history) == 0
    assert first.history.state == {}


def test_a_snapshot_of_nothing_is_empty(world: World) -> None:
    with world.database.read() as s:
        seen = searches.snapshot(s, world.search().id)
    assert len(seen.history) == 0
    assert seen.history.genes.shape == (0, len(world.space.choices))


# ---------------------------------------------------------------------- ends of searches


def test_a_cancelled_search_lets_nothing_wait(world: World) -> None:
    search = world.search().id
    claim = world.claim(search)
    world.ask(search, world.genes(4), claim=claim)
    busy = world.lease(1)
    with world.database.write() as s:
        searches.set_state(s, search, "cancel")
    assert world.states(search) == ["LEASED"] + ["CANCELLED"] * 3
    assert world.lease() == []
    with pytest.raises(Stale):
        world.ask(search, world.genes(2, seed=1), ask=1, claim=claim)
    # What was paid for is kept, though the worker had not heard yet.
    assert world.complete(busy)[0].accepted
    assert world.states(search)[0] == "SUCCEEDED"


def test_finish_needs_the_claim_and_happens_once(world: World) -> None:
    search = world.search().id
    claim = world.claim(search)

    def finish(held: Claim, state: SearchState = SearchState.DONE) -> None:
        with world.database.write() as s:
            searches.finish(s, held, state, "the budget is spent")

    with pytest.raises(Stale):
        finish(Claim(search, claim.token + 1))
    with pytest.raises(Conflict):
        finish(claim, SearchState.PAUSED)
    finish(claim)
    with pytest.raises(Stale):
        finish(claim)
    with world.database.read() as s:
        done = searches.get(s, search)
    assert (done.state, done.reason) == (SearchState.DONE, "the budget is spent")
    assert done.ended_at is not None


def test_a_paused_search_hands_out_nothing_until_it_goes_on(world: World) -> None:
    search = world.search().id
    world.ask(search, world.genes(2))
    with world.database.write() as s:
        searches.set_state(s, search, "pause")
    assert world.lease() == []
    with world.database.write() as s:
        searches.set_state(s, search, "resume")
    assert len(world.lease()) == 2


# ---------------------------------------------------------------------- predictors


@pytest.fixture
def fitted(world: World) -> tuple[World, int, Claim, int]:
    """A search with 6 measured trials, and a predictor fitted to the first 4 of them."""
    search = world.search().id
    claim = world.claim(search)
    genes = world.genes(6)
    world.ask(search, genes[:4], claim=claim)
    world.complete(world.lease())
    with world.database.write() as s:
        predictor = predictors.request(s, claim, 1, FitRequest("error", "boosting", {"trees": 5}), 4, 4, [0, 1, 1])
    world.ask(search, genes[4:], ask=1, claim=claim)
    return world, search, claim, predictor


def test_a_predictor_is_requested_once_per_ask_and_metric(fitted: tuple[World, int, Claim, int]) -> None:
    world, search, claim, predictor = fitted
    with world.database.write() as s:
        wanted = FitRequest("error", "boosting", {"trees": 5})
        assert predictors.request(s, claim, 1, wanted, 4, 4, [0, 1, 1]) == predictor
        assert [each.id for each in predictors.for_ask(s, search, 1)] == [predictor]
        assert predictors.for_ask(s, search, 2) == []
        assert [job.kind for job in queue.page(s, 10, kind=JobKind.FIT).items] == [JobKind.FIT]
    with pytest.raises(Stale), world.database.write() as s:
        predictors.request(s, Claim(search, claim.token - 1), 2, wanted, 4, 4, [0])


def test_a_fit_is_sent_the_trials_that_had_ended_by_then(fitted: tuple[World, int, Claim, int]) -> None:
    world, search, _, predictor = fitted
    fit = world.lease(1)[0]
    world.complete(world.lease())
    trials = world.trials(search)[:4]
    assert fit.kind is JobKind.FIT  # served before the evaluations that wait
    assert fit.payload["genes"] == [trial.genes for trial in trials]
    assert fit.payload["targets"] == [trial.metrics["error"] for trial in trials]
    assert fit.payload["seed"] == [0, 1, 1]
    with world.database.read() as s:
        genes, targets, ids, _ = predictors.training_rows(s, predictors.row(s, predictor))
    assert genes.tolist() == fit.payload["genes"]
    assert targets.tolist() == fit.payload["targets"]
    assert ids == [trial.id for trial in trials]


def test_an_audit_leaves_out_what_was_fitted(fitted: tuple[World, int, Claim, int]) -> None:
    world, search, _, predictor = fitted
    with pytest.raises(Conflict, match="QUEUED"), world.database.write() as s:
        predictors.audit(s, predictor, AuditIn(search=search))
    fit = world.lease(1)[0]
    with world.database.write() as s:
        artifacts.register(s, "a" * 64, 3)
        result = CompleteIn(job=fit.job, token=fit.token, result={"artifact": "a" * 64, "summary": {}}, seconds=1)
        queue.complete(s, [CompleteBatch(worker="w", results=[result])])
        assert predictors.get(s, predictor).state is State.SUCCEEDED
    with pytest.raises(Conflict, match="no architecture"), world.database.write() as s:
        predictors.audit(s, predictor, AuditIn(search=search))
    world.complete([lease for lease in world.lease() if lease.kind is JobKind.EVALUATE])
    with world.database.write() as s:
        job = predictors.audit(s, predictor, AuditIn(search=search))
    assert job.kind is JobKind.PREDICT
    payload = world.lease()[0].payload
    trials = world.trials(search)[4:]
    assert payload["genes"] == [trial.genes for trial in trials]
    assert payload["measured"] == [trial.metrics["error"] for trial in trials]


# ---------------------------------------------------------------------- events of an ask


def test_an_ask_tells_of_itself_and_of_its_trials(world: World) -> None:
    search = world.search().id
    world.ask(search, world.genes(2))
    with world.database.read() as s:
        told = events.after(s, 0, "study")
    kinds = [event.kind for event in told]
    assert kinds == ["study.created", "search.created", "ask", "trial.queued", "trial.queued"]
    assert {event.search for event in told[1:]} == {search}
    assert told[2].body == {"ask": 0, "trials": 2}


def test_time_does_not_pass_for_a_claim_that_is_renewed(world: World) -> None:
    search = world.search().id
    world.claim(search, lease_s=60)
    with world.database.read() as s:
        until = searches.row(s, search).leased_until
    world.claim(search, lease_s=600)
    with world.database.read() as s:
        later = searches.row(s, search).leased_until
    assert until is not None
    assert later is not None
    assert later - until > timedelta(seconds=500)


def test_reuse_measures_only_what_is_missing(world: World) -> None:
    world.study(name="second", metrics=["loss"])
    genes = world.genes(2)
    world.ask(world.search().id, genes)
    world.complete(world.lease())
    second = world.search("second").id
    world.ask(second, genes)
    leases = world.lease()
    assert [lease.payload["metrics"] for lease in leases] == [["loss"]] * 2
    world.complete(leases)
    for trial in world.trials(second):
        assert set(trial.metrics) == {"error", "macs", "loss"}
        assert trial.metrics["error"] == error_of(trial.genes)
        assert not trial.reused
