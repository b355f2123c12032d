"""What scores are worth, beside scipy on the rows of every draw, and on published scores."""

from __future__ import annotations

import math

import numpy as np
import pytest
from pyarrow import parquet
from scipy import stats

from predictors import standing
from predictors.bootstrap import Interval, draw
from predictors.standing import Standing, Verdict
from tests.shared import SHARED, needs_shared

SEED = 7


def rng(seed: int = SEED) -> np.random.Generator:
    return np.random.default_rng(seed)


def table(n: int, seed: int = 0) -> tuple[dict[str, np.ndarray], np.ndarray, dict[str, np.ndarray]]:
    """Three scores, one of them with holes and one with ties, what was measured, and two baselines."""
    generator = rng(seed)
    y = np.round(generator.normal(size=n), 1)
    scores = {name: y + spread * generator.normal(size=n) for name, spread in (("a", 1.0), ("b", 2.0), ("c", 3.0))}
    scores["b"][generator.random(n) < 0.2] = np.nan
    scores["c"] = np.round(scores["c"])
    baselines = {"macs": y + generator.normal(size=n)}
    baselines["params"] = np.round(baselines["macs"] + 0.3 * generator.normal(size=n), 1)
    return scores, y, baselines


def drawn(n: int, n_boot: int) -> list[np.ndarray]:
    """The rows of every draw that `standings` makes of n rows."""
    seed = int(rng().integers(2**62))
    counts = draw(np.transpose, n, np.random.default_rng(seed), n_boot).T
    return [np.repeat(np.arange(n), each.astype(int)) for each in counts]


def tau(x: np.ndarray, y: np.ndarray) -> float:
    return float(stats.kendalltau(x, y).statistic)


def rho(x: np.ndarray, y: np.ndarray) -> float:
    return float(stats.spearmanr(x, y).statistic)


def partial(*columns: np.ndarray) -> float:
    """Kendall's formula for one control, applied again for the next."""
    if len(columns) == 2:
        return tau(*columns)
    first, second, *controls, last = columns
    between, one, other = (partial(*pair, *controls) for pair in ((first, second), (first, last), (second, last)))
    return (between - one * other) / math.sqrt((1 - one**2) * (1 - other**2))


@pytest.mark.parametrize("name", ["a", "b", "c"])
def test_statistics_and_intervals_are_those_of_the_drawn_rows(name: str) -> None:
    scores, y, baselines = table(230)
    found = standing.standings(scores, y, baselines, rng(), n_boot=30)[name]
    here = np.isfinite(scores[name])
    x, best, macs, params = (
        values[here] for values in (scores[name], standing.best_rows(y), baselines["macs"], baselines["params"])
    )
    y = y[here]

    def check(statistic: object, interval: Interval | None, kept: np.ndarray | None = None) -> None:
        assert callable(statistic)
        assert interval is not None
        kept = np.ones(len(y), dtype=bool) if kept is None else kept
        assert interval.n == kept.sum()
        assert interval.value == pytest.approx(statistic(np.flatnonzero(kept)))
        draws = [statistic(rows[kept[rows]]) for rows in drawn(len(y), 30)]
        np.testing.assert_allclose([interval.low, interval.high], np.quantile(draws, [0.025, 0.975]), atol=1e-6)

    check(lambda rows: tau(x[rows], y[rows]), found.kendall)
    check(lambda rows: rho(x[rows], y[rows]), found.spearman)
    check(lambda rows: tau(x[rows], y[rows]), found.best_kendall, best)
    check(lambda rows: rho(x[rows], y[rows]), found.best_spearman, best)
    check(lambda rows: partial(x[rows], y[rows], macs[rows], params[rows]), found.partial)
    for beside, base in zip(found.beside, (macs, params), strict=True):
        check(lambda rows, base=base: tau(base[rows], y[rows]), beside.tau)
        check(lambda rows, base=base: tau(x[rows], y[rows]) - tau(base[rows], y[rows]), beside.difference)


def test_the_best_tenth_is_that_of_all_rows_with_what_ties_its_last() -> None:
    y = np.array([5.0, 1, 5, 4, 4, 3, 2, 1, 0, 4, 4])
    np.testing.assert_array_equal(np.flatnonzero(standing.best_rows(y)), [0, 2])
    np.testing.assert_array_equal(np.flatnonzero(standing.best_rows(np.append(y, [1] * 10))), [0, 2, 3, 4, 9, 10])
    scores, y, baselines = table(100)
    assert standing.standings(scores, y, baselines, rng(), n_boot=5)["a"].best_kendall is None


def same(one: Standing, other: Standing, tolerance: float = 0) -> bool:
    def numbers(found: Standing) -> list[float]:
        intervals = [found.kendall, found.spearman, found.partial, *(each.difference for each in found.beside)]
        return [number for each in intervals for number in (each.value, each.low, each.high)]

    return np.allclose(numbers(one), numbers(other), atol=tolerance, rtol=0, equal_nan=True)


def test_a_score_stands_where_it_stands_whatever_else_is_in_the_table() -> None:
    scores, y, baselines = table(60)
    found = standing.standings(scores, y, baselines, rng(), n_boot=50)
    assert list(found) == ["a", "b", "c"]
    for name, values in scores.items():
        alone = standing.standings({name: values}, y, baselines, rng(), n_boot=50)[name]
        assert same(alone, found[name])
        turned = standing.standings({name: np.exp(values)}, 3 * y + 1, baselines, rng(), n_boot=50)[name]
        assert same(turned, found[name])
        assert not same(standing.standings({name: values}, y, baselines, rng(1), n_boot=50)[name], found[name])


def test_many_rows_are_linearised_with_next_to_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, y, baselines = table(400)
    exact = standing.standings(scores, y, baselines, rng())
    monkeypatch.setattr(standing, "_EXACT_ROWS", 10)
    for name, found in standing.standings(scores, y, baselines, rng()).items():
        assert same(found, exact[name], 0.005)
        assert not same(found, exact[name])


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    generator, covered, runs = rng(3), np.zeros(3), 200
    for _ in range(runs):
        y, *noise = generator.normal(size=(4, 60))
        x, macs = y + noise[0], y + 2 * noise[1]
        found = standing.standings({"x": x}, y, {"macs": macs}, generator, n_boot=200)["x"]
        # Of normal columns tau is 2/π · arcsin of the correlation (Kendall & Gibbons, 1990).
        true, base = (2 / math.pi * math.asin(1 / math.sqrt(1 + spread**2)) for spread in (1, 2))
        rank = 6 / math.pi * math.asin(1 / math.sqrt(2) / 2)
        for place, (interval, value) in enumerate(
            ((found.kendall, true), (found.spearman, rank), (found.beside[0].difference, true - base))
        ):
            covered[place] += interval.low <= value <= interval.high
    assert (covered / runs > 0.9).all(), covered / runs
    assert (covered / runs < 0.99).all(), covered / runs


def test_verdicts() -> None:
    generator = rng(2)
    y = generator.normal(size=200)
    macs = y + generator.normal(size=200)
    scores = {
        "good": y + 0.3 * generator.normal(size=200),
        "same": np.exp(macs),
        "poor": generator.normal(size=200),
        "constant": np.ones(200),
        "rare": np.where(np.arange(200) < 19, y, np.nan),
        "single": np.where(np.arange(200) < 1, y, np.nan),
        "never": np.full(200, np.nan),
    }
    found = standing.standings(scores, y, {"macs": macs, "noise": generator.normal(size=200)}, rng(), n_boot=300)
    verdicts = {name: tuple(beside.verdict for beside in each.beside) for name, each in found.items()}
    few = (Verdict.TOO_FEW, Verdict.TOO_FEW)
    assert verdicts == {
        "good": (Verdict.BETTER, Verdict.BETTER),
        "same": (Verdict.NO_BETTER, Verdict.BETTER),
        "poor": (Verdict.WORSE, Verdict.NO_BETTER),
        "constant": (Verdict.WORSE, Verdict.NO_BETTER),
        "rare": few,
        "single": few,
        "never": few,
    }
    # What orders as MACs do says nothing beyond them, and with noise alone held fixed it says nearly all that it did.
    assert math.isnan(found["same"].partial.value)
    assert (found["constant"].kendall.n, found["rare"].kendall.n, found["single"].kendall.n) == (200, 19, 1)
    assert math.isnan(found["constant"].kendall.value)
    assert math.isnan(found["never"].kendall.low)
    constant = standing.standings({"good": scores["good"]}, np.zeros(200), {"macs": macs}, rng(), n_boot=20)["good"]
    assert constant.beside[0].verdict is Verdict.TOO_FEW


def test_baselines_that_order_alike_are_held_fixed_once() -> None:
    scores, y, baselines = table(80)
    alone = standing.standings(scores, y, {"macs": baselines["macs"]}, rng(), n_boot=40)["a"]
    twice = {"macs": baselines["macs"], "params": 3 * baselines["macs"] + 1, "depth": np.ones(80)}
    both = standing.standings(scores, y, twice, rng(), n_boot=40)["a"]
    assert both.partial == alone.partial
    none = standing.standings(scores, y, {}, rng(), n_boot=40)["a"]
    assert (none.partial.value, none.partial.low) == pytest.approx((none.kendall.value, none.kendall.low))


def test_correlations_are_of_the_rows_that_two_have() -> None:
    scores, y, _ = table(100)
    scores["few"] = np.where(np.arange(100) < 19, y, np.nan)
    scores["constant"] = np.ones(100)
    columns = [y, *scores.values()]
    found, n = standing.correlations(columns)
    for i, one in enumerate(columns):
        for j, other in enumerate(columns):
            both = np.isfinite(one) & np.isfinite(other)
            assert n[i, j] == both.sum()
            if both.sum() < 20 or 5 in (i, j):
                assert math.isnan(found[i, j])
            else:
                assert found[i, j] == pytest.approx(rho(one[both], other[both]))


def test_what_is_no_table_is_refused() -> None:
    y = np.arange(30.0)
    for scores, measured, baselines in (
        ({"a": y[:5]}, y, {}),
        ({"a": np.where(y > 3, np.inf, y)}, y, {}),
        ({"a": y}, np.where(y > 3, np.nan, y), {}),
        ({"a": y}, y, {"macs": np.where(y > 3, np.nan, y)}),
    ):
        with pytest.raises(ValueError, match=r"columns must be|must be finite"):
            standing.standings(scores, measured, baselines, rng())
    assert standing.standings({}, y, {"macs": y}, rng()) == {}
    assert standing.standings({"a": []}, [], {}, rng())["a"].kendall.n == 0


@needs_shared
def test_published_scores_of_the_published_table() -> None:
    """Rank correlations as papers report them, and most of the published proxies rank no better than counting."""
    folder = SHARED / "data/nb201"
    names = ["synflow", "snip", "grad_norm", "grasp", "jacov", "nwot", "plain"]
    published = parquet.read_table(folder / "cifar10_proxies.parquet", columns=names)
    scores = {name: np.array(published[name].to_pylist(), dtype=np.float64) for name in names}
    archs = parquet.read_table(folder / "archs.parquet", columns=["params_m", "flops_m"])
    accuracy = np.array(parquet.read_table(folder / "cifar10_acc.parquet", columns=["test_acc_200"])[0].to_pylist())
    some = rng().choice(len(accuracy), 2000, replace=False)
    baselines = {name: np.array(archs[name].to_pylist())[some] for name in ("flops_m", "params_m")}
    found = standing.standings(
        {name: values[some] for name, values in scores.items()}, accuracy[some], baselines, rng(), n_boot=200
    )
    # As published, of other draws; cells with dead operations, which score low, have no published score here.
    papers = {"synflow": 0.74, "nwot": 0.76, "jacov": 0.73, "snip": 0.60, "grad_norm": 0.59}
    for name, expected in papers.items():
        assert found[name].spearman.value == pytest.approx(expected, abs=0.08), name
    verdicts = {name: [beside.verdict for beside in each.beside] for name, each in found.items()}
    assert verdicts["synflow"] == [Verdict.NO_BETTER, Verdict.WORSE]
    assert verdicts["jacov"] == verdicts["nwot"] == [Verdict.BETTER, Verdict.NO_BETTER]
    assert verdicts["snip"] == verdicts["grasp"] == verdicts["plain"] == [Verdict.WORSE, Verdict.WORSE]
    # What good networks are among the good ones none of them says.
    for each in found.values():
        assert each.best_kendall is not None
        assert abs(each.best_kendall.value) < 0.5 * abs(each.kendall.value)
    assert found["jacov"].partial.low > found["synflow"].partial.high > 0.2
