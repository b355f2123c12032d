"""Tables as evaluators: what a study holds is replayed for another study, or for itself."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from search_spaces.space import Genes
from service.core.errors import Infeasible, Invalid
from service.core.states import State
from service.db import architectures, cloning, exports, front, ledger, queue, spaces, studies, workers
from service.db.session import Database
from service.evaluation.handler import handle
from service.evaluation.toolbox import Artifacts, Toolbox
from service.wire.base import Json
from service.wire.jobs import CompleteBatch, Completed, CompleteIn, JobKind, Lease
from service.wire.spaces import SpaceIn, Task
from service.wire.studies import CloneIn, EvaluatorSpec, ObjectiveIn
from tests.world import TINY, World, error_of

LATENCY = ObjectiveIn(metric="latency_ms", bounds=(0, 10))


@pytest.fixture
def world(database: Database) -> World:
    """The study `study` was measured by workers; the worker `r` can replay and has nothing else."""
    made = World(database).found()
    made.worker("r", kinds=[JobKind.REPLAY], datasets=[], evaluators=[])
    return made


def table(**options: Any) -> EvaluatorSpec:
    return EvaluatorSpec(name="table", options=options)


def fill(world: World, study: str, genes: Genes, values: Sequence[Mapping[str, float]], **given: Any) -> None:
    """Measurements of a study, as an import makes them: one entry per row."""
    with world.database.write() as s:
        stored = studies.row(s, study)
        device, seconds = given.get("device"), given.get("seconds", 0.0)
        found = studies.circumstances(s, stored, device=device)
        ids = architectures.ensure(s, world.space, genes)
        ledger.record_all(
            s,
            [
                ledger.Entry(each, found, dict(row), seconds=seconds, study_id=stored.id)
                for each, row in zip(ids, values, strict=True)
            ],
        )


def errors(genes: Genes) -> list[dict[str, float]]:
    return [{"error": error_of(row.tolist())} for row in genes]


def replay(world: World, leases: Sequence[Lease]) -> None:
    """What a worker does with replays."""

    def no_file(_: object) -> Any:
        raise AssertionError("a replay needs no file")

    toolbox = Toolbox(Artifacts(no_file, no_file), {}, "cpu", device_name="cpu-r")
    for lease in leases:
        assert lease.kind is JobKind.REPLAY
        try:
            result = handle(lease.kind, lease.payload, toolbox, lambda *_: None)
        except Infeasible as error:
            world.fail(lease, State.INFEASIBLE, "infeasible", reason=error.message)
        else:
            send(world, lease, result)


def send(world: World, lease: Lease, result: Json) -> Completed:
    given = CompleteIn(job=lease.job, token=lease.token, result=result, seconds=0.01)
    with world.database.write() as s:
        return queue.complete(s, [CompleteBatch(worker="r", results=[given])])[0].items[0]


def test_a_table_is_replayed_by_a_worker_that_has_nothing(world: World) -> None:
    genes = world.genes(3)
    fill(world, "study", genes, errors(genes), seconds=30.0)
    fill(world, "study", genes, [{"error": row["error"] + 0.1} for row in errors(genes)], seconds=10.0)
    world.study(name="copy", evaluator=table(study="study"))
    search = world.search("copy")
    world.ask(search.id, genes)
    leases = world.lease(worker="r")
    assert [lease.payload["seconds"] for lease in leases] == [20.0] * 3
    replay(world, leases)
    for trial in world.trials(search.id):
        assert trial.state is State.SUCCEEDED
        assert trial.metrics["error"] == pytest.approx(error_of(trial.genes) + 0.05)  # the mean of two replicates
        assert trial.metrics["macs"] > 0
        assert trial.paid_s == pytest.approx(20.0)  # what it had cost, on average
        assert not trial.reused
    with world.database.read() as s:
        assert front.front(s, "copy").candidates == 3
        found = front.measurements(s, "copy", 100).items
    assert {each.context.get("evaluator") for each in found} == {"table", None}
    # Again, and with other objectives: the copy's values are in the ledger by now.
    again = world.search("copy")
    world.ask(again.id, genes)
    assert [trial.reused for trial in world.trials(again.id)] == [True] * 3


def test_what_the_table_lacks_is_infeasible(world: World) -> None:
    genes = world.genes(3)
    fill(world, "study", genes[:2], errors(genes[:2]))
    world.study(name="copy", evaluator=table(study="study"), metrics=["loss"])
    search = world.search("copy")
    world.ask(search.id, genes)
    replay(world, world.lease(worker="r"))
    trials = world.trials(search.id)
    assert [trial.state for trial in trials] == [State.INFEASIBLE] * 3
    assert trials[0].reason == "not in the table of study 'study': metric loss"
    assert trials[2].reason == "not in the table of study 'study': metric error, loss"


@pytest.mark.parametrize("name", ["latency_ms", "latency_ms@gpu-b", "energy_mj@gpu-b"])
def test_metrics_of_a_device_are_replayed_by_any_worker(world: World, name: str) -> None:
    genes = world.genes(2)
    world.study(name="timed", objectives=[ObjectiveIn(metric=name, direction="minimise", bounds=(0, 10))])
    fill(world, "timed", genes, [{name: 3.0}, {name: 5.0}], device="gpu-b")
    fill(world, "timed", world.genes(1, seed=5), [{name: 9.0}], device="other" if "@" not in name else "gpu-b")
    world.study(
        name="copy",
        objectives=[ObjectiveIn(metric="error"), ObjectiveIn(metric=name, direction="minimise", bounds=(0, 10))],
        evaluator=table(study="timed"),
    )
    fill(world, "timed", genes, errors(genes))
    search = world.search("copy")
    world.ask(search.id, genes)
    replay(world, world.lease(worker="r"))
    assert [trial.metrics[name] for trial in world.trials(search.id)] == [3.0, 5.0]
    with world.database.read() as s:
        kept = [each for each in front.measurements(s, "copy", 100).items if each.metric == name]
    assert {each.context["device"] for each in kept} == {"gpu-b"}
    assert len({each.id for each in kept}) == 2  # those of the table, not copies of them


def test_unknown_metrics_and_scores_are_replayed(world: World) -> None:
    genes = world.genes(2)
    objectives = [ObjectiveIn(metric="f1", direction="maximise", bounds=(1, 0)), ObjectiveIn(metric="params")]
    fill(world, "study", genes, [{"f1": 0.5, "synflow": 2.0}, {"f1": 0.75, "synflow": 3.0}])
    world.study(name="copy", objectives=objectives, metrics=["synflow"], evaluator=table(study="study"))
    search = world.search("copy")
    world.ask(search.id, genes)
    replay(world, world.lease(worker="r"))
    assert [(t.metrics["f1"], t.metrics["synflow"]) for t in world.trials(search.id)] == [(0.5, 2.0), (0.75, 3.0)]


def test_a_table_may_be_the_study_itself(world: World) -> None:
    genes = world.genes(3)
    task = Task(dataset="published")
    bounded = [ObjectiveIn(metric="error", bounds=(0, 1)), ObjectiveIn(metric="macs")]
    world.study(name="table-a", objectives=bounded, evaluator=table(), task=task)
    world.study(name="table-b", objectives=bounded, evaluator=table(), task=task)
    fill(world, "table-a", genes[:2], errors(genes[:2]))
    search = world.search("table-a")
    world.ask(search.id, genes)
    assert world.states(search.id) == ["SUCCEEDED", "SUCCEEDED", "QUEUED"]  # the ledger knows the first two
    replay(world, world.lease(worker="r"))
    assert world.trials(search.id)[2].reason == "not in the table of study 'table-a': metric error"
    # A clone shares what it holds; another study replays it.
    with world.database.write() as s:
        cloning.clone(s, "table-a", CloneIn(name="clone", objectives=[ObjectiveIn(metric="macs"), bounded[0]]))
    world.study(name="copy", objectives=bounded, evaluator=table(study="table-a"), task=task)
    with world.database.read() as s:
        assert front.front(s, "clone").candidates == 2
    for name, states in (("clone", ["SUCCEEDED", "SUCCEEDED", "QUEUED"]), ("copy", ["QUEUED"] * 3)):
        shared = world.search(name)
        world.ask(shared.id, genes)
        assert world.states(shared.id) == states
    # Another table on data of the same name holds nothing.
    other = world.search("table-b")
    world.ask(other.id, genes)
    assert world.states(other.id) == ["QUEUED"] * 3


def test_old_latencies_of_a_table_are_as_they_are(world: World) -> None:
    genes = world.genes(1)
    world.study(name="timed", objectives=[LATENCY], evaluator=table())
    fill(world, "timed", genes, [{"latency_ms": 3.0}], device="gpu-b")
    search = world.search("timed")
    world.ask(search.id, genes)
    assert world.lease(worker="r", max_age_s=0.0) == []
    (trial,) = world.trials(search.id)
    assert (trial.state, trial.metrics) == (State.SUCCEEDED, {"latency_ms": 3.0})


def test_a_replay_with_a_stale_token_keeps_what_it_says(world: World) -> None:
    genes = world.genes(1)
    fill(world, "study", genes, errors(genes))
    world.study(name="copy", evaluator=table(study="study"))
    search = world.search("copy")
    world.ask(search.id, genes)
    (first,) = world.lease(worker="r")
    world.fail(first, State.QUEUED, "drained")
    (second,) = world.lease(worker="r")
    result = {"metrics": {"error": 0.5}, "device": "", "seconds": 7.0}
    assert not send(world, first, result).accepted
    with world.database.read() as s:
        assert 0.5 in [each.value for each in front.measurements(s, "copy", 10).items]
    assert send(world, second, {**result, "metrics": {"error": 0.25}}).accepted
    assert world.trials(search.id)[0].metrics["error"] == 0.25


@pytest.mark.parametrize(
    ("evaluator", "field"),
    [
        (table(study="nowhere"), "evaluator.options.study"),
        (table(study="elsewhere"), "evaluator.options.study"),
        (table(scale=-1), "evaluator.options.scale"),
        (table(speed=1), "evaluator.options.speed"),
    ],
)
def test_tables_that_cannot_be(world: World, evaluator: EvaluatorSpec, field: str) -> None:
    with world.database.write() as s:
        spaces.create(s, SpaceIn(name="rows", plugin="mobilenetv3", options=TINY, identity="row"))
    world.study(name="elsewhere", space="rows")
    with pytest.raises(Invalid) as caught:
        world.study(name="copy", evaluator=evaluator)
    assert caught.value.field == field


def test_the_front_of_a_table_is_replayed_on_the_test_split_too(world: World) -> None:
    genes = world.genes(2)
    fill(world, "study", genes, errors(genes))
    with world.database.write() as s:
        stored = studies.row(s, "study")
        ids = architectures.ensure(s, world.space, genes)
        on_test = studies.circumstances(s, stored, split="test")
        ledger.record_all(s, [ledger.Entry(ids[0], on_test, {"error": 0.9}, study_id=stored.id)])
    world.study(name="copy", evaluator=table(study="study"), objectives=[ObjectiveIn(metric="error")])
    search = world.search("copy")
    world.ask(search.id, genes)
    replay(world, world.lease(worker="r"))
    with world.database.write() as s:
        made = exports.test_front(s, "copy")
        assert exports.test_front(s, "copy")[0].id == made[0].id
    replay(world, world.lease(worker="r"))
    with world.database.read() as s:
        found = queue.get(s, made[0].id)
    best = min(world.trials(search.id), key=lambda trial: trial.metrics["error"])
    known = best.genes == genes[0].tolist()
    assert found.state is (State.SUCCEEDED if known else State.INFEASIBLE)


# ---------------------------------------------------------------------- data that no worker reads


@pytest.mark.parametrize("evaluator", [table(), EvaluatorSpec(name="external"), EvaluatorSpec(name="mine")])
def test_pipelines_and_tables_declare_their_data(world: World, evaluator: EvaluatorSpec) -> None:
    world.worker("f", kinds=[JobKind.EVALUATE], datasets=[], evaluators=["mine"])
    objectives = [ObjectiveIn(metric="error", bounds=(0, 1))]
    world.study(name="own", task=Task(dataset="ImageNet 21k"), evaluator=evaluator, objectives=objectives)
    with world.database.read() as s:
        task = studies.get(s, "own").task
        (declared,) = [each for each in workers.datasets_page(s, 10).items if each.name == "ImageNet 21k"]
    assert task.digest == declared.digest == hashlib.sha256(b"declared:ImageNet 21k").hexdigest()
    assert (declared.classes, declared.shape, declared.counts) == (0, [], {})
    # What is announced is taken as it is, and what is declared is no data set that a worker could train on.
    world.study(name="digits", evaluator=evaluator, objectives=objectives)
    with world.database.read() as s:
        assert studies.get(s, "digits").task.digest == "d" * 64
    with pytest.raises(Invalid, match="no worker has announced 'ImageNet 21k', there are: digits"):
        world.study(name="trained", task=task)


def test_a_digest_of_ones_own_is_kept(world: World) -> None:
    given = Task(dataset="crops", digest="c" * 64)
    world.study(
        name="own", task=given, evaluator=EvaluatorSpec(name="external"), objectives=[ObjectiveIn(metric="macs")]
    )
    with world.database.read() as s:
        assert studies.get(s, "own").task == given
    # A worker that has it makes it known.
    crops = {"name": "crops", "digest": "c" * 64, "shape": [3, 8, 8], "classes": 5, "counts": {"train": 9}}
    world.worker("w2", datasets=[crops])
    with world.database.read() as s:
        assert workers.dataset(s, "crops").classes == 5


def test_error_on_declared_data_has_no_known_chance_level(world: World) -> None:
    with pytest.raises(Invalid, match=r"of 'error' are not known, as no worker has announced the data set") as caught:
        world.study(name="own", task=Task(dataset="crops"), evaluator=EvaluatorSpec(name="external"))
    assert caught.value.field == "objectives.0.bounds"
    with world.database.read() as s:
        assert "crops" not in {each.name for each in workers.datasets_page(s, 10).items}  # nothing half-written


@pytest.mark.parametrize("name", ["", "x" * 64, "two\nlines"])
def test_names_of_declared_data_are_checked(world: World, name: str) -> None:
    with pytest.raises(Invalid) as caught:
        world.study(name="own", task=Task(dataset=name), evaluator=EvaluatorSpec(name="external"))
    assert caught.value.field == "task.dataset"
