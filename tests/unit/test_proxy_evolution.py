"""Evolution assisted by a proxy: families of candidates, the best-scored, and what an ask does with cheap trials."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from predictors.predictor import Architectures, Prediction, Predictor
from service.core.errors import Fault, Invalid
from service.core.history import History
from service.core.objectives import Constraint, Direction, Objective
from service.search import proxy_evolution
from service.search.ask import MOST_CHEAP, MOST_CHEAP_ASKS, ask, make_designer
from service.search.designer import Designer, Suggestion, Suggestions
from tests.searches import ERROR, Problem, Toy, appended, ended, mismatch, scored

SPACE = Toy(blocks=8, gated=False)
PROBLEM = Problem(SPACE, mismatch(SPACE), objectives=(ERROR,))
OPTIONS = {"population_size": 6, "sample_size": 3, "candidates": 4, "proxy": "gradsign"}


def made(predictors: Mapping[str, Predictor] | None = None, **options: Any) -> Designer:
    return make_designer("proxy_evolution", SPACE, (ERROR,), (), predictors or {}, OPTIONS | options)


def told(history: History, answer: Suggestions, number: int) -> History:
    return appended(PROBLEM, history, made(), answer, number)


def populated(**options: Any) -> History:
    """A history of the first population, measured."""
    answer = made(**options).suggest(PROBLEM.empty(), 6, np.random.default_rng(0))
    assert len(answer.items) == 6
    assert all(item.metrics is None and item.reason.startswith("random") for item in answer.items)
    return ended(PROBLEM, told(PROBLEM.empty(), answer, 0), np.arange(6))


def queued(history: History) -> Any:
    return np.flatnonzero(history.states == "QUEUED")


def test_a_family_is_scored_and_its_best_is_measured() -> None:
    history = populated()
    answer = made().suggest(history, 3, np.random.default_rng(1))
    assert [dict(item.memo) for item in answer.items] == [{"family": f} for f in (0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2)]
    assert {item.metrics for item in answer.items} == {("gradsign",)}
    assert len({item.genes.tobytes() for item in answer.items}) == 12
    for item in answer.items:
        assert (history.genes != item.genes).sum(axis=1).min() == 1, "a mutant of one that was measured"
    history = told(history, answer, 1)
    waiting = made().suggest(history, 3, np.random.default_rng(2))
    assert waiting.items == (), "all that may be measured is being scored"
    history = scored(PROBLEM, history, queued(history)[:8])
    some = made().suggest(history, 3, np.random.default_rng(2))
    assert [dict(item.memo) for item in some.items] == [{"family": 0}, {"family": 1}]
    assert all(item.metrics is None for item in some.items)
    for item in some.items:
        members = [i for i, memo in enumerate(history.memo) if memo == item.memo]
        scores = PROBLEM.score(history.genes[members])
        assert item.genes.tolist() == history.genes[members[int(np.nanargmax(scores))]].tolist()
        assert item.reason == f"best of 4 mutants of a tournament winner by gradsign, {np.nanmax(scores):.6g}"
    history = scored(PROBLEM, told(history, some, 2), queued(history))
    last = made().suggest(history, 3, np.random.default_rng(3))
    families = [dict(item.memo)["family"] for item in last.items]
    assert families == [2, 3, 3, 3, 3, 4, 4, 4, 4], "the third family is measured, two more are scored"
    assert [item.metrics for item in last.items] == [None, *[("gradsign",)] * 8]


def test_undefined_candidates_are_passed_over_and_a_whole_family_of_them_is_not_lost() -> None:
    history = populated()
    history = told(history, made().suggest(history, 2, np.random.default_rng(1)), 1)
    rows = queued(history)
    states, column = history.states.copy(), history.features["gradsign"].copy()
    # Of the first family only the second member has a score, of the other one none.
    states[rows] = "INFEASIBLE"
    states[rows[1]], column[rows[1]] = "SUCCEEDED", -3.0
    history = replace(history, states=states, features={"gradsign": column})
    first, second = made().suggest(history, 2, np.random.default_rng(2)).items
    assert first.genes.tolist() == history.genes[rows[1]].tolist()
    assert second.genes.tolist() == history.genes[rows[4]].tolist()
    assert second.reason == "mutant of a tournament winner: none of 4 has a gradsign score"
    # Those that have none are not candidates again.
    history = told(history, Suggestions((first, second)), 2)
    lost = {history.genes[row].tobytes() for row in rows[states[rows] == "INFEASIBLE"]}
    more = [made().suggest(history, 6, np.random.default_rng(seed)) for seed in range(8)]
    assert not lost & {item.genes.tobytes() for answer in more for item in answer.items}


def test_failed_scores_are_as_if_undefined_and_what_was_measured_meanwhile_is_not_measured_again() -> None:
    history = populated()
    history = told(history, made().suggest(history, 1, np.random.default_rng(1)), 1)
    rows = queued(history)
    history = scored(PROBLEM, history, rows)
    history = ended(PROBLEM, history, rows[2:3], "LOST")
    scores = PROBLEM.score(history.genes[rows])
    order = np.argsort(np.where(np.isnan(scores), -np.inf, scores))[::-1]
    best = rows[order[0]]
    probe = Suggestion(history.genes[best], "probe", probe=True)
    history = told(history, Suggestions((probe,)), 2)
    (item,) = made().suggest(history, 1, np.random.default_rng(2)).items
    assert item.metrics is None
    assert item.genes.tolist() == history.genes[rows[order[1]]].tolist()


def test_proxies_of_which_less_is_better(monkeypatch: pytest.MonkeyPatch) -> None:
    (about,) = proxy_evolution.catalogue(["gradsign"])
    monkeypatch.setattr(proxy_evolution, "catalogue", lambda names: (replace(about, direction="lower"),))
    history = populated()
    history = told(history, made().suggest(history, 1, np.random.default_rng(1)), 1)
    rows = queued(history)
    (item,) = made().suggest(scored(PROBLEM, history, rows), 1, np.random.default_rng(2)).items
    scores = PROBLEM.score(history.genes[rows])
    assert item.genes.tolist() == history.genes[rows[int(np.nanargmin(scores))]].tolist()
    assert f"{np.nanmin(scores):.6g}" in item.reason


def test_evaluations_come_first_where_the_population_is_not_full() -> None:
    answer = made().suggest(PROBLEM.empty(), 4, np.random.default_rng(0))
    history = ended(PROBLEM, told(PROBLEM.empty(), answer, 0), np.arange(4))
    mixed = made().suggest(history, 4, np.random.default_rng(1)).items
    assert [item.metrics for item in mixed] == [None, None, *[("gradsign",)] * 8]


class Reads(Predictor):
    """Says what it was told that a score is worth, and remembers what it was asked."""

    def __init__(self, worth: float) -> None:
        self.worth, self.asked = worth, np.empty(0)

    def predict(self, architectures: Architectures) -> Prediction:
        self.asked = architectures.features["gradsign"][:, 0]
        zero = np.zeros(len(architectures))
        return Prediction(self.worth * self.asked, zero, zero)

    def fit(self, groups: Any, targets: Any, rng: Any, *, init_from: Any = None) -> Any:
        raise AssertionError("fitted by jobs")

    def dump(self) -> bytes:
        raise AssertionError("fitted by jobs")

    @classmethod
    def load(cls, data: bytes) -> Any:
        raise AssertionError("fitted by jobs")


@pytest.mark.parametrize("worth", [-1.0, 1.0])
def test_predictors_read_the_scores(worth: float) -> None:
    """Whatever the proxy's direction is: what a score is worth has been learnt."""
    options = {"ranking": "predictor", "population_size": 16}
    answer = made(**options).suggest(PROBLEM.empty(), 16, np.random.default_rng(0))
    assert [item.metrics for item in answer.items] == [None] * 16 + [("gradsign",)] * 16, (
        "the first ones are scored too"
    )
    assert [i.genes.tolist() for i in answer.items[:16]] == [i.genes.tolist() for i in answer.items[16:]]
    history = ended(PROBLEM, told(PROBLEM.empty(), answer, 0), np.arange(16))
    history = scored(PROBLEM, history, np.arange(16, 32))
    assert made(**options).wants(history) == (), "nothing is ranked yet"
    history = told(history, made(**options).suggest(history, 1, np.random.default_rng(1)), 1)
    assert made(**options).wants(history) == ()
    history = scored(PROBLEM, history, queued(history))
    assert np.isfinite(PROBLEM.score(history.genes[:16])).sum() >= 10
    wants = made(**options).wants(history)
    assert [(w.metric, w.family, w.features) for w in wants] == [("error", "boosting", ("gradsign",))]
    assert made(**{**options, "ranking": "score"}).wants(history) == ()
    error = Reads(worth)
    (item,) = made({"error": error}, **options).suggest(history, 1, np.random.default_rng(2)).items
    scores = PROBLEM.score(history.genes[32:])
    assert sorted(error.asked) == sorted(scores[np.isfinite(scores)])
    best = np.nanmax(scores) if worth < 0 else np.nanmin(scores)
    assert item.reason == f"best of 4 mutants of a tournament winner as predicted with gradsign, {best:.6g}"
    assert item.genes.tolist() == history.genes[32 + int(np.flatnonzero(scores == best)[0])].tolist()
    # Without its predictor, as when a fit failed, the score ranks.
    (item,) = made(**options).suggest(history, 1, np.random.default_rng(2)).items
    assert item.reason == f"best of 4 mutants of a tournament winner by gradsign, {np.nanmax(scores):.6g}"


def test_several_objectives_are_predicted_or_counted() -> None:
    problem = Problem(SPACE, mismatch(SPACE))
    options = OPTIONS | {"ranking": "predictor", "candidates": 6}
    design = lambda given: make_designer("proxy_evolution", SPACE, problem.objectives, (), given, options)  # noqa: E731
    history = ended(problem, appended(problem, problem.empty(), design({}), draws(6), 0), np.arange(6))
    history = appended(problem, history, design({}), design({}).suggest(history, 1, np.random.default_rng(1)), 1)
    history = scored(problem, history, queued(history))
    (item,) = design({"error": Reads(-1.0)}).suggest(history, 1, np.random.default_rng(2)).items
    members = history.genes[6:]
    values = np.stack([-problem.score(members), SPACE.cost(members)["macs"]], axis=1)
    values = values[np.isfinite(values[:, 0])]
    mine = values[[row.tolist() == item.genes.tolist() for row in members[np.isfinite(problem.score(members))]]][0]
    assert not any((other <= mine).all() and (other < mine).any() for other in values)


def draws(count: int) -> Suggestions:
    genes = SPACE.sample(count, np.random.default_rng(5))
    return Suggestions(tuple(Suggestion(row, "drawn") for row in genes))


def test_scores_of_a_history_are_found_by_row() -> None:
    history = told(PROBLEM.empty(), asked(Cheap(3, 1), PROBLEM.empty(), 1), 0)
    column = np.array([[1.0], [np.nan], [3.0], [np.nan]])
    history = replace(history, features={"synflow": column})
    assert history.scores(history.genes[[2, 0, 1]])["synflow"].tolist()[:2] == [[3.0], [1.0]]
    assert np.isnan(history.scores(history.genes[[1]])["synflow"]).all()
    assert PROBLEM.empty().scores(history.genes) == {}


def test_options_that_cannot_be() -> None:
    for options, words in (
        ({"proxy": "horoscope"}, "must be one of"),
        ({"candidates": 0}, "at least 1"),
        ({"candidates": 2.0}, "a whole number"),
        ({"ranking": "luck"}, "must be one of: score, predictor"),
        ({"family": "oracle"}, "must be one of"),
    ):
        with pytest.raises(Invalid, match=words):
            made(**options)
    objective = Objective("gradsign", Direction.MAXIMISE, (1.0, 0.0))
    with pytest.raises(Invalid, match="every evaluation measures it"):
        make_designer("proxy_evolution", SPACE, (objective,), (), {}, OPTIONS)
    assert make_designer("proxy_evolution", SPACE, (objective, ERROR), (), {}, OPTIONS).scores == ("gradsign",)
    assert made(proxy="macs").scores == ("macs",)


# ---------------------------------------------------------------------- asks


class Cheap(Designer):
    """Asks for as many cheap trials as it was told, whatever it is asked for; and for ``evaluations``."""

    def __init__(self, cheap: int, evaluations: int = 0, metrics: tuple[str, ...] = ("synflow",)) -> None:
        super().__init__(SPACE, (ERROR,), (Constraint("macs", upper=1e9),), {})
        self.cheap, self.evaluations, self.metrics = cheap, evaluations, metrics

    def wants(self, history: History) -> tuple[()]:
        return ()

    def suggest(self, history: History, count: int, rng: np.random.Generator) -> Suggestions:
        items = [Suggestion(row, "to be scored", metrics=self.metrics) for row in SPACE.sample(self.cheap, rng)]
        items += [Suggestion(row, "to be measured") for row in SPACE.sample(self.evaluations, rng)]
        return Suggestions(tuple(items))


def asked(designer: Designer, history: History, count: int = 4, number: int = 0) -> Suggestions:
    return ask(designer, history, count, seed=0, search_number=1, ask_number=number, probe_share=0.25)


def test_cheap_trials_come_on_top_and_have_no_probes_of_their_own() -> None:
    answer = asked(Cheap(50), PROBLEM.empty())
    assert len(answer.items) == 50
    assert not any(item.probe for item in answer.items)
    both = asked(Cheap(50, 3), PROBLEM.empty())
    assert [item.probe for item in both.items] == [False] * 53 + [True]
    # Probes are a share of the evaluations: 50 cheap trials before change nothing.
    history = told(PROBLEM.empty(), answer, 0)
    assert [item.probe for item in asked(Cheap(0, 3), history, number=1).items] == [False] * 3 + [True]


def test_an_architecture_that_was_scored_may_be_measured_but_none_twice() -> None:
    history = told(PROBLEM.empty(), asked(Cheap(1, 1), PROBLEM.empty(), 1), 0)
    cheap, measured = history.genes

    class Again(Cheap):
        def suggest(self, history: History, count: int, rng: np.random.Generator) -> Suggestions:
            return Suggestions((Suggestion(self.row, "again", metrics=self.metrics if self.cheap else None),))

    for row, metrics, fine in ((cheap, 0, True), (measured, 1, True), (measured, 0, False)):
        designer = Again(metrics)
        designer.row = row  # type: ignore[attr-defined]
        if fine:
            assert asked(designer, history, 1, 1).items[0].genes.tolist() == row.tolist()
        else:
            with pytest.raises(Fault, match="already in the search"):
                asked(designer, history, 1, 1)


def test_designers_that_ask_for_too_much_are_stopped() -> None:
    with pytest.raises(Fault, match="made 5 suggestions, asked for were 3"):
        asked(Cheap(3, 5), PROBLEM.empty())
    with pytest.raises(Fault, match=f"at most {MOST_CHEAP} may be in an ask"):
        asked(Cheap(MOST_CHEAP + 1), PROBLEM.empty())
    with pytest.raises(Fault, match="asks for no metric"):
        asked(Cheap(1, metrics=()), PROBLEM.empty())
    history = PROBLEM.empty()
    for number in range(MOST_CHEAP_ASKS):
        history = told(history, asked(Cheap(1), history, number=number), number)
    with pytest.raises(Fault, match=f"asked {MOST_CHEAP_ASKS} times in a row for cheap trials alone"):
        asked(Cheap(1), history, number=MOST_CHEAP_ASKS)
    assert len(asked(Cheap(1, 1), history, number=MOST_CHEAP_ASKS).items) == 3
