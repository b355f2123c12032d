"""Declared spaces: what a declaration may say, what it means, and that a space which counts nothing can be searched."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from predictors import Architectures
from predictors.baselines import Macs
from predictors.boosting import Boosting
from predictors.predictor import Predictor
from search_spaces.declared import MAX_CHOICES, MAX_DEEP, Declared
from search_spaces.plugins import load, names
from search_spaces.space import Genes, InvalidArchitecture, InvalidSpace, Unsupported
from service.core.errors import Invalid
from service.core.objectives import Direction, Objective
from service.db import proxies, spaces, studies
from service.db.session import Database
from service.search.designer import Designer
from service.wire.spaces import SpaceIn
from service.wire.studies import ConstraintSpec, ObjectiveIn, ScoreIn
from tests.searches import Problem, simulate
from tests.world import World

DEPTH = {"name": "depth", "options": [1, 2, 3]}
KERNEL = {"name": "kernel3", "options": [3, 5, 7], "when": {"depth": [3]}}
ACT = {"name": "act", "options": ["relu", "gelu"]}


def declared(*choices: Any, **given: Any) -> Declared:
    return Declared(choices=list(choices), **given)


# ---------------------------------------------------------------------- declarations

BAD: list[tuple[Any, str, str]] = [
    (None, "choices", "must be a list"),
    ("depth", "choices", "must be a list"),
    ({"name": "depth"}, "choices", "must be a list"),
    ([], "choices", "must have 1 to"),
    (["depth"], "choices.0", "must be an object"),
    ([{**DEPTH, "wen": {}}], "choices.0.wen", "no such key"),
    ([{"options": [1]}], "choices.0.name", "must be text"),
    ([{"name": "", "options": [1]}], "choices.0.name", "printable"),
    ([{"name": "a\n", "options": [1]}], "choices.0.name", "printable"),
    ([{"name": "a" * 201, "options": [1]}], "choices.0.name", "printable"),
    ([{"name": 3, "options": [1]}], "choices.0.name", "must be text"),
    ([DEPTH, ACT, DEPTH], "choices.2.name", "choices.0 too"),
    ([{"name": "a"}], "choices.0.options", "must be a list"),
    ([{"name": "a", "options": "relu"}], "choices.0.options", "must be a list"),
    ([{"name": "a", "options": []}], "choices.0.options", "1 to 127"),
    ([{"name": "a", "options": list(range(128))}], "choices.0.options", "has 128"),
    ([{"name": "a", "options": [1, True]}], "choices.0.options.1", "text or a number"),
    ([{"name": "a", "options": [None]}], "choices.0.options.0", "text or a number"),
    ([{"name": "a", "options": [[1]]}], "choices.0.options.0", "text or a number"),
    ([{"name": "a", "options": [1, float("nan")]}], "choices.0.options.1", "within"),
    ([{"name": "a", "options": [float("inf")]}], "choices.0.options.0", "within"),
    ([{"name": "a", "options": [10**40]}], "choices.0.options.0", "within"),
    ([{"name": "a", "options": [" "]}], "choices.0.options.0", "printable"),
    ([{"name": "a", "options": [3, 4, 3.0]}], "choices.0.options.2", "there already"),
    ([{"name": "a", "options": [3, "3"]}], "choices.0.options.1", "there already"),
    ([DEPTH, {**KERNEL, "when": [3]}], "choices.1.when", "must be an object"),
    ([DEPTH, {**KERNEL, "when": None}], "choices.1.when", "must be an object"),
    ([DEPTH, {**KERNEL, "when": {"dept": [3]}}], "choices.1.when.dept", "no such choice"),
    ([KERNEL, DEPTH], "choices.0.when.depth", "later in the list"),
    ([DEPTH, {**KERNEL, "when": {"kernel3": [3]}}], "choices.1.when.kernel3", "on itself"),
    ([DEPTH, {**KERNEL, "when": {"depth": 3}}], "choices.1.when.depth", "must be a list"),
    ([DEPTH, {**KERNEL, "when": {"depth": []}}], "choices.1.when.depth", "must be a list"),
    ([DEPTH, {**KERNEL, "when": {"depth": [4]}}], "choices.1.when.depth", "no such option 4"),
    ([DEPTH, {**KERNEL, "when": {"depth": [True]}}], "choices.1.when.depth", "text or a number"),
    ([DEPTH, {**KERNEL, "when": {"depth": ["3"]}}], "choices.1.when.depth", "no such option '3'"),
    ([DEPTH, {**KERNEL, "when": {"depth": [3, 3.0]}}], "choices.1.when.depth", "listed twice"),
    (
        [DEPTH, KERNEL, {**ACT, "when": {"depth": [1, 2], "kernel3": [3]}}],
        "choices.2.when.kernel3",
        "can never hold: it and the other conditions leave no option of 'depth'",
    ),
    (
        [{"name": f"c{n}", "options": [0, 1], "when": {f"c{n - 1}": [1]} if n else {}} for n in range(MAX_DEEP + 2)],
        f"choices.{MAX_DEEP + 1}.when",
        "rests on 65",
    ),
    ([{"name": str(n), "options": [1]} for n in range(MAX_CHOICES + 1)], "choices", "has 16385"),
    (
        [{"name": str(n), "options": list(range(127))} for n in range(2065)],
        "choices.2064.options",
        "have 262,255 options",
    ),
    (
        [{"name": str(n), "options": [1], "when": {str(n - 1): [1]} if n % 64 else {}} for n in range(8_400)],
        "choices.8331.when",
        "rest on 262,146 choices",
    ),
]


@pytest.mark.parametrize(
    ("choices", "field", "words"), BAD, ids=[f"{n}-{field}" for n, (_, field, _) in enumerate(BAD)]
)
def test_bad_declarations_are_refused_by_field(choices: Any, field: str, words: str) -> None:
    with pytest.raises(InvalidSpace) as refused:
        Declared(choices=choices)
    assert refused.value.field == field
    assert words in refused.value.message
    assert len(str(refused.value)) < 500


def test_other_options_are_refused() -> None:
    with pytest.raises(InvalidSpace) as refused:
        Declared(choices=[DEPTH], choises=[])
    assert refused.value.field == "choises"


def test_declarations_that_mean_the_same_are_the_same() -> None:
    space = declared(DEPTH, KERNEL, ACT)
    assert json.loads(json.dumps(space.options)) == space.options
    assert Declared(**space.options).digest == space.digest
    assert space.options["choices"][0] == {**DEPTH, "when": {}}
    other = declared({"options": [1.0, 2.0, 3.0], "name": "depth"}, {**KERNEL, "when": {"depth": [3.0]}}, ACT)
    assert other.digest == space.digest
    twice = {"name": "x", "options": [1, 2], "when": {"act": ["gelu", "relu"], "depth": [3, 1]}}
    again = {"name": "x", "options": [1, 2], "when": {"depth": [1, 3], "act": ["relu", "gelu"]}}
    assert declared(DEPTH, ACT, twice).digest == declared(DEPTH, ACT, again).digest
    assert declared(DEPTH, KERNEL).digest != space.digest
    assert declared(DEPTH, {**KERNEL, "when": {"depth": [2]}}, ACT).digest != space.digest


def test_conditions_say_what_is_active() -> None:
    """The choice is there where all it names is there and chosen so, and its configs leave it out elsewhere."""
    pool = {"name": "pool", "options": ["max", "mean"], "when": {"kernel3": [5, 7], "act": ["relu"]}}
    space = declared(DEPTH, KERNEL, ACT, pool)
    rows = np.array([[2, 1, 0, 1], [2, 0, 0, 1], [2, 1, 1, 1], [1, 1, 0, 1]], dtype=np.int8)
    active = [[True] * 4, [True, True, True, False], [True, True, True, False], [True, False, True, False]]
    assert space.active(rows).tolist() == active
    assert space.canonical(rows).tolist() == [[2, 1, 0, 1], [2, 0, 0, 0], [2, 1, 1, 0], [1, 0, 0, 0]]
    assert space.to_configs(rows)[0] == {"depth": 3, "kernel3": 5, "act": "relu", "pool": "mean"}
    assert space.to_configs(rows)[3] == {"depth": 2, "act": "relu"}
    # Given all the same, an inactive choice must be known, and changes nothing.
    same = space.from_configs([{"depth": 2, "act": "relu"}, {"depth": 2, "act": "relu", "kernel3": 7}])
    assert len(set(space.keys(same))) == 1
    with pytest.raises(InvalidArchitecture) as refused:
        space.from_configs([{"depth": 2, "act": "relu"}, {"depth": 3, "act": "relu"}])
    assert (refused.value.row, refused.value.field) == (1, "kernel3")


def test_the_number_of_architectures() -> None:
    assert declared(DEPTH, ACT).cardinality == 6
    space = declared(DEPTH, KERNEL, ACT)
    assert (space.cardinality, space.uniform) == ((2 + 3) * 2, True)
    assert declared(DEPTH, KERNEL, ACT, identity="row").cardinality == 18
    assert space.restrict({"depth": [3], "kernel3": [5]}).cardinality == 2
    assert space.restrict({"depth": [1]}).cardinality == 2
    # Naming again what a condition rests on says nothing new, unless it asks for more.
    pool = {"name": "pool", "options": ["max", "mean"], "when": {"kernel3": [5, 7], "depth": [3]}}
    assert declared(DEPTH, KERNEL, pool).cardinality == 2 + 1 + 2 * 2
    crossed = declared(DEPTH, ACT, {"name": "x", "options": [1, 2], "when": {"depth": [3], "act": ["relu"]}})
    assert (crossed.cardinality, crossed.uniform) == (None, False)
    wide = declared(*({"name": f"c{n}", "options": list(range(100))} for n in range(1000)))
    assert wide.cardinality == 100**1000


@st.composite
def forests(draw: Any) -> list[dict[str, Any]]:
    choices: list[dict[str, Any]] = []
    for index in range(draw(st.integers(1, 6))):
        choices.append({"name": f"c{index}", "options": list(range(draw(st.integers(1, 4))))})
        if index and draw(st.booleans()):
            parent = choices[draw(st.integers(0, index - 1))]
            kept = draw(st.lists(st.sampled_from(parent["options"]), min_size=1, unique=True))
            choices[-1]["when"] = {parent["name"]: kept}
    return choices


@settings(max_examples=60, deadline=None)
@given(choices=forests(), identity=st.sampled_from(["function", "row"]), data=st.data())
def test_counting_equals_listing(choices: list[dict[str, Any]], identity: Any, data: Any) -> None:
    space = Declared(choices=choices, identity=identity)
    assert space.uniform
    picked = data.draw(st.sampled_from(space.choices))
    kept = data.draw(st.lists(st.sampled_from(picked.options), min_size=1, unique=True))
    for bounded in (space, space.restrict({picked.name: kept})):
        rows = np.stack(np.meshgrid(*map(np.arange, space.sizes), indexing="ij"), axis=-1).reshape(-1, len(choices))
        rows = rows.astype(np.int8)
        listed = np.unique(bounded.canonical(rows[bounded.valid(rows)]), axis=0)
        assert bounded.cardinality == len(listed)
        found = bounded.sample(len(listed) + 1, np.random.default_rng(0))
        assert bounded.valid(found).all()
        assert len(found) == len(listed)


def test_ten_thousand_choices() -> None:
    space = declared(
        *({"name": f"c{n}", "options": ["a", "b"], "when": {"c0": ["a"]} if n else {}} for n in range(10_000))
    )
    genes = space.sample(5, np.random.default_rng(0))
    np.testing.assert_array_equal(space.from_configs(space.to_configs(genes)), genes)
    with pytest.raises(Unsupported, match="too many"):
        space.graphs(genes)
    with pytest.raises(InvalidArchitecture) as refused:
        space.from_configs([{"c0": "a", "no such": 1}])
    assert len(str(refused.value)) < 2000


def test_what_a_declared_space_cannot_do() -> None:
    space = declared(DEPTH, KERNEL)
    row = space.extremes()[0]
    for refuse in (lambda: space.build(row), lambda: space.input_shape(row), space.supernet):
        with pytest.raises(Unsupported, match="train its architectures yourself"):
            refuse()


def test_the_graph_is_the_chain_of_active_choices() -> None:
    space = declared(DEPTH, KERNEL, ACT)
    graphs = space.graphs(np.array([[2, 1, 0], [0, 0, 1]], dtype=np.int8))
    labels = [[graphs.labels[o] if o >= 0 else "" for o in row] for row in graphs.operations.tolist()]
    assert labels == [["depth=3", "kernel3=5", "act=relu"], ["depth=1", "act=gelu", ""]]
    assert [np.argwhere(adjacency).tolist() for adjacency in graphs.adjacency] == [[[0, 1], [1, 2]], [[0, 1]]]


# ---------------------------------------------------------------------- where nothing is counted

SPACE = declared(*({"name": f"c{n}", "options": [0, 1, 2, 3]} for n in range(6)))
ERROR = Objective("error", Direction.MINIMISE, (0.0, 1.0))


def measure(genes: Genes) -> list[dict[str, float]]:
    return [{"error": float(value)} for value in (genes != [0, 1, 2, 3, 2, 1]).mean(axis=1)]


def test_predictors_do_without_costs() -> None:
    genes = SPACE.sample(120, np.random.default_rng(0))
    error = np.array([row["error"] for row in measure(genes)])
    learnt = Boosting().fit([Architectures(SPACE, genes[:80])], [error[:80]], np.random.default_rng(0))
    predicted = learnt.predict(Architectures(SPACE, genes[80:])).mean
    assert np.corrcoef(predicted, error[80:])[0, 1] > 0.8
    again = Boosting.load(learnt.dump()).predict(Architectures(SPACE, genes[80:])).mean
    np.testing.assert_array_equal(again, predicted)
    with pytest.raises(Unsupported, match="counts no macs"):
        Macs().fit([Architectures(SPACE, genes)], [error], np.random.default_rng(0))


@pytest.mark.parametrize("name", names("designers"))
def test_designers_do_without_costs(name: str) -> None:
    problem = Problem(SPACE, measure, objectives=(ERROR,))

    def make(predictors: Mapping[str, Predictor]) -> Designer:
        designer: Designer = load("designers", name)(SPACE, problem.objectives, (), predictors)
        return designer

    history = simulate(problem, make, asks=10, count=6)
    assert len(history) == 60
    assert np.nanmin(history.objectives) <= 0.5


@pytest.fixture
def world(database: Database) -> World:
    world = World(database).found()
    with database.write() as s:
        spaces.create(s, SpaceIn(name="mine", plugin="declared", options={"choices": [DEPTH, KERNEL]}))
    return world


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"objectives": [ObjectiveIn(metric="error"), ObjectiveIn(metric="macs")]}, "objectives.1.metric"),
        ({"constraints": [ConstraintSpec(metric="params", upper=5)]}, "constraints.0.metric"),
        ({"metrics": ["latency_ms", "macs"]}, "metrics.1"),
    ],
)
def test_studies_refuse_what_is_not_counted(world: World, body: dict[str, Any], field: str) -> None:
    stated = world.study_in(**{"name": "x", "space": "mine", "objectives": [ObjectiveIn(metric="error")], **body})
    with pytest.raises(Invalid, match="_reported") as refused, world.database.write() as s:
        studies.create(s, stated)
    assert refused.value.field == field


def test_a_study_of_a_declared_space_is_searched(world: World) -> None:
    world.study(name="mine", space="mine", objectives=[ObjectiveIn(metric="error")])
    with world.database.read() as s:
        space = spaces.load(spaces.row(s, "mine"))
    search = world.search("mine", budget=5)
    world.ask(search.id, space.extremes())
    leases = world.lease()
    assert [lease.payload["genes"] for lease in leases] == space.extremes().tolist()
    world.complete(leases)
    with pytest.raises(Invalid) as refused, world.database.write() as s:
        proxies.score(s, "mine", ScoreIn(proxies=["synflow", "params"], sample=3))
    assert refused.value.field == "proxies.1"
