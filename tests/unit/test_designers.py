"""What is special to single designers: options, Optuna's memory, trust, surrogates."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from predictors.predictor import Architectures, Prediction
from search_spaces.plugins import load, names
from service.core.errors import Invalid
from service.core.objectives import Constraint, Direction, Objective, minimised
from service.core.pareto import hypervolume
from service.search.ask import ask, make_designer
from service.search.constraints import breach, mutants, near, taken_rows, total_violation, uniform, unseen
from service.search.options import Option, read
from service.search.surrogate import Surrogate, credible_spread, evolve
from service.search.trust import audit
from tests.searches import ERROR, Problem, Ridge, Toy, appended, ended, fitted, mismatch, simulate

SPACE = Toy()
PROBLEM = Problem(SPACE, mismatch(SPACE))


def made(name: str, problem: Problem = PROBLEM, predictors=None, **options):
    return make_designer(name, problem.space, problem.objectives, problem.constraints, predictors or {}, options)


# ---------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("designer", "option", "value", "words"),
    [
        ("evolution", "population_size", 1, "a whole number, at least 2; got 1"),
        ("evolution", "population_size", 2.5, "a whole number, at least 2; got 2.5"),
        ("evolution", "sample_size", True, "a whole number"),
        ("nsga2", "crossover_prob", 1.5, "a number, at least 0 and at most 1; got 1.5"),
        ("nsga2", "crossover_prob", float("nan"), "a number"),
        ("nsga2", "swapping_prob", "half", "a number"),
        ("tpe", "multivariate", 1, "true or false"),
        ("tpe", "startup", 10**400, "a whole number"),
        ("guided", "family", "oracle", "must be one of: .*boosting"),
        ("guided", "family", ["boosting"], "must be one of"),
        ("guided", "family_options", [1], "must be an object"),
        ("guided", "untrusted_share", -0.1, "at least 0"),
        ("random", "population_size", 3, "is not an option here, options are: none"),
    ],
)
def test_wrong_options_are_refused_by_name(designer, option, value, words):
    with pytest.raises(Invalid, match=words) as caught:
        made(designer, **{option: value})
    assert caught.value.field == f"options.{option}"


def test_defaults_are_filled_in_and_whole_numbers_will_do_for_others():
    table = (Option("a", 3, "how many", low=1), Option("b", 0.5, "which share", low=0, high=1))
    read_ = read(table, {"b": 1})
    assert read_ == {"a": 3, "b": 1.0}
    assert isinstance(read_["b"], float)


@pytest.mark.parametrize("name", names("designers"))
def test_optuna_and_torch_are_not_imported_before_they_are_used(name):
    code = (
        "import sys; from search_spaces.plugins import load; import service.core, service.search; "
        f"load('designers', {name!r}); "
        "print([m for m in ('optuna', 'torch', 'xgboost', 'sqlalchemy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# ---------------------------------------------------------------------- drawing


def test_uniform_draws_leave_out_what_is_taken_and_what_breaks_constraints():
    space = Toy(blocks=2)
    limits = (Constraint("macs", lower=20, upper=60),)
    rng = np.random.default_rng(0)
    every = uniform(space, limits, 100, rng, frozenset())
    costs = space.cost(every)["macs"]
    listed = space.sample(100, rng)
    assert len(listed) == 20
    assert len(every) == (breach(space, limits, listed) == 0).sum()
    assert ((costs >= 20) & (costs <= 60)).all()
    taken = {row.tobytes() for row in every[:4]}
    left = uniform(space, limits, 100, rng, taken)
    assert {row.tobytes() for row in left} == {row.tobytes() for row in every[4:]}
    assert len(uniform(space, (Constraint("macs", upper=1),), 5, rng, frozenset())) == 0


def test_uniform_draws_are_uniform():
    space = Toy(blocks=1, widths=5, gated=False)
    rng = np.random.default_rng(0)
    drawn = np.concatenate([uniform(space, (), 2, rng, frozenset()) for _ in range(1000)])
    counts = np.bincount(drawn[:, 0], minlength=5)
    assert (np.abs(counts - 400) < 80).all()


def test_walks_reach_what_draws_do_not():
    space = Toy(blocks=14, gated=False)
    limits = (Constraint("macs", lower=1400, upper=1410),)
    rng = np.random.default_rng(0)
    found = near(space, limits, 5, rng, frozenset())
    assert len(found) == 5
    assert (breach(space, limits, found) == 0).all()
    assert len(unseen(found, frozenset())) == 5
    assert near(space, limits, 0, rng, frozenset()).shape == (0, 14)


def test_mutants_are_new_and_none_where_all_neighbours_are_taken():
    space = Toy(blocks=1, widths=3, gated=False)
    rng = np.random.default_rng(0)
    parents = np.zeros((3, 1), dtype=np.int8)
    children = mutants(space, (), parents, rng, {b"\0"})
    assert sorted(child.tolist() for child in children if child is not None) == [[1], [2]]
    assert sum(child is None for child in children) == 1


def test_violations_of_different_units_weigh_by_their_bounds():
    limits = (Constraint("macs", upper=1000), Constraint("latency_ms", lower=-4, upper=2), Constraint("error", upper=0))
    broken = np.array([[500, 0, 0], [0, 2, 0], [0, 0, 0.25], [0, np.nan, 0]])
    assert total_violation(limits, broken).tolist() == [0.5, 0.5, 0.25, np.inf]
    assert total_violation((), np.empty((2, 0))).tolist() == [0.0, 0.0]


# ---------------------------------------------------------------------- evolution


def test_only_the_youngest_have_children():
    """After a population of good architectures, a younger one of bad ones has all the children."""
    space = Toy(blocks=8, gated=False)
    rows = np.array([[0] * 8] * 4 + [[3] * 8] * 4, dtype=np.int8)
    rows[:, 0] = np.arange(8) % 4
    problem = Problem(space, lambda genes: [{"error": float((g > 0).mean())} for g in genes], objectives=(ERROR,))
    history = replace(
        simulate(problem, lambda _: made("random", problem), asks=1, count=8),
        genes=rows,
        objectives=np.array([[0.1]] * 4 + [[0.9]] * 4),
        states=np.array(["SUCCEEDED"] * 8),
    )
    young = made("evolution", problem, population_size=4, sample_size=4).suggest(history, 6, np.random.default_rng(0))
    assert all((item.genes == 3).sum() >= 6 for item in young.items)
    old = made("evolution", problem, population_size=8, sample_size=60).suggest(history, 6, np.random.default_rng(0))
    assert all((item.genes == 0).sum() >= 6 for item in old.items)


# ---------------------------------------------------------------------- Optuna


def generations(history) -> list[int]:
    return [memo["optuna"]["NSGAIISampler:generation"] for memo in history.memo if memo]


def test_nsga2_leaves_its_first_generation():
    history = simulate(PROBLEM, lambda _: made("nsga2", population_size=6), asks=8, count=10)
    assert generations(history) == sorted(generations(history))
    assert max(generations(history)) >= 4


def test_nsga2_chooses_the_parents_of_a_generation_once():
    history = simulate(PROBLEM, lambda _: made("nsga2", population_size=10), asks=6, count=10, slack=3)
    key = max(history.state["parents"], key=lambda key: int(key.rpartition(":")[2]))
    parents = history.state["parents"][key]
    assert len(parents) == 10
    assert all(history.complete[np.searchsorted(history.numbers, parents)])
    later = ended(PROBLEM, history, np.flatnonzero(history.pending))
    answer = made("nsga2", population_size=10).suggest(later, 1, np.random.default_rng(0))
    assert answer.state["parents"][key] == parents


def test_the_state_of_nsga2_stays_small():
    history = simulate(PROBLEM, lambda _: made("nsga2", population_size=4), asks=12, count=8)
    assert max(generations(history)) > 10
    assert len(history.state["parents"]) <= 2


@pytest.mark.parametrize("name", ["nsga2", "tpe"])
def test_a_rebuilt_sampler_does_not_propose_the_same_point_for_ever(name):
    """From one and the same history, asked with the generators of successive asks."""
    history = simulate(PROBLEM, lambda _: made(name), asks=2, count=8)
    rows = [
        ask(made(name), history, 1, seed=0, search_number=1, ask_number=number, probe_share=0).items[0].genes.tolist()
        for number in range(2, 12)
    ]
    assert len({tuple(row) for row in rows}) > 5


@pytest.mark.parametrize("name", ["nsga2", "tpe"])
def test_optuna_says_nothing(name, capfd):
    simulate(PROBLEM, lambda _: made(name), asks=3, count=5)
    assert capfd.readouterr() == ("", "")


def test_infeasible_trials_have_no_children():
    """Rows with a wide first block, three in four, break the constraint, though their objectives are the best."""
    problem = replace(
        PROBLEM,
        measure=lambda genes: [{"error": 0.0 if g[1] > 0 else 0.5, "macs": 1.0, "heat": float(g[1])} for g in genes],
        constraints=(Constraint("heat", upper=0),),
    )
    for name, options in (("nsga2", {"population_size": 10}), ("evolution", {"population_size": 10}), ("tpe", {})):
        history = simulate(problem, lambda _, n=name, o=options: made(n, problem, **o), asks=10, count=8)
        late = (history.asks >= 5) & ~history.probe
        assert (history.genes[late, 1] == 0).mean() > 0.5, name


# ---------------------------------------------------------------------- guided


class Known(Ridge):
    """A predictor that is always right, or always wrong the same way."""

    def __init__(self, problem: Problem, sign: float = 1.0, std: float = 0.0) -> None:
        super().__init__()
        self.problem, self.sign, self.spread = problem, sign, std

    def predict(self, architectures: Architectures) -> Prediction:
        mean = self.sign * np.array([row["error"] for row in self.problem.measure(architectures.genes)])
        return Prediction(mean, np.full(len(mean), self.spread), np.full(len(mean), self.spread))


def probed(problem: Problem, count: int, predicted):
    """A history of random trials, all probes, with given predictions of the error."""
    history = problem.empty()
    designer = made("random", problem)
    answer = ask(designer, history, count, seed=0, search_number=1, ask_number=0)
    history = ended(problem, appended(problem, history, designer, answer, 0), np.arange(count))
    said = history.predicted.copy()
    said[:, 0] = predicted(history.objectives[:, 0])
    return replace(history, predicted=said)


def test_a_perfect_predictor_is_trusted_and_then_followed_entirely():
    problem = Problem(space := Toy(blocks=8), mismatch(space))
    history = probed(problem, 40, lambda error: error)
    verdict = audit(space, history, 0, np.random.default_rng(0))
    assert verdict.trusted
    assert verdict.probes == 40
    designer = made("guided", problem, {"error": Known(problem)}, untrusted_share=1.0)
    items = designer.suggest(history, 4, np.random.default_rng(0)).items
    assert len(items) == 4
    assert all(item.reason.startswith("predicted hypervolume gain") for item in items)
    # What is predicted to be gained is gained, since the predictions are right.
    found = minimised(problem.objectives, problem.measure(np.stack([item.genes for item in items])))
    gain = hypervolume(problem.objectives, np.concatenate([history.objectives, found]), None)
    gain -= hypervolume(problem.objectives, history.objectives)
    assert gain == pytest.approx(sum(float(item.reason.split()[-1]) for item in items), rel=0.05)


def test_a_useless_predictor_is_doubted_and_random_draws_take_its_share():
    history = probed(PROBLEM, 40, lambda error: np.random.default_rng(0).random(len(error)))
    assert not audit(SPACE, history, 0, np.random.default_rng(0)).trusted
    designer = made("guided", predictors={"error": Known(PROBLEM)}, untrusted_share=1.0)
    items = designer.suggest(history, 8, np.random.default_rng(0)).items
    assert all(item.reason.startswith("random: the predictor is ") and item.probe for item in items)


def test_with_few_probes_mutants_of_the_front_take_that_share():
    history = probed(PROBLEM, 40, lambda error: np.r_[error[:14], np.full(26, np.nan)])
    designer = made("guided", predictors={"error": Known(PROBLEM)}, untrusted_share=1.0)
    items = designer.suggest(history, 8, np.random.default_rng(0)).items
    assert all("14 of 15 probes are measured" in item.reason and not item.probe for item in items)


def test_baselines_point_the_way_the_other_trials_show():
    """The error falls with MACs here: MACs alone rank perfectly, and no predictor can be better than that."""
    problem = replace(
        PROBLEM, measure=lambda g: [{"error": -float(m), "macs": float(m)} for m in SPACE.cost(g)["macs"]]
    )
    history = probed(problem, 60, lambda error: np.r_[error[:30], np.full(30, np.nan)])
    verdict = audit(SPACE, history, 0, np.random.default_rng(0))
    assert verdict.baselines["macs"].value == pytest.approx(1.0)
    assert not verdict.trusted


def test_counted_objectives_and_constraints_are_not_predicted():
    designer = made("guided", Problem(SPACE, PROBLEM.measure, constraints=(Constraint("macs", upper=100),)), initial=8)
    history = probed(PROBLEM, 10, lambda error: error)
    history = replace(history, violations=np.zeros((10, 1)))
    requests = designer.wants(history)
    assert [(request.metric, request.family) for request in requests] == [("error", "boosting")]
    assert designer.wants(PROBLEM.empty()) == ()


def test_measured_constraints_are_predicted_and_kept_to():
    problem = replace(
        PROBLEM,
        measure=lambda genes: [
            row | {"heat": float(g[1:4].sum())} for row, g in zip(mismatch(SPACE)(genes), genes, strict=True)
        ],
        constraints=(Constraint("heat", upper=3.5),),
    )
    make = lambda predictors: made("guided", problem, predictors, initial=16, population=60, generations=8)  # noqa: E731
    history = simulate(problem, make, asks=6, count=8)
    assert {request.metric for request in make({}).wants(history)} == {"error", "heat"}
    designer = make(fitted(problem, make({}), history))
    items = designer.suggest(history, 8, np.random.default_rng(1)).items
    chosen = [item for item in items if item.reason.startswith("predicted")]
    assert len(chosen) >= 4
    assert sum(item.genes[1:4].sum() <= 3 for item in chosen) >= len(chosen) - 1


def test_the_surrogate_scales_turns_and_counts():
    objectives = (
        Objective("score", Direction.MAXIMISE, (1.0, 0.0)),
        Objective("macs", Direction.MINIMISE, (0.0, 1000.0)),
    )

    class Half(Ridge):
        def predict(self, architectures: Architectures) -> Prediction:
            n = len(architectures)
            return Prediction(np.full(n, 0.75), np.full(n, 0.1), np.full(n, 0.2))

    limits = (Constraint("macs", upper=10), Constraint("score", lower=0.75))
    genes = SPACE.sample(3, np.random.default_rng(0))
    estimate = Surrogate(SPACE, objectives, limits, {"score": Half()}, np.array([0.05, 0.05]))(genes)
    assert estimate.mean[:, 0].tolist() == pytest.approx([0.25] * 3)
    assert estimate.std.tolist() == pytest.approx(np.array([[0.05, 0.0]] * 3))
    macs = SPACE.cost(genes)["macs"]
    assert estimate.mean[:, 1].tolist() == pytest.approx(macs / 1000)
    assert estimate.breach.tolist() == pytest.approx(np.maximum(macs - 10, 0) / 10)
    assert estimate.feasible.tolist() == pytest.approx([0.5] * 3)


def test_failures_in_the_bad_tail_do_not_widen_what_is_credible():
    values = np.array([[0.1, 0.0], [0.2, 0.0], [0.3, 0.0], [0.9, 1.0], [0.9, 1.0]])
    assert credible_spread(values).tolist() == pytest.approx([0.5 * (0.3 - 0.14), 0.0])


def test_evolution_over_a_surrogate_finds_its_front():
    space = Toy(blocks=8)
    problem = Problem(space, mismatch(space))
    surrogate = Surrogate(space, problem.objectives, (), {"error": Known(problem)}, np.ones(2))
    rng = np.random.default_rng(0)
    seeds = space.sample(40, rng)
    genes, estimate = evolve(surrogate, space, seeds, 40, 40, 1.0, rng)
    assert len(np.unique(genes, axis=0)) == len(genes) == len(estimate.mean)
    assert estimate.mean[:, 0].min() == 0.0
    assert surrogate(seeds).mean[:, 0].min() > 0.2


def test_a_batch_spreads_over_the_front():
    space = Toy(blocks=8)
    problem = Problem(space, mismatch(space))
    history = probed(problem, 24, lambda error: error)
    items = (
        made("guided", problem, {"error": Known(problem, std=0.02)}).suggest(history, 9, np.random.default_rng(0)).items
    )
    macs = space.cost(np.stack([item.genes for item in items]))["macs"]
    assert len(set(macs.tolist())) >= 6


@pytest.mark.parametrize("name", ["boosting"])
def test_the_families_that_are_there_guide_a_search(name):
    """The real predictor: most of a separable function is learnt from 40 measurements."""
    family = load("predictors", name)
    history = simulate(PROBLEM, lambda _: made("random"), asks=4, count=10)
    genes = history.genes[history.complete]
    errors = history.objectives[history.complete, 0]
    predictor = family().fit([Architectures(SPACE, genes)], [errors], np.random.default_rng(0))
    items = made("guided", predictors={"error": predictor}).suggest(history, 8, np.random.default_rng(0)).items
    chosen = np.array([row["error"] for row in PROBLEM.measure(np.stack([item.genes for item in items]))])
    assert len(items) == 8
    assert chosen.min() < errors.mean()


def test_taken_rows_are_those_of_the_full_fidelity():
    history = probed(PROBLEM, 4, lambda error: error)
    history = replace(history, fidelity=np.array([1.0, 0.5, 1.0, 0.5]))
    assert taken_rows(history) == {history.genes[0].tobytes(), history.genes[2].tobytes()}
