"""What proxies are worth in a study, on both databases and over HTTP, its page and its command."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from typer.testing import CliRunner

from search_spaces.space import Genes
from service.cli.root import app
from service.client import Client
from service.core.objectives import Direction
from service.core.scoring import Scoring
from service.db import architectures, ledger, proxies, scored, standing, studies, undefined
from service.db.session import Database
from service.settings import Settings
from tests.serving import Served, served
from tests.world import World, error_of

SEEN = 40
NOISE = np.random.default_rng(1).normal(size=SEEN)
OTHER = np.random.default_rng(2).normal(size=SEEN)


@pytest.fixture
def server(database_url: str, tmp_path: Path) -> Iterator[Served]:
    with served(Settings(home=tmp_path, port=0, database_url=database_url)) as running:
        yield running


def record(world: World, rows: Genes, scores: Mapping[str, np.ndarray], seed: int = 0, study: str = "study") -> None:
    """Scores of rows as the service's workers report them, half a second each; NaN: undefined."""
    with world.database.write() as s:
        found = studies.row(s, study)
        circumstances = proxies.circumstances_of(found, seed, Scoring())
        entries, refused = [], []
        for place, each in enumerate(architectures.ensure(s, world.space, rows)):
            values = {name: float(column[place]) for name, column in scores.items()}
            known = {name: value for name, value in values.items() if np.isfinite(value)}
            entries.append(ledger.Entry(each, circumstances, known, seconds=0.5 * len(known), study_id=found.id))
            reasons = {name: "dead" for name in values if name not in known}
            refused.append(undefined.Entry(each, circumstances, reasons))
        ledger.record_all(s, entries)
        undefined.record_all(s, refused)


def filled(database: Database) -> World:
    """Thirty rows by a random search, twenty that another one chose, ten of them both; all forty are scored.

    GradSign is about right, SynFlow about the MACs and three times undefined.
    """
    world = World(database).found()
    rows = world.genes(SEEN)
    for designer, some in (("random", rows[:30]), ("guided", rows[20:])):
        world.ask(world.search(designer=designer).id, some)
        while leases := world.lease():
            world.complete(leases)
    record(world, rows, {"gradsign": gradsign_of(rows), "synflow": synflow_of(world, rows)})
    return world


def gradsign_of(rows: Genes) -> np.ndarray:
    return -errors(rows) + 0.05 * NOISE[: len(rows)]


def synflow_of(world: World, rows: Genes) -> np.ndarray:
    scores = np.log(world.space.cost(rows)["macs"]) + 0.05 * OTHER[: len(rows)]
    return np.where(np.arange(len(rows)) < 3, np.nan, scores)


def errors(rows: Genes) -> np.ndarray:
    return np.array([error_of(row) for row in rows.tolist()])


def tau(x: np.ndarray, y: np.ndarray) -> float:
    return float(stats.kendalltau(x, y).statistic)


def rho(x: np.ndarray, y: np.ndarray) -> float:
    return float(stats.spearmanr(x, y).statistic)


def test_scores_stand_beside_what_was_measured(server: Served) -> None:
    world = filled(server.database)
    rows = world.genes(SEEN)[:30]
    right, good, sized = -errors(rows), gradsign_of(rows), synflow_of(world, rows)[3:]
    macs = world.space.cost(rows)["macs"]
    with Client(server.url) as client:
        found = client.studies.proxies("study", "error")
        every = client.studies.proxies("study", "error", rows="all")
        again = client.studies.proxies("study", "error", rows="all")
    assert (found.measured, found.scored, found.n, found.chosen) == (SEEN, 30, 30, 0)
    gradsign, synflow = found.proxies
    assert (gradsign.name, gradsign.title, gradsign.direction) == ("gradsign", "GradSign", Direction.MAXIMISE)
    assert gradsign.kendall.value == pytest.approx(tau(good, right))
    assert gradsign.spearman.value == pytest.approx(rho(good, right))
    assert gradsign.kendall.low is not None
    assert gradsign.kendall.high is not None
    assert gradsign.kendall.low < tau(good, right) < gradsign.kendall.high
    assert (gradsign.best_kendall, gradsign.best_spearman) == (None, None)
    assert (gradsign.undefined, gradsign.seconds, gradsign.context["seed"]) == (0, 0.5, 0)
    beside = {each.baseline: each for each in gradsign.beside}
    assert beside["macs"].tau.value == pytest.approx(tau(macs, right))
    assert beside["macs"].difference.value == pytest.approx(tau(good, right) - tau(macs, right))
    assert gradsign.words == "better than MACs and parameters"
    # Architectures that have no score are not among those that its baselines rank.
    assert (synflow.kendall.n, synflow.undefined) == (27, 3)
    assert synflow.kendall.value == pytest.approx(tau(sized, right[3:]))
    assert synflow.beside[0].tau.value == pytest.approx(tau(macs[3:], right[3:]))
    assert synflow.words == "no better than MACs or parameters"
    assert [(each.name, each.partial, each.beside) for each in found.counted] == [
        ("macs", None, []),
        ("params", None, []),
    ]
    assert found.counted[0].kendall.value == pytest.approx(tau(macs, right))
    alike = found.correlations
    assert alike.names == ["error", "gradsign", "synflow", "macs", "params"]
    assert alike.n[1] == [30, 30, 27, 30, 30]
    assert alike.rho[0][1] == pytest.approx(gradsign.spearman.value)
    assert alike.rho[2][3] == pytest.approx(rho(sized, macs[3:]))
    # What searches chose is told apart, and what that does to correlations is said.
    assert found.caution is not None
    assert found.caution.startswith("10 more architectures are left out, since searches chose them")
    assert (every.scored, every.n, every.chosen) == (SEEN, SEEN, 10)
    assert every.caution is not None
    assert every.caution.startswith("Searches chose 10 of these 40 architectures")
    assert "restriction of range" in every.caution
    assert again == every


def test_any_metric_can_be_taken_for_a_score(database: Database) -> None:
    world = filled(database)
    rows = world.genes(SEEN)
    record(world, rows, {"homemade": NOISE, "ntk_condition": errors(rows), "constant": np.ones(SEEN)})
    with database.read() as s:
        names = ["homemade", "constant", "ntk_condition"]
        found = standing.describe(scored.sample(s, "study", "error", proxies=names))
        by_hand = scored.sample(s, "study", "homemade", "all")
    assert [each.name for each in found.proxies] == ["ntk_condition", "homemade", "constant"]
    # Of what nobody knows more is better, of a condition number less.
    condition, homemade, constant = found.proxies
    assert condition.direction is Direction.MINIMISE
    assert condition.kendall.value == pytest.approx(1)
    assert (homemade.direction, homemade.title) == (Direction.MAXIMISE, "homemade")
    assert homemade.kendall.value == pytest.approx(tau(NOISE[:30], -errors(rows[:30])))
    assert constant.partial is not None
    assert [(each.value, each.low) for each in (constant.kendall, constant.partial)] == [(None, None)] * 2
    assert constant.words == "ranks nothing: all 30 scores, or all 30 measured values, are the same"
    assert [each.name for each in by_hand.scores] == ["gradsign", "ntk_condition", "synflow"]


def test_of_several_seeds_the_one_with_the_most_scores_counts(database: Database) -> None:
    world = filled(database)
    rows = world.genes(SEEN)
    record(world, rows[:39], {"gradsign": OTHER, "synflow": NOISE}, seed=7)
    with database.read() as s:
        gradsign, synflow = (found := scored.sample(s, "study", "error", "all")).scores
    assert (gradsign.context["seed"], synflow.context["seed"]) == (0, 7)
    # What is undefined with the other seed is not counted here.
    assert (np.isfinite(synflow.values).sum(), synflow.undefined) == (39, 0)
    placed = {key: score for key, score in zip(found.keys, synflow.values.tolist(), strict=True) if np.isfinite(score)}
    assert placed == dict(zip(world.space.keys(rows[:39]), NOISE[:39].tolist(), strict=True))


def test_of_too_many_some_are_drawn(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scored, "MOST", 12)
    world = filled(database)
    with database.read() as s:
        found = scored.sample(s, "study", "error")
        again = scored.sample(s, "study", "error")
    assert (len(found.keys), found.scored, found.measured) == (12, 30, SEEN)
    assert found.keys == again.keys
    rows = world.genes(SEEN)[:30]
    macs = world.space.cost(rows)["macs"].tolist()
    known = dict(zip(world.space.keys(rows), zip(errors(rows).tolist(), macs, strict=True), strict=True))
    measured = zip(found.values.tolist(), found.counted["macs"].tolist(), strict=True)
    assert [known[key] for key in found.keys] == list(measured)


def test_what_is_wrong_is_named(server: Served) -> None:
    world = filled(server.database)
    few = world.genes(5, seed=9)
    world.study(name="other")
    world.ask(world.search("other", designer="guided").id, few)
    world.complete(world.lease())
    for query, text in (
        ({"metric": "loss"}, "loss was measured of 0 architectures"),
        ({"metric": "error", "rows": "some"}, "rows"),
        ({}, "metric"),
        ({"metric": "error", "proxies": "naswot"}, "naswot was not scored in this study"),
        ({"metric": "error", "proxies": ["gradsign", "error"]}, "proxies.1"),
        ({"metric": "error", "proxies": "macs"}, "macs is counted, and always beside them"),
        ({"metric": "error", "proxies": ["a"] * 65}, "proxies"),
    ):
        answer = server.http.get("/v1/studies/study/proxies", params=query)
        assert answer.status_code == 422, query
        assert text in answer.text
    assert server.http.get("/v1/studies/none/proxies", params={"metric": "error"}).status_code == 404
    unscored = server.http.get("/v1/studies/other/proxies", params={"metric": "error"})
    assert unscored.status_code == 422
    assert "score some, or import scores" in unscored.text
    record(world, few, {"gradsign": NOISE}, study="other")
    chosen = server.http.get("/v1/studies/other/proxies", params={"metric": "error"})
    assert chosen.status_code == 422
    assert "rows=all" in chosen.text
    with Client(server.url) as client:
        found = client.studies.proxies("other", "error", rows="all")
    assert found.proxies[0].words == "too few to say: 5 of at least 20 architectures"
    assert {str(each.verdict) for each in found.proxies[0].beside} == {"too_few"}


def test_its_page_and_its_command(server: Served) -> None:
    world = filled(server.database)
    page = server.http.get("/studies/study/proxies")
    assert page.status_code == 200
    for text in ("Better than MACs and parameters", "No better than MACs or parameters", "3 undefined"):
        assert text in page.text
    assert "10 more architectures are left out" in page.text
    assert 'href="/studies/study/proxies"' in server.http.get("/studies/study").text
    assert "Searches chose 10 of these 40" in server.http.get("/studies/study/proxies", params={"rows": "all"}).text
    drawn = server.http.get("/studies/study/data/proxies", params={"proxy": "synflow"}).json()
    assert (drawn["proxy"], drawn["title"], drawn["log"]) == ("synflow", "SynFlow", False)
    rows = world.genes(SEEN)[3:30]
    expected = zip(synflow_of(world, world.genes(SEEN))[3:30].tolist(), errors(rows).tolist(), strict=True)
    placed = dict(zip(drawn["key"], zip(drawn["x"], drawn["y"], strict=True), strict=True))
    assert placed == dict(zip(world.space.keys(rows), expected, strict=True))
    best = np.sort(errors(world.genes(SEEN)[:30]))[2]
    assert drawn["best"] == [each <= best for each in drawn["y"]]
    assert server.http.get("/studies/study/data/proxies", params={"proxy": "naswot"}).status_code == 422
    assert server.http.get("/studies/study/proxies", params={"metric": "nothing"}).status_code == 422
    world.study(name="empty")
    empty = server.http.get("/studies/empty/proxies")
    assert empty.status_code == 200
    assert "Error was measured of 0 architectures" in empty.text
    assert "frontier proxies score empty" in empty.text
    assert "plot-proxies" not in empty.text

    run = ["proxies", "compare", "study", "--metric", "error", "--url", server.url]
    shown = CliRunner().invoke(app, run)
    assert shown.exit_code == 0, shown.output
    assert "30 of 30 scored architectures with error are compared" in shown.output
    assert "no better than" in shown.output
    as_json = CliRunner().invoke(app, [*run, "--all", "--proxy", "synflow", "--json"])
    told = json.loads(as_json.output)
    assert (told["chosen"], [each["name"] for each in told["proxies"]]) == (10, ["synflow"])
    wrong = CliRunner().invoke(app, [*run, "--proxy", "naswot"])
    assert wrong.exit_code != 0
    assert "naswot" in str(wrong.exception)
