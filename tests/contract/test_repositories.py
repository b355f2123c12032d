"""What holds for all repositories, on both databases: names, bodies, pages."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy.orm import Session

from service.core.errors import Conflict, Invalid, NotFound
from service.core.objectives import Direction
from service.core.states import SearchState, State
from service.db import artifacts, front, predictors, queue, searches, spaces, studies, supernets, trials, workers
from service.db.artifacts import ArtifactStore
from service.db.session import Database
from service.wire.jobs import JobKind, WorkerIn
from service.wire.searches import SearchIn
from service.wire.spaces import DatasetOut, SpaceIn, SupernetIn, Task
from service.wire.studies import ConstraintSpec, EvaluatorSpec, ObjectiveIn
from tests.world import CPU, DIGITS, TINY, World, statements


@pytest.fixture
def world(database: Database) -> World:
    return World(database).found()


def _create_space(s: Session, **given: Any) -> Any:
    return spaces.create(s, SpaceIn(**{"name": "other", "plugin": "mobilenetv3", "options": TINY, **given}))


def _create_supernet(s: Session, **given: Any) -> Any:
    return supernets.create(s, SupernetIn(**{"name": "net", "space": "tiny", "task": Task(dataset="digits"), **given}))


def _create_study(s: Session, **given: Any) -> Any:
    return studies.create(s, World.study_in(None, **{"name": "other", **given}))  # type: ignore[arg-type]


def _create_search(s: Session, **given: Any) -> Any:
    return searches.create(s, "study", SearchIn(**{"name": "s1", "designer": "random", "budget": 10, **given}))


@pytest.mark.parametrize(
    ("create", "change", "field"),
    [
        (_create_space, {"options": {**TINY, "kernels": [3, 7]}}, "options.kernels"),
        (_create_supernet, {"recipe": {"epochs": 3}}, "recipe.epochs"),
        (_create_study, {"seed": 1}, "seed"),
        (_create_search, {"budget": 11}, "budget"),
    ],
)
def test_the_same_body_gives_the_first_and_another_is_a_conflict(
    world: World, create: Callable[..., Any], change: dict[str, Any], field: str
) -> None:
    with world.database.write() as s:
        first, new = create(s)
        assert new
    with world.database.write() as s:
        assert create(s) == (first, False)
    with pytest.raises(Conflict) as caught, world.database.write() as s:
        create(s, **change)
    assert caught.value.details["fields"] == [field]
    assert field in caught.value.message


def test_a_space_with_its_defaults_spelled_out_is_the_same(world: World) -> None:
    with world.database.write() as s:
        first, _ = _create_space(s)
        again, new = _create_space(s, options=first.options)
    assert not new
    assert again == first


@pytest.mark.parametrize(
    "ask",
    [
        lambda s: spaces.get(s, "nowhere"),
        lambda s: supernets.get(s, "nowhere"),
        lambda s: supernets.train(s, "nowhere"),
        lambda s: studies.get(s, "nowhere"),
        lambda s: workers.get(s, "nowhere"),
        lambda s: workers.dataset(s, "nowhere"),
        lambda s: workers.dataset(s, "digits", "e" * 64),
        lambda s: searches.get(s, 99),
        lambda s: searches.get(s, 2**70),
        lambda s: searches.set_state(s, 99, "pause"),
        lambda s: searches.progress(s, 99),
        lambda s: searches.snapshot(s, 99),
        lambda s: trials.get(s, -1),
        lambda s: predictors.get(s, 99),
        lambda s: queue.get(s, 2**63),
        lambda s: queue.cancel(s, 99),
        lambda s: artifacts.get(s, "a" * 64),
        lambda s: front.front(s, "nowhere"),
        lambda s: front.architecture(s, "study", "0" * 32),
        lambda s: front.predicted(s, "study", "error", 99),
    ],
)
def test_what_is_not_there_is_not_found(world: World, ask: Callable[[Session], Any]) -> None:
    with pytest.raises(NotFound), world.database.write() as s:
        ask(s)


# ---------------------------------------------------------------------- pages


def test_pages_give_everything_once_and_end(world: World) -> None:
    with world.database.write() as s:
        for index in range(7):
            _create_space(s, name=f"space-{index}")
    seen, token = [], None
    with world.database.read() as s:
        for _ in range(10):
            page = spaces.page(s, 3, token)
            seen += [item.name for item in page.items]
            token = page.next_page_token
            if token is None:
                break
    assert seen == ["tiny", *(f"space-{index}" for index in range(7))]


def test_rows_that_come_meanwhile_shift_no_page(world: World) -> None:
    search = world.search()
    claim = world.claim(search.id)
    genes = world.genes(9)
    world.ask(search.id, genes[:6], claim=claim)
    with world.database.read() as s:
        newest = trials.page(s, 3, search=search.id, order="newest")
    world.ask(search.id, genes[6:], ask=1, claim=claim)
    with world.database.read() as s:
        following = trials.page(s, 3, newest.next_page_token, search=search.id, order="newest")
    assert [t.number for t in newest.items + following.items] == [6, 5, 4, 3, 2, 1]
    assert following.next_page_token is None


def test_every_list_has_pages(world: World) -> None:
    search = world.search()
    world.ask(search.id, world.genes(3))
    with world.database.write() as s:
        world_lists = [
            spaces.page(s, 1),
            workers.page(s, 1),
            workers.datasets_page(s, 1),
            supernets.page(s, 1),
            studies.page(s, 1),
            searches.page(s, 1),
            searches.page(s, 1, study="study"),
            trials.page(s, 1, study="study"),
            predictors.page(s, 1, study="study", search=search.id),
            queue.page(s, 1, state=State.QUEUED, kind=JobKind.EVALUATE, study="study", search=search.id),
            front.measurements(s, "study", 1),
        ]
    lengths = [len(page.items) for page in world_lists]
    assert lengths == [1, 1, 1, 0, 1, 1, 1, 1, 0, 1, 0]
    assert world_lists[9].next_page_token is not None


@pytest.mark.parametrize(
    "token",
    ["", "x", "!!!", "WzNd" * 50, "bnVsbA", "WyJhIl0", "WzEsMl0", "W3RydWVd", "WzE4NDQ2NzQ0MDczNzA5NTUxNjE2XQ", "é"],
)
def test_a_token_that_no_list_gave_is_refused(world: World, token: str) -> None:
    with pytest.raises(Invalid) as caught, world.database.read() as s:
        spaces.page(s, 3, token)
    assert caught.value.field == "page_token"


@pytest.mark.parametrize("size", [0, -1, 100_000])
def test_a_page_size_out_of_range_is_refused(world: World, size: int) -> None:
    with pytest.raises(Invalid) as caught, world.database.read() as s:
        spaces.page(s, size)
    assert caught.value.field == "page_size"


def test_a_page_of_trials_takes_few_statements_whatever_its_size(world: World) -> None:
    search = world.search(batch=100)
    world.ask(search.id, world.genes(100))
    taken = []
    for size in (2, 100):
        with world.database.read() as s, statements(world.database) as seen:
            assert len(trials.page(s, size, search=search.id).items) == size
        taken.append(len(seen))
    assert taken[0] == taken[1] <= 4


# ---------------------------------------------------------------------- studies


def test_a_study_fills_in_what_is_known(world: World) -> None:
    with world.database.read() as s:
        study = studies.get(s, "study")
    assert study.task.digest == DIGITS.digest
    error, macs = study.objectives
    assert (error.direction, error.bounds) == (Direction.MINIMISE, (0.0, 0.9))
    smallest, largest = world.space.cost(world.space.extremes())["macs"].tolist()
    assert macs.bounds == (smallest, largest)
    assert smallest < largest
    assert study.metrics == ["error", "macs"]


def test_a_study_measures_objectives_constraints_and_metrics_once_each(world: World) -> None:
    world.study(
        name="wide",
        objectives=[ObjectiveIn(metric="loss", bounds=(0, 3)), ObjectiveIn(metric="macs")],
        constraints=[ConstraintSpec(metric="macs", upper=1e9), ConstraintSpec(metric="params", upper=1e9)],
        metrics=["loss", "latency_ms"],
    )
    with world.database.read() as s:
        assert studies.get(s, "wide").metrics == ["loss", "macs", "params", "latency_ms"]


def test_bounds_of_what_is_maximised_are_turned(world: World) -> None:
    objectives = [ObjectiveIn(metric="macs", direction=Direction.MAXIMISE)]
    world.study(name="large", objectives=objectives)
    with world.database.read() as s:
        ideal, nadir = studies.get(s, "large").objectives[0].bounds
    assert ideal > nadir


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"objectives": [ObjectiveIn(metric="loss")]}, "objectives.0.bounds"),
        ({"objectives": [ObjectiveIn(metric="accuracy", bounds=(1, 0))]}, "objectives.0.direction"),
        ({"objectives": [ObjectiveIn(metric="error", bounds=(1, 0))]}, "objectives.0.bounds"),
        ({"objectives": [ObjectiveIn(metric="macs"), ObjectiveIn(metric="macs")]}, "objectives.1.metric"),
        ({"constraints": [ConstraintSpec(metric="macs")]}, "constraints.0"),
        ({"task": Task(dataset="imagenet")}, "task.dataset"),
        ({"task": Task(dataset="digits", digest="e" * 64)}, "task.digest"),
        ({"evaluator": EvaluatorSpec(name="oracle")}, "evaluator.name"),
        ({"evaluator": EvaluatorSpec(name="supernet")}, "supernet"),
        ({"metrics": ["latency_ms@a", "latency_ms@b"]}, "metrics"),
    ],
)
def test_a_study_that_cannot_be_is_refused_by_field(world: World, given: dict[str, Any], field: str) -> None:
    with pytest.raises(Invalid) as caught:
        world.study(name="wrong", **given)
    assert caught.value.field == field
    with world.database.read() as s:
        assert [item.name for item in studies.page(s, 10).items] == ["study"]


def test_a_supernet_of_another_space_or_task_is_refused(world: World) -> None:
    other = DatasetOut(name="more", digest="e" * 64, shape=[1, 8, 8], classes=10, counts={})
    world.worker("w2", datasets=[other])
    with world.database.write() as s:
        _create_supernet(s)
        _create_space(s, name="big", options={**TINY, "kernels": [3, 7]})
    for given in ({"space": "big"}, {"task": Task(dataset="more")}):
        with pytest.raises(Invalid) as caught:
            world.study(name="wrong", supernet="net", **given)
        assert caught.value.field == "supernet"


def test_an_evaluator_is_known_once_a_worker_announced_it(world: World) -> None:
    world.worker("far", evaluators=["oracle"])
    world.study(name="oracular", evaluator=EvaluatorSpec(name="oracle"))


# ---------------------------------------------------------------------- super-networks and workers


def test_training_is_queued_once(world: World) -> None:
    with world.database.write() as s:
        created, _ = _create_supernet(s)
        assert (created.state, created.job) == ("CREATED", None)
        first, second = supernets.train(s, "net"), supernets.train(s, "net")
    assert first.id == second.id
    with world.database.read() as s:
        assert supernets.get(s, "net").job == first.id
        assert supernets.get(s, "net").state == "TRAINING"


def test_a_search_waits_for_its_supernet(world: World) -> None:
    with world.database.write() as s:
        _create_supernet(s)
    world.study(name="shared", supernet="net", evaluator=EvaluatorSpec(name="supernet"))
    with pytest.raises(Conflict, match="CREATED"):
        world.search("shared")


def test_a_worker_is_shown_with_its_datasets_and_jobs(world: World) -> None:
    search = world.search()
    world.ask(search.id, world.genes(2))
    leases = world.lease(2)
    with world.database.read() as s:
        worker = workers.get(s, "w")
        assert workers.page(s, 10).items == [worker]
    assert worker.alive
    assert worker.datasets == [DIGITS]
    assert worker.jobs == [lease.job for lease in leases]
    assert worker.device == CPU


def test_a_dataset_is_the_newest_of_its_name_unless_pinned(world: World) -> None:
    newer = DatasetOut(name="digits", digest="e" * 64, shape=[1, 8, 8], classes=10, counts={})
    world.worker("w", datasets=[newer])
    with world.database.read() as s:
        assert workers.dataset(s, "digits").digest == newer.digest
        assert workers.dataset(s, "digits", DIGITS.digest).digest == DIGITS.digest
        assert len(workers.datasets_page(s, 10).items) == 2


def test_one_content_may_have_two_names(world: World) -> None:
    world.worker("w2", datasets=[DatasetOut(**{**DIGITS.model_dump(), "name": "numbers"})])
    with world.database.read() as s:
        assert workers.dataset(s, "numbers").digest == workers.dataset(s, "digits").digest


# ---------------------------------------------------------------------- searches


def test_searches_are_numbered_and_named_in_their_study(world: World) -> None:
    world.study(name="second")
    with world.database.write() as s:
        taken, _ = _create_search(s, name="random-2")
    names = [world.search().name, world.search().name, world.search("second").name]
    assert names == ["random-2-2", "random-3", "random-1"]
    assert taken.number == 1
    with world.database.read() as s:
        assert studies.get(s, "study").searches == 3


@pytest.mark.parametrize(
    ("given", "field"),
    [({"designer": "oracle"}, "designer"), ({"options": {"temperature": 1}}, "options.temperature")],
)
def test_a_search_with_a_wrong_designer_is_refused_by_field(world: World, given: dict[str, Any], field: str) -> None:
    with pytest.raises(Invalid) as caught:
        world.search(**given)
    assert caught.value.field == field


def test_verbs_move_a_search_and_repeat_safely(world: World) -> None:
    search = world.search()

    def say(verb: str) -> SearchState:
        with world.database.write() as s:
            return searches.set_state(s, search.id, verb).state

    assert [say(v) for v in ("pause", "pause", "resume", "resume", "cancel", "cancel")] == [
        SearchState.PAUSED,
        SearchState.PAUSED,
        SearchState.RUNNING,
        SearchState.RUNNING,
        SearchState.CANCELLED,
        SearchState.CANCELLED,
    ]
    with pytest.raises(Conflict):
        say("resume")
    with pytest.raises(Invalid):
        say("explode")


def test_counts_are_by_state(world: World) -> None:
    search = world.search()
    world.ask(search.id, world.genes(3))
    world.lease(1)
    with world.database.read() as s:
        assert queue.counts(s) == {State.QUEUED: 2, State.LEASED: 1}
        assert searches.counts(s) == {SearchState.RUNNING: 1}
        assert searches.get(s, search.id).counts.queued == 2


# ---------------------------------------------------------------------- artifacts


def test_a_stored_file_is_found_by_its_content(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "artifacts")
    digest, size = store.put([b"some ", b"bytes"])
    assert (size, store.read(digest), store.has(digest)) == (10, b"some bytes", True)
    assert store.put([b"some bytes"], digest) == (digest, 10)


def test_a_file_with_another_digest_leaves_nothing(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    with pytest.raises(Invalid) as caught:
        store.put([b"some bytes"], "a" * 64)
    assert caught.value.field == "digest"
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_broken_upload_leaves_nothing(tmp_path: Path) -> None:
    def chunks() -> Any:
        yield b"some"
        raise ConnectionError

    with pytest.raises(ConnectionError):
        ArtifactStore(tmp_path).put(chunks())
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("digest", ["a" * 64, "../../etc/passwd", "A" * 64, "a" * 63 + "/"])
def test_what_was_never_stored_has_no_path(tmp_path: Path, digest: str) -> None:
    store = ArtifactStore(tmp_path)
    assert not _has(store, digest)
    with pytest.raises(NotFound):
        store.path(digest)


def _has(store: ArtifactStore, digest: str) -> bool:
    try:
        return store.has(digest)
    except NotFound:
        return False


def test_an_artifact_is_registered_once(world: World) -> None:
    with world.database.write() as s:
        assert artifacts.register(s, "a" * 64, 3) == artifacts.register(s, "a" * 64, 3)
        assert artifacts.missing(s, ["a" * 64, "b" * 64]) == {"b" * 64}


def test_no_space_is_rebuilt_for_a_read(world: World) -> None:
    with world.database.read() as s:
        stored = spaces.row(s, "tiny")
    assert spaces.load(stored) is spaces.load(stored)
    assert spaces.load(stored).digest == stored.digest == world.space.digest
    assert np.array_equal(spaces.load(stored).extremes(), world.space.extremes())


def test_a_second_announcement_replaces_the_first(world: World) -> None:
    with world.database.write() as s:
        again = workers.announce(s, WorkerIn(name="w", kinds=[JobKind.FIT], device=CPU))
    assert (again.kinds, again.datasets, again.evaluators) == ([JobKind.FIT], [], [])
