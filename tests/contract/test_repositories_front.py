"""What a study shows of what it found, on both databases, held to plain recomputations."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from predictors.ranking import kendall_tau
from service.core.errors import Conflict, NotFound
from service.core.objectives import Objective
from service.core.pareto import hypervolume as volume
from service.core.states import State
from service.db import artifacts, exports, front, queue, searches, studies, supernets
from service.db.session import Database
from service.search.designer import Suggestion, Suggestions
from service.wire.jobs import CompleteBatch, CompleteIn, JobKind
from service.wire.searches import TrialOut
from service.wire.spaces import SupernetIn, Task
from service.wire.studies import ConstraintSpec, EvaluatorSpec, ExportIn, ObjectiveIn
from tests.world import World, error_of, statements


@pytest.fixture
def world(database: Database) -> World:
    return World(database).found()


@pytest.fixture
def search(world: World) -> int:
    """A search with 30 measured trials and one that failed."""
    search = world.search(batch=31).id
    world.ask(search, world.genes(31))
    leases = world.lease()
    world.fail(leases[30])
    world.complete(leases[:30])
    return search


def _best(trials: list[TrialOut], metrics: tuple[str, str]) -> set[str]:
    """Keys of the trials that no other is at least as good as, and better than once."""
    rows = [(t.key, t.metrics[metrics[0]], t.metrics[metrics[1]]) for t in trials if t.state is State.SUCCEEDED]
    return {key for key, x, y in rows if not any(a <= x and b <= y and (a, b) != (x, y) for _, a, b in rows)}


def test_the_front_is_what_no_other_dominates(world: World, search: int) -> None:
    trials = world.trials(search)
    with world.database.read() as s:
        found = front.front(s, "study")
        objectives = studies.objectives(studies.row(s, "study"))
    by_key = {trial.key: trial for trial in trials}
    assert {point.key for point in found.points} == _best(trials, ("error", "macs"))
    assert 1 < len(found.points) < 30
    assert found.candidates == 30
    assert found.metrics == ["error", "macs"]
    for point in found.points:
        trial = by_key[point.key]
        assert (point.trial, point.search, point.config) == (trial.id, 1, trial.config)
        assert point.test_metrics == {}
        assert {name: point.metrics[name] for name in trial.metrics} == trial.metrics
    assert all(a.metrics["error"] < b.metrics["error"] for a, b in pairwise(found.points))
    values = np.array([[p.metrics["error"], p.metrics["macs"]] for p in found.points])
    assert found.hypervolume == pytest.approx(volume(objectives, values))
    assert [o.metric for o in found.scaling] == ["error", "macs"]


def test_the_curve_ends_at_the_hypervolume_of_the_search(world: World, search: int) -> None:
    world.search()
    trials = world.trials(search)[:30]
    with world.database.read() as s:
        curve, empty = front.hypervolume(s, "study")
        objectives = studies.objectives(studies.row(s, "study"))
        shown = searches.get(s, search).hypervolume
    assert curve.evaluations == list(range(1, 31))
    values = np.array([[t.metrics["error"], t.metrics["macs"]] for t in trials])
    for index in (0, 9, 29):
        assert curve.hypervolume[index] == pytest.approx(volume(objectives, values[: index + 1]))
    assert curve.hypervolume[-1] == pytest.approx(shown)
    assert (empty.search, empty.evaluations, empty.hypervolume) == (2, [], [])


def test_constraints_bind_the_front_and_the_hypervolume(world: World) -> None:
    macs = np.sort(world.space.cost(world.genes(30))["macs"])
    limit = float(macs[15])
    world.study(name="small", constraints=[ConstraintSpec(metric="macs", upper=limit)])
    search = world.search("small", batch=30).id
    world.ask(search, world.genes(30))
    world.complete(world.lease())
    trials = [trial for trial in world.trials(search) if trial.metrics["macs"] <= limit]
    with world.database.read() as s:
        found = front.front(s, "small")
        curve = front.hypervolume(s, "small")[0]
    assert {point.key for point in found.points} == _best(trials, ("error", "macs"))
    assert found.candidates == len(trials) < 30
    assert curve.hypervolume[-1] == pytest.approx(found.hypervolume)


def test_other_metrics_span_another_front(world: World) -> None:
    world.study(name="wide", metrics=["params", "loss"])
    search = world.search("wide", batch=20).id
    world.ask(search, world.genes(20))
    world.complete(world.lease())
    trials = world.trials(search)
    with world.database.read() as s:
        found = front.front(s, "wide", ["params", "loss"])
        same = front.front(s, "wide", ["macs", "error"])
        nothing = front.front(s, "wide", ["error", "latency_ms"])
    assert {point.key for point in found.points} == _best(trials, ("params", "loss"))
    assert found.hypervolume is None
    assert same.hypervolume is not None
    assert [point.metrics["macs"] for point in same.points] == sorted(point.metrics["macs"] for point in same.points)
    assert (nothing.points, nothing.candidates, nothing.hypervolume) == ([], 0, None)


def test_what_is_maximised_is_maximised(world: World) -> None:
    objectives = [ObjectiveIn(metric="error", direction="maximise"), ObjectiveIn(metric="macs")]
    world.study(name="worst", objectives=objectives)
    search = world.search("worst", batch=20).id
    world.ask(search, world.genes(20))
    world.complete(world.lease())
    with world.database.read() as s:
        found = front.front(s, "worst")
    highest = max(trial.metrics["error"] for trial in world.trials(search))
    assert found.points[0].metrics["error"] == highest


def test_replicates_are_averaged_on_the_front(world: World) -> None:
    search = world.search().id
    world.ask(search, world.genes(2))
    late = world.lease(1)[0]
    with world.database.write() as s:
        queue.expire(s, late.expires_at.replace(year=late.expires_at.year + 1))
    again = world.lease(1)[0]
    world.complete([late], lambda _: {"error": 0.2})
    world.complete([again], lambda _: {"error": 0.4})
    with world.database.read() as s:
        found = front.front(s, "study")
        shown = front.architecture(s, "study", world.trials(search)[0].key)
    assert [point.metrics["error"] for point in found.points] == [pytest.approx(0.3)]
    assert shown.metrics["error"] == pytest.approx(0.3)
    assert world.trials(search)[0].metrics["error"] == 0.4


def test_an_empty_study_has_an_empty_front(world: World) -> None:
    with world.database.read() as s:
        found = front.front(s, "study")
        assert (found.points, found.hypervolume, found.candidates) == ([], None, 0)
        assert front.hypervolume(s, "study") == []
        assert front.predicted(s, "study", "error").points == []


def test_the_front_takes_few_statements_whatever_its_size(world: World, search: int) -> None:
    counts = []
    with world.database.read() as s:
        front.front(s, "study")  # reads what is measured
    for metrics in (["macs"], ["error", "macs"]):
        with world.database.read() as s, statements(world.database) as seen:
            points = front.front(s, "study", metrics).points
        counts.append((len(points), len(seen)))
    assert counts[0][0] == 1 < counts[1][0]
    assert counts[0][1] == counts[1][1] <= 12, counts


# ---------------------------------------------------------------------- architectures


def test_an_architecture_is_shown_with_its_graph(world: World, search: int) -> None:
    trials = world.trials(search)
    best = _best(trials, ("error", "macs"))
    for trial in (next(t for t in trials if t.key in best), next(t for t in trials[:30] if t.key not in best)):
        with world.database.read() as s:
            shown = front.architecture(s, "study", trial.key)
        assert (shown.config, shown.genes, shown.on_front) == (trial.config, trial.genes, trial.key in best)
        assert {name: shown.metrics[name] for name in trial.metrics} == trial.metrics
        nodes, edges = shown.graph["nodes"], shown.graph["edges"]
        assert all(isinstance(node, str) for node in nodes)
        assert all(0 <= a < b < len(nodes) for a, b in edges)
        assert len(edges) >= len(nodes) - 1


# ---------------------------------------------------------------------- predictions


def test_predictions_are_held_against_measurements(world: World) -> None:
    search = world.search(batch=40).id
    claim = world.claim(search)
    genes = world.genes(40)
    rng = np.random.default_rng(0)
    errors = np.array([error_of(row) for row in genes.tolist()])
    means = errors + rng.normal(0, 0.1, 40)
    for ask in (0, 1):
        rows = slice(20 * ask, 20 * ask + 20)
        items = tuple(Suggestion(row, "a test", probe=i % 2 == 0) for i, row in enumerate(genes[rows]))
        said = [{"error": {"mean": m, "epistemic_std": 0.1, "std": 0.2}} for m in means[rows].tolist()]
        with world.database.write() as s:
            searches.record_ask(s, claim, ask, Suggestions(items), said, {"error": 1}, {}, ["error", "macs"])
        world.complete(world.lease())
    with world.database.read() as s:
        found = front.predicted(s, "study", "error")
        assert front.predicted(s, "study", "error", search) == found
        nothing = front.predicted(s, "study", "macs")
    assert [(p.predicted, p.measured, p.std) for p in found.points] == [
        (m, e, 0.2) for m, e in zip(means.tolist(), errors.tolist(), strict=True)
    ]
    probe = np.arange(40) % 2 == 0
    rng = np.random.default_rng(0)
    tau = kendall_tau(means[probe], errors[probe], rng, n_boot=10).value
    macs = world.space.cost(genes)["macs"]
    assert found.probes.n == 20
    assert found.probes.kendall_tau == pytest.approx(tau)
    assert found.probes.ci_low is not None
    assert found.probes.ci_low < tau
    # Counting says that the larger network has the smaller error.
    by_macs = kendall_tau(-macs[probe], errors[probe], rng, n_boot=10).value
    assert found.probes.macs_tau == pytest.approx(by_macs)
    right, pairs = 0, 0
    for ask in (0, 1):
        rows = [i for i in range(20 * ask, 20 * ask + 20) if not probe[i]]
        for i in rows:
            for j in rows:
                if errors[i] < errors[j]:
                    pairs, right = pairs + 1, right + (means[i] < means[j])
    assert found.chosen_concordance == pytest.approx(right / pairs)
    assert (nothing.points, nothing.probes.kendall_tau, nothing.chosen_concordance) == ([], None, None)


# ---------------------------------------------------------------------- the test split, and exports


def test_the_front_is_tested_once_and_no_search_sees_it(world: World, search: int) -> None:
    with world.database.write() as s:
        points = front.front(s, "study").points
        jobs = exports.test_front(s, "study")
        assert {job.id for job in exports.test_front(s, "study")} == {job.id for job in jobs}
    assert len(jobs) == len(points)
    assert all(job.trial is None for job in jobs)
    leases = world.lease()
    assert {lease.payload["split"] for lease in leases} == {"test"}
    assert {tuple(lease.payload["metrics"]) for lease in leases} == {("error",)}
    before = world.trials(search)
    world.complete(leases[:-1], lambda _: {"error": 0.77})
    world.fail(leases[-1])
    assert world.trials(search) == before
    with world.database.write() as s:
        tested = front.front(s, "study").points
        assert len(exports.test_front(s, "study")) == 1  # the one that failed
    assert [point.metrics for point in tested] == [point.metrics for point in points]
    assert sorted(str(point.test_metrics) for point in tested) == ["{'error': 0.77}"] * (len(points) - 1) + ["{}"]


def test_an_export_needs_trained_weights_and_a_known_key(world: World, search: int) -> None:
    key = world.trials(search)[0].key
    with pytest.raises(Conflict, match="super-network"), world.database.write() as s:
        exports.export(s, "study", key, ExportIn())
    with pytest.raises(NotFound), world.database.write() as s:
        exports.export(s, "study", "0" * 32, ExportIn())


def test_an_export_is_made_once(world: World, search: int) -> None:
    with world.database.write() as s:
        supernets.create(s, SupernetIn(name="net", space="tiny", task=Task(dataset="digits")))
        artifacts.register(s, "a" * 64, 10)
        train = supernets.train(s, "net")
    lease = world.lease(1)[0]
    assert lease.job == train.id
    trained = CompleteIn(job=lease.job, token=1, result={"weights": "a" * 64, "summary": {}}, seconds=1)
    with world.database.write() as s:
        queue.complete(s, [CompleteBatch(worker="w", results=[trained])])
    world.study(name="shared", supernet="net", evaluator=EvaluatorSpec(name="supernet"))
    key = world.trials(search)[0].key
    with world.database.write() as s:
        first = exports.export(s, "shared", key, ExportIn())
        assert exports.export(s, "shared", key, ExportIn(formats=["torch", "onnx"])).id == first.id
        assert exports.export(s, "shared", key, ExportIn(formats=["onnx"])).id != first.id
    exported = world.lease(1)[0]
    assert (exported.kind, exported.job) == (JobKind.EXPORT, first.id)
    assert exported.payload["weights"] == "a" * 64
    assert exported.payload["genes"] == world.trials(search)[0].genes
    world.fail(exported)
    with world.database.write() as s:
        assert exports.export(s, "shared", key, ExportIn()).id != first.id


def test_objectives_of_a_stored_study_are_those_it_was_made_with(world: World) -> None:
    with world.database.read() as s:
        stored = studies.objectives(studies.row(s, "study"))
    assert [type(each) for each in stored] == [Objective, Objective]
    assert stored[0].bounds == (0.0, 0.9)
