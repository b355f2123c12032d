"""The population of a study, on both databases and over HTTP, its page and its command."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from search_spaces.space import Genes
from service.cli.root import app
from service.client import Client
from service.core import population as core
from service.core.errors import Invalid
from service.db import population
from service.settings import Settings
from tests.serving import Served, served
from tests.world import World, error_of

RULES = {"stage1.depth": [1]}


@pytest.fixture
def server(database_url: str, tmp_path: Path) -> Iterator[Served]:
    with served(Settings(home=tmp_path, port=0, database_url=database_url)) as running:
        yield running


@pytest.fixture
def world(server: Served) -> World:
    """Thirty rows by a random search, twenty that another one chose, ten of them both."""
    world = World(server.database).found()
    rows = world.genes(40)
    for designer, some in (("random", rows[:30]), ("guided", rows[20:])):
        world.ask(world.search(designer=designer).id, some)
        while leases := world.lease():
            world.complete(leases)
    return world


def errors(rows: Genes) -> list[float]:
    return sorted(error_of(row) for row in rows.tolist())


def test_what_searches_chose_is_told_apart(world: World, server: Served) -> None:
    rows = world.genes(40)
    with Client(server.url) as client:
        drawn = client.studies.population("study", "error")
        every = client.studies.population("study", "error", rows="all")
    assert (drawn.measured, drawn.whole.n, drawn.chosen) == (40, 30, 0)
    assert (every.measured, every.whole.n, every.chosen) == (40, 40, 10)
    for found, chosen in ((drawn, rows[:30]), (every, rows)):
        values = errors(chosen)
        assert found.whole.best == values[0]
        assert found.whole.mean == pytest.approx(np.mean(values))
        assert found.whole.curve.thresholds == sorted(set(values))
        assert found.whole.curve.share[-1] == 1


def test_a_restriction_stands_beside_the_whole(world: World, server: Served) -> None:
    name, rows = "stage1.block1.kernel", world.genes(40)[:30]
    choice = next(c for c in world.space.choices if c.name == name)
    rules = {name: [choice.options[0]]}
    with Client(server.url) as client:
        found = client.studies.population("study", "error", rules=rules)
    inside = world.space.restrict(rules).valid(rows)
    assert found.restricted is not None
    assert found.shift is not None
    assert found.restricted.curve.thresholds == sorted(set(errors(rows[inside])))
    assert found.shift.n == found.restricted.n == inside.sum()
    difference = np.mean(errors(rows[inside])) - np.mean(errors(rows[~inside]))
    assert found.shift.difference == pytest.approx(difference)


def test_what_is_wrong_is_named(world: World, server: Served) -> None:
    first = world.space.choices[0].name
    for query, field in (
        ({"metric": "error", "rules": "{"}, "rules"),
        ({"metric": "error", "rules": "[1]"}, "rules"),
        ({"metric": "error", "rules": json.dumps({"no such": [1]})}, "rules.no such"),
        ({"metric": "error", "rules": json.dumps({first: ["no such"]})}, f"rules.{first}"),
        ({"metric": "error", "rules": json.dumps({first: []})}, f"rules.{first}"),
        ({"metric": "error", "rules": json.dumps({first: [True]})}, f"rules.{first}"),
        ({"metric": "loss"}, "metric"),
        ({"metric": "error", "rows": "some"}, "rows"),
        ({}, "metric"),
    ):
        answer = server.http.get("/v1/studies/study/population", params=query)
        assert answer.status_code == 422, query
        assert field in answer.text
    assert server.http.get("/v1/studies/none/population", params={"metric": "error"}).status_code == 404
    world.study(name="other")
    world.ask(world.search("other", designer="guided").id, world.genes(3, seed=9))
    world.complete(world.lease())
    answer = server.http.get("/v1/studies/other/population", params={"metric": "error"})
    assert answer.status_code == 422
    assert "rows=all" in answer.text


def test_of_too_many_some_are_drawn(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core, "MOST", 12)
    with world.database.read() as s:
        found = population.sample(s, "study", "error")
        again = population.sample(s, "study", "error")
    assert (len(found.genes), found.measured) == (12, 40)
    np.testing.assert_array_equal(found.genes, again.genes)
    assert [error_of(row) for row in found.genes.tolist()] == found.values.tolist()


def test_its_page(world: World, server: Served) -> None:
    page = server.http.get("/studies/study/population")
    assert page.status_code == 200
    assert "Choices by how far they shift it" in page.text
    assert 'href="/studies/study/population"' in server.http.get("/studies/study").text
    every = server.http.get("/studies/study/population", params={"rows": "all"})
    assert "this is not the distribution of the space" in every.text
    refused = server.http.get("/studies/study/population", params={"rules": '{"<b>": [1]}'})
    assert refused.status_code == 422
    assert "&lt;b&gt;" in refused.text
    assert "<b>" not in refused.text
    drawn = server.http.get("/studies/study/data/population", params={"metric": "error"}).json()
    assert drawn["whole"]["curve"]["share"][-1] == 1
    assert drawn["restricted"] is None


def test_its_command(world: World, server: Served) -> None:
    run = ["studies", "population", "study", "--metric", "error", "--url", server.url]
    shown = CliRunner().invoke(app, run)
    assert shown.exit_code == 0, shown.output
    assert "30 of 40 measured architectures are described" in shown.output
    as_json = CliRunner().invoke(app, [*run, "--all", "--json"])
    assert json.loads(as_json.output)["chosen"] == 10
    first = world.space.choices[0]
    wrong = CliRunner().invoke(app, [*run, "--rules", json.dumps({first.name: ["no such"]})])
    assert wrong.exit_code != 0
    assert first.name in str(wrong.exception)


def test_rules_are_read_strictly() -> None:
    assert population.rules_of(None) == {}
    assert population.rules_of('{"a": [1, "x", 2.5]}') == {"a": [1, "x", 2.5]}
    for text in ("nope", "3", '{"a": 1}', '{"a": []}', '{"a": [null]}', '{"a": [[1]]}'):
        with pytest.raises(Invalid):
            population.rules_of(text)
