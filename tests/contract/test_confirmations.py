"""Confirmations, on both databases: measured again, paid for once, and seen by no search."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from service.core.errors import Conflict, Invalid, NotFound
from service.core.states import State
from service.db import artifacts, confirmations, front, jobs, queue, searches, spaces, studies, supernets
from service.db.session import Database
from service.wire.confirmations import ConfirmationOut, ConfirmIn
from service.wire.jobs import CompleteBatch, CompleteIn, JobKind, JobOut, Lease
from service.wire.spaces import SpaceIn, SupernetIn, Task
from service.wire.studies import ConstraintSpec, EvaluatorSpec, ObjectiveIn
from tests.world import TINY, World, error_of, measured

LUCK = 0.02
"""How much better the search's seed is than others on average, in these tests."""


def confirmed(lease: Lease) -> dict[str, float]:
    """Seeds 1, 2, 3 give what the search saw and LUCK − 0.01, LUCK, LUCK + 0.01."""
    error = error_of(lease.payload["genes"]) + LUCK + 0.01 * (lease.payload["seed"] - 2)
    return {name: {"error": error, "loss": 3 * error}[name] for name in lease.payload["metrics"]}


@pytest.fixture
def world(database: Database) -> World:
    return World(database).found()


FRONT = 11
"""A seed whose forty rows have a front of several."""


def searched(world: World, count: int = 40, seed: int = FRONT, **given: Any) -> int:
    """A search of which ``count`` trials are measured."""
    search = world.search(**given).id
    world.ask(search, world.genes(count, seed))
    world.complete(world.lease())
    return search


def confirm(world: World, search: int, **given: Any) -> ConfirmationOut:
    with world.database.write() as s:
        return confirmations.create(s, search, ConfirmIn(**given))


def shown(world: World, confirmation: int) -> ConfirmationOut:
    with world.database.read() as s:
        return confirmations.get(s, confirmation)


def evaluations(world: World) -> list[JobOut]:
    with world.database.read() as s:
        return [job for job in jobs.page(s, 1000, kind=JobKind.EVALUATE).items if job.trial is None]


def best_of(world: World, search: int) -> dict[str, float]:
    """Key → error of the search's front, found by comparing all pairs."""
    rows = {trial.key: (trial.metrics["error"], trial.metrics["macs"]) for trial in world.trials(search)}
    return {
        key: a[0] for key, a in rows.items() if not any(b[0] <= a[0] and b[1] <= a[1] and b != a for b in rows.values())
    }


# ---------------------------------------------------------------------- what is measured


def test_the_front_is_measured_again_on_seeds_that_no_trial_had(world: World) -> None:
    search = searched(world)
    best = best_of(world, search)
    asked = confirm(world, search, best=50, seeds=3)
    assert {each.key: each.selected["error"] for each in asked.architectures} == best
    assert [each.selected["error"] for each in asked.architectures] == sorted(best.values())
    assert (asked.done, asked.open, asked.failed) == (0, 3 * len(best), 0)
    assert asked.drops[0].words == "Nothing is known of error yet."
    leases = world.lease()
    assert len(leases) == 3 * len(best)
    assert studies.EVALUATION_SEED not in asked.seeds
    assert sorted(each.payload["seed"] for each in leases) == sorted(asked.seeds * len(best))
    assert {tuple(each.payload["metrics"]) for each in leases} == {("error",)}
    assert {each.payload["evaluator"]["name"] for each in leases} == {"training"}
    assert len(world.trials(search)) == 40


def test_values_drops_and_intervals_are_as_by_hand(world: World) -> None:
    search = searched(world)
    asked = confirm(world, search, best=50)
    world.complete(world.lease(), confirmed)
    found = shown(world, asked.id)
    assert (found.open, found.failed, found.done) == (0, 0, 3 * len(found.architectures))
    for each in found.architectures:
        (one,) = each.metrics
        assert one.selected == each.selected["error"]
        assert [(v.seed, round(v.value - one.selected, 9)) for v in one.values] == [(1, 0.01), (2, 0.02), (3, 0.03)]
        assert one.mean == pytest.approx(one.selected + LUCK)
        assert one.drop == pytest.approx(LUCK)
        # Student's t of two degrees of freedom, 97.5 %: 4.3027; standard deviation 0.01, three values.
        assert one.ci_low is not None
        assert one.ci_high is not None
        assert one.ci_high - one.mean == pytest.approx(4.302653 * 0.01 / 3**0.5, rel=1e-5)
        assert one.mean - one.ci_low == pytest.approx(one.ci_high - one.mean)
    (drop,) = found.drops
    assert drop.architectures == len(found.architectures)
    assert drop.drop == pytest.approx(LUCK)
    assert drop.kendall_tau == pytest.approx(1.0)
    assert drop.words.startswith("Measured again, error is on average 2 percentage points higher (worse) than")
    assert found.same_protocol
    assert "protocol" not in drop.words


def test_one_seed_has_no_interval_and_a_gain_is_a_negative_drop(world: World) -> None:
    search = searched(world)
    asked = confirm(world, search, best=2, seeds=1)
    world.complete(world.lease(), lambda lease: {"error": error_of(lease.payload["genes"]) - 0.01})
    found = shown(world, asked.id)
    for each in found.architectures:
        assert each.metrics[0].drop == pytest.approx(-0.01)
        assert (each.metrics[0].ci_low, each.metrics[0].ci_high) == (None, None)
    assert "1 percentage points lower (better) than" in found.drops[0].words
    assert found.drops[0].kendall_tau is None


def test_a_maximised_metric_drops_when_it_falls(database: Database) -> None:
    accuracy = ObjectiveIn(metric="accuracy", direction="maximise", bounds=(1.0, 0.0))
    world = World(database).found(objectives=[accuracy])
    search = world.search().id
    world.ask(search, world.genes(6))
    world.complete(world.lease(), lambda lease: {"accuracy": 1 - error_of(lease.payload["genes"])})
    best = sorted((trial.metrics["accuracy"] for trial in world.trials(search)), reverse=True)[:3]
    asked = confirm(world, search, best=3, seeds=2)
    assert [each.selected["accuracy"] for each in asked.architectures] == best
    world.complete(world.lease(), lambda lease: {"accuracy": 0.9 - error_of(lease.payload["genes"])})
    (drop,) = shown(world, asked.id).drops
    assert drop.drop == pytest.approx(0.1)
    assert "0.1 lower (worse) than" in drop.words


def test_an_evaluator_that_ignores_the_seed_is_called_so(world: World) -> None:
    asked = confirm(world, searched(world), best=2)
    world.complete(world.lease(), measured)
    (drop,) = shown(world, asked.id).drops
    assert drop.drop == 0
    assert "does not depend on it" in drop.words


def test_no_front_and_no_search_sees_what_was_confirmed(world: World) -> None:
    search = searched(world)
    with world.database.read() as s:
        before = front.front(s, "study"), searches.snapshot(s, search).history, searches.get(s, search)
    confirm(world, search)
    world.complete(world.lease(), lambda lease: {"error": 0.001})
    with world.database.read() as s:
        after = front.front(s, "study"), searches.snapshot(s, search).history, searches.get(s, search)
        assert studies.get(s, "study").measurements > 0
    assert after[0] == before[0]
    np.testing.assert_array_equal(after[1].objectives, before[1].objectives)
    assert after[2] == before[2]


# ---------------------------------------------------------------------- once


def test_the_same_request_is_the_same_confirmation(world: World) -> None:
    search = searched(world)
    first = confirm(world, search, best=3)
    assert confirm(world, search, best=3) == first
    assert len(evaluations(world)) == 9
    world.complete(world.lease(), confirmed)
    again = confirm(world, search, best=3)
    assert (again.id, again.open, again.done) == (first.id, 0, 9)
    assert len(evaluations(world)) == 9
    assert confirm(world, search, best=3, seeds=2).id != first.id
    with world.database.read() as s:
        page = confirmations.page(s, search, 1)
        assert [each.seeds for each in page.items] == [[1, 2]]
        assert [each.id for each in confirmations.page(s, search, 5, page.next_page_token).items] == [first.id]


def test_confirmations_share_what_waits_and_what_is_known(world: World) -> None:
    search = searched(world)
    confirm(world, search, best=2, seeds=2)
    assert len(evaluations(world)) == 4
    confirm(world, search, best=3, seeds=2)
    assert len(evaluations(world)) == 6
    world.complete(world.lease(), confirmed)
    larger = confirm(world, search, best=3, seeds=3)
    assert (larger.done, larger.open) == (6, 3)


def test_another_study_pays_nothing_for_it(world: World) -> None:
    search = searched(world)
    confirm(world, search)
    world.complete(world.lease(), confirmed)
    paid = len(evaluations(world))
    world.study(name="again", seed=5)
    second = world.search("again").id
    world.ask(second, world.genes(40, FRONT))
    asked = confirm(world, second)
    assert (asked.open, asked.done) == (0, paid)
    assert len(evaluations(world)) == paid
    with world.database.read() as s:
        contexts = [each.context for each in front.measurements(s, "again", 1000).items]
    assert {1, 2, 3} <= {context.get("seed") for context in contexts}


def test_new_results_make_a_new_confirmation(world: World) -> None:
    search = searched(world)
    first = confirm(world, search, best=50)
    world.complete(world.lease(), confirmed)
    world.ask(search, world.genes(60, seed=1), ask=1)
    while leases := world.lease():
        world.complete(leases)
    second = confirm(world, search, best=50)
    assert second.id != first.id
    assert {each.key for each in second.architectures} == set(best_of(world, search))
    assert shown(world, first.id).architectures[0].key == first.architectures[0].key


def test_what_failed_is_told_and_tried_again_but_not_what_is_infeasible(world: World) -> None:
    search = searched(world)
    asked = confirm(world, search, best=3, seeds=2)
    failing, infeasible, *rest = world.lease()
    world.fail(failing, reason="out of luck")
    world.fail(infeasible, State.INFEASIBLE, reason="it diverged")
    world.complete(rest, confirmed)
    found = shown(world, asked.id)
    assert (found.done, found.open, found.failed) == (4, 0, 2)
    assert {(each.job, each.state, each.reason) for each in found.failures} == {
        (failing.job, State.FAILED, "out of luck"),
        (infeasible.job, State.INFEASIBLE, "it diverged"),
    }
    again = confirm(world, search, best=3, seeds=2)
    assert (again.id, again.open, again.failed) == (asked.id, 1, 1)
    (retried,) = world.lease()
    assert retried.payload["genes"] == failing.payload["genes"]
    assert retried.payload["seed"] == failing.payload["seed"]
    world.complete([retried], confirmed)
    assert (shown(world, asked.id).done, shown(world, asked.id).failed) == (5, 1)


def test_a_search_that_pauses_or_ends_leaves_its_confirmation_alone(world: World) -> None:
    search = searched(world)
    asked = confirm(world, search, best=2, seeds=1)
    with world.database.write() as s:
        searches.set_state(s, search, "pause")
    first, second = world.lease()
    world.fail(first, State.QUEUED, failure="drained")
    with world.database.write() as s:
        searches.set_state(s, search, "cancel")
    world.complete([second, *world.lease()], confirmed)
    assert shown(world, asked.id).done == 2


# ---------------------------------------------------------------------- what is chosen


def test_of_a_long_front_those_that_add_most_volume_are_chosen(world: World) -> None:
    def larger_is_better(lease: Lease) -> dict[str, float]:
        genes = np.array([lease.payload["genes"]], dtype=np.int8)
        return {"error": 0.8 - 1e-6 * float(world.space.cost(genes)["macs"][0]) - 0.1 * error_of(genes[0].tolist())}

    search = world.search().id
    world.ask(search, world.genes(40))
    world.complete(world.lease(), larger_is_better)
    best = best_of(world, search)
    assert len(best) > 5
    with world.database.read() as s:
        study = studies.row(s, "study")
        bounds = [each.bounds for each in studies.objectives(study)]
    rows = {trial.key: trial.metrics for trial in world.trials(search) if trial.key in best}

    def area(keys: Sequence[str]) -> float:
        """Dominated by (error, macs), scaled, up to 1.1, as strips from left to right."""
        scaled = sorted(
            tuple(
                (rows[key][name] - low) / (high - low)
                for name, (low, high) in zip(("error", "macs"), bounds, strict=True)
            )
            for key in keys
        )
        edges = [x for x, _ in scaled[1:]] + [1.1]
        return sum((edge - x) * (1.1 - y) for (x, y), edge in zip(scaled, edges, strict=True))

    loss = {key: area(list(best)) - area([other for other in best if other != key]) for key in best}
    asked = confirm(world, search, best=3, seeds=1)
    assert {each.key for each in asked.architectures} == set(sorted(loss, key=lambda key: -loss[key])[:3])


def test_constraints_and_cheap_evaluations_keep_architectures_out(database: Database) -> None:
    world = World(database).found(constraints=[ConstraintSpec(metric="error", lower=0.3)])
    search = world.search().id
    genes = world.genes(20)
    world.ask(search, genes[:14])
    world.ask(search, genes[14:], ask=1, fidelity=0.5)
    world.complete(world.lease())
    full = [trial for trial in world.trials(search) if trial.fidelity == 1.0]
    asked = confirm(world, search, best=50, seeds=1)
    assert {each.key for each in asked.architectures} <= {t.key for t in full if t.metrics["error"] >= 0.3}
    assert min(each.selected["error"] for each in asked.architectures) == min(
        t.metrics["error"] for t in full if t.metrics["error"] >= 0.3
    )


# ---------------------------------------------------------------------- how it is measured


def test_another_evaluator_measures_in_its_own_circumstances(database: Database) -> None:
    world = World(database)
    with database.write() as s:
        spaces.create(s, SpaceIn(name="tiny", plugin="mobilenetv3", options=TINY))
    world.worker("w", evaluators=["training", "supernet"])
    weights = "a" * 64
    with database.write() as s:
        supernets.create(s, SupernetIn(name="net", space="tiny", task=Task(dataset="digits")))
        supernets.train(s, "net")
        artifacts.register(s, weights, 10)
    (training,) = world.lease()
    with database.write() as s:
        done = CompleteIn(
            job=training.job, token=training.token, result={"weights": weights, "summary": {}}, seconds=9.0
        )
        queue.complete(s, [CompleteBatch(worker="w", results=[done])])
    world.study(supernet="net", evaluator=EvaluatorSpec(name="supernet"))
    search = searched(world)
    scratch = EvaluatorSpec(name="training", options={"epochs": 3})
    asked = confirm(world, search, best=3, seeds=2, evaluator=scratch)
    leases = world.lease()
    assert {each.payload["evaluator"]["name"] for each in leases} == {"training"}
    assert {each.payload["weights"] for each in leases} == {None}
    world.complete(leases, confirmed)
    found = shown(world, asked.id)
    assert (found.done, found.same_protocol) == (6, False)
    assert "measured by supernet, the confirmation by training" in found.drops[0].words
    with database.read() as s:
        contexts = [each.context for each in front.measurements(s, "study", 1000).items if each.context.get("seed")]
    assert all(c["weights"] is None and c["options"] == {"epochs": 3} for c in contexts)
    assert len(contexts) == 6
    # As in the study, and with other options: the weights stay.
    for given in ({}, {"evaluator": EvaluatorSpec(name="supernet", options={"recalibration_images": 64})}):
        confirm(world, search, best=1, seeds=1, **given)
        (lease,) = world.lease()
        assert lease.payload["weights"] == weights
        world.complete([lease], confirmed)


@pytest.mark.parametrize(
    ("given", "field", "words"),
    [
        ({"metrics": ["error", "macs"]}, "metrics.1", "does not depend on a seed"),
        ({"metrics": ["loss"]}, "metrics.0", "is not measured by study 'study'"),
        ({"evaluator": EvaluatorSpec(name="nothing")}, "evaluator.name", "no evaluator named 'nothing'"),
    ],
)
def test_what_cannot_be_confirmed_names_its_field(
    world: World, given: Mapping[str, Any], field: str, words: str
) -> None:
    search = searched(world)
    with pytest.raises(Invalid, match=words) as caught:
        confirm(world, search, **given)
    assert caught.value.field == field
    assert evaluations(world) == []


def test_conflicts_say_what_is_missing(world: World) -> None:
    empty = world.search().id
    with pytest.raises(Conflict, match="nothing to confirm yet"):
        confirm(world, empty)
    with pytest.raises(Conflict, match="no trained super-network"):
        confirm(world, searched(world), evaluator=EvaluatorSpec(name="supernet"))
    with pytest.raises(Conflict, match="a table holds one value"):
        confirm(world, searched(world, seed=2), evaluator=EvaluatorSpec(name="table"))
    world.study(name="counted", objectives=[ObjectiveIn(metric="macs")])
    with pytest.raises(Conflict, match="no objective of study 'counted' depends on a seed"):
        confirm(world, world.search("counted").id)
    assert evaluations(world) == []


def test_a_pipelines_function_is_waited_for(world: World) -> None:
    search = searched(world)
    confirm(world, search, best=1, seeds=1, evaluator=EvaluatorSpec(name="external"))
    assert world.lease() == []
    world.worker("f", datasets=[], evaluators=["external"])
    (lease,) = world.lease(worker="f")
    assert lease.payload["evaluator"]["name"] == "external"


def test_unknown_ids_are_not_found(world: World) -> None:
    calls: list[Callable[[Any], object]] = [
        lambda s: confirmations.create(s, 9, ConfirmIn()),
        lambda s: confirmations.get(s, 9),
        lambda s: confirmations.page(s, 9, 10),
        lambda s: searches.extend(s, 9, 10),
    ]
    for call in calls:
        with pytest.raises(NotFound), world.database.write() as s:
            call(s)
