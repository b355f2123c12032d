"""The ask: probes, replay, and designers that break their contract."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from predictors.predictor import Architectures
from search_spaces.plugins import names
from service.core.errors import Fault, Invalid
from service.core.history import History
from service.core.objectives import Constraint
from service.search.ask import ask, make_designer, predict
from service.search.constraints import satisfies
from service.search.designer import Designer, Suggestion, Suggestions
from tests.searches import Problem, Ridge, Toy, appended, mismatch, simulate

SPACE = Toy()
PROBLEM = Problem(SPACE, mismatch(SPACE))


class Fixed(Designer):
    """Suggests what it was given, whatever is asked."""

    def __init__(self, items: list[Suggestion], state: Any = None, problem: Problem = PROBLEM) -> None:
        super().__init__(problem.space, problem.objectives, problem.constraints, {})
        self.items, self.state, self.calls = items, state or {}, 0

    def wants(self, history: History) -> tuple[()]:
        return ()

    def suggest(self, history: History, count: int, rng: np.random.Generator) -> Suggestions:
        self.calls += 1
        return Suggestions(tuple(self.items[:count]), self.state)


class Silent(Designer):
    """Never suggests anything."""

    def wants(self, history: History) -> tuple[()]:
        return ()

    def suggest(self, history: History, count: int, rng: np.random.Generator) -> Suggestions:
        return Suggestions((), {"asked": count})


def silent(problem: Problem = PROBLEM) -> Silent:
    return Silent(problem.space, problem.objectives, problem.constraints, {})


def nsga2(problem: Problem = PROBLEM) -> Designer:
    return make_designer("nsga2", problem.space, problem.objectives, problem.constraints, {}, {})


def probes_of(counts: list[int], share: float) -> list[int]:
    """Probes in successive asks."""
    history, made = PROBLEM.empty(), []
    for number, count in enumerate(counts):
        designer = nsga2()
        answer = ask(designer, history, count, seed=0, search_number=1, ask_number=number, probe_share=share)
        assert len(answer.items) == count
        history = appended(PROBLEM, history, designer, answer, number)
        made.append(sum(item.probe for item in answer.items))
    return made


def test_asks_for_several_have_a_probe_each_and_large_asks_their_share():
    assert probes_of([10, 10, 10], 0.1) == [1, 1, 1]
    assert probes_of([2, 3, 2], 0.1) == [1, 1, 1]
    assert probes_of([40, 20], 0.1) == [4, 2]
    assert probes_of([10, 10, 10], 0.25) == [2, 3, 2]


def test_asks_for_one_keep_the_running_share():
    assert probes_of([1] * 20, 0.1) == [0] * 9 + [1] + [0] * 9 + [1]


def test_a_share_of_0_makes_no_probes_and_of_1_nothing_else():
    assert probes_of([10, 1, 4], 0.0) == [0, 0, 0]
    assert probes_of([10, 1, 4], 1.0) == [10, 1, 4]


def test_probes_are_drawn_from_all_that_the_computable_constraints_leave():
    space = Toy(blocks=2)
    problem = Problem(space, mismatch(space), constraints=(Constraint("macs", upper=50), Constraint("error", upper=0)))
    rows = space.sample(100, np.random.default_rng(0))
    allowed = {row.tobytes() for row in rows[satisfies(space, problem.constraints, rows)]}
    assert 5 < len(allowed) < len(rows) == 20
    drawn = [
        ask(silent(problem), problem.empty(), 10, seed=seed, search_number=1, ask_number=0).items[0]
        for seed in range(200)
    ]
    assert {item.genes.tobytes() for item in drawn} == allowed
    assert all(item.probe and item.reason.startswith("probe") for item in drawn)


def test_probes_are_new():
    space = Toy(blocks=1, widths=4, gated=False)
    problem = Problem(space, lambda genes: [{"error": 0.5, "macs": 1.0}] * len(genes))
    designer = Fixed([Suggestion(np.array([2], dtype=np.int8), "fixed")], problem=problem)
    history = problem.empty()
    known = Fixed([Suggestion(np.array([i], dtype=np.int8), "fixed") for i in (0, 1)], problem=problem)
    first = known.suggest(history, 2, np.random.default_rng(0))
    history = appended(problem, history, known, first, 0)
    answer = ask(designer, history, 2, seed=0, search_number=1, ask_number=1)
    assert [(item.genes.tolist(), item.probe) for item in answer.items] == [([2], False), ([3], True)]


def test_an_ask_is_replayed_by_its_three_numbers():
    history = simulate(PROBLEM, lambda _: nsga2(), asks=3, count=8)

    def rows(**numbers: int) -> list[list[int]]:
        given = {"seed": 4, "search_number": 2, "ask_number": 3} | numbers
        return [item.genes.tolist() for item in ask(nsga2(), history, 8, **given).items]

    assert rows() == rows()
    assert rows() != rows(seed=5)
    assert rows() != rows(search_number=3)
    assert rows() != rows(ask_number=4)


def test_a_designer_that_is_only_due_a_probe_is_not_asked_and_keeps_its_state():
    history = replace(simulate(PROBLEM, lambda _: nsga2(), asks=1, count=9), state={"kept": 1})
    designer = Fixed([], {"lost": 1})
    answer = ask(designer, history, 1, seed=0, search_number=1, ask_number=1)
    assert [item.probe for item in answer.items] == [True]
    assert (designer.calls, answer.state) == (0, {"kept": 1})
    assert ask(designer, history, 0, seed=0, search_number=1, ask_number=1) == Suggestions((), {"kept": 1})


GOOD = SPACE.sample(3, np.random.default_rng(0))
UNCANONICAL = np.array([0, 1, 1, 0, 0, 0, 0], dtype=np.int8)


@pytest.mark.parametrize(
    ("items", "state", "words"),
    [
        ([Suggestion(GOOD[0].astype(np.int64), "r")], {}, r"suggestion 0: genes must be int8 \(7,\), got int64"),
        ([Suggestion(GOOD[0][:3], "r")], {}, r"genes must be int8 \(7,\), got int8 \(3,\)"),
        ([Suggestion(GOOD[0], "r"), Suggestion(GOOD[0], "r")], {}, "suggestion 1 is already in the search"),
        ([Suggestion(GOOD[0], "r"), Suggestion(GOOD[1] * 0 + 9, "r")], {}, "suggestion 1 is not in the space"),
        ([Suggestion(UNCANONICAL, "r")], {}, "is not the canonical row"),
        ([Suggestion(GOOD[0], "r", fidelity=0.0)], {}, r"fidelity must be in \(0, 1\], is 0"),
        ([Suggestion(GOOD[0], "r", memo={"x": np.float32(1)})], {}, "must be JSON"),
        ([Suggestion(GOOD[0], "r")], {"x": float("nan")}, "must be JSON"),
    ],
)
def test_what_breaks_the_contract_is_refused(items, state, words):
    with pytest.raises(Fault, match=words) as caught:
        ask(Fixed(items, state), PROBLEM.empty(), 5, seed=0, search_number=1, ask_number=0)
    assert "Fixed" in str(caught.value)


def test_known_rows_and_broken_constraints_are_refused():
    history = appended(PROBLEM, PROBLEM.empty(), silent(), Suggestions((Suggestion(GOOD[0], "r"),)), 0)
    with pytest.raises(Fault, match="already in the search"):
        ask(Fixed([Suggestion(GOOD[0], "r")]), history, 5, seed=0, search_number=1, ask_number=1)
    limited = replace(PROBLEM, constraints=(Constraint("macs", upper=5),))
    with pytest.raises(Fault, match="breaks a constraint"):
        ask(
            Fixed([Suggestion(GOOD[0], "r")], problem=limited),
            limited.empty(),
            5,
            seed=0,
            search_number=1,
            ask_number=0,
        )


def test_a_designer_that_suggests_too_many_is_refused():
    class Eager(Designer):
        def wants(self, history: History) -> tuple[()]:
            return ()

        def suggest(self, history: History, count: int, rng: np.random.Generator) -> Suggestions:
            return Suggestions(tuple(Suggestion(row, "r") for row in SPACE.sample(count + 1, rng)))

    designer = Eager(SPACE, PROBLEM.objectives, (), {})
    with pytest.raises(Fault, match="Eager made 5 suggestions, asked for were 4"):
        ask(designer, PROBLEM.empty(), 5, seed=0, search_number=1, ask_number=0)


def test_a_cheaper_repetition_of_a_known_row_is_allowed():
    history = appended(PROBLEM, PROBLEM.empty(), silent(), Suggestions((Suggestion(GOOD[0], "r"),)), 0)
    answer = ask(Fixed([Suggestion(GOOD[0], "r", fidelity=0.5)]), history, 2, seed=0, search_number=1, ask_number=1)
    assert answer.items[0].fidelity == 0.5


def test_unknown_designers_and_options_are_refused_by_field():
    with pytest.raises(Invalid, match="no designer named 'simulated'") as caught:
        make_designer("simulated", SPACE, PROBLEM.objectives, (), {}, {})
    assert caught.value.field == "designer"
    assert caught.value.details["allowed"] == names("designers")
    with pytest.raises(Invalid, match="options are: population_size, sample_size") as caught:
        make_designer("evolution", SPACE, PROBLEM.objectives, (), {}, {"popsize": 3})
    assert caught.value.field == "options.popsize"


@pytest.mark.parametrize("name", ["self", "space", "objectives", "constraints", "predictors"])
def test_options_cannot_be_a_designers_own_parameters(name):
    with pytest.raises(Invalid) as refused:
        make_designer("random", SPACE, PROBLEM.objectives, (), {}, {name: 1})
    assert refused.value.field == f"options.{name}"


def test_predictions_are_numbers_in_the_units_of_the_metric():
    rng = np.random.default_rng(0)
    genes = SPACE.sample(30, rng)
    given = Architectures(SPACE, genes)
    error = Ridge().fit([given], [rng.random(30)], rng)
    designer = make_designer("random", SPACE, PROBLEM.objectives, (), {"error": error}, {})
    rows = predict(designer, genes[:4], PROBLEM.empty())
    expected = error.predict(Architectures(SPACE, genes[:4]))
    assert [row["error"]["mean"] for row in rows] == expected.mean.tolist()
    assert [row["error"]["epistemic_std"] for row in rows] == expected.epistemic_std.tolist()
    assert [row["error"]["std"] for row in rows] == expected.std.tolist()
    assert all(list(row) == ["error"] for row in rows)
    assert predict(silent(), genes[:2], PROBLEM.empty()) == [{}, {}]
    assert predict(designer, genes[:0], PROBLEM.empty()) == []
