"""The dashboard's pages over a real database: complete, escaped, self-contained, helpful where something is wrong."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from service.app import create_app
from service.core.states import SearchState
from service.dashboard import data, views
from service.db import confirmations, searches, studies
from service.db.session import Database
from service.settings import Settings
from service.wire.confirmations import ConfirmIn
from tests.dashboard_world import NASTY, DashboardWorld, filled
from tests.serving import settings_in
from tests.world import statements

STUDY = "/studies/digits-mobile"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DashboardWorld]:
    settings = settings_in(tmp_path_factory.mktemp("dashboard"))
    database = Database(settings.database)
    yield filled(database, guided=48, random=20)
    database.dispose()


@pytest.fixture
def client(world: DashboardWorld, tmp_path: Path) -> TestClient:
    return _client(world.world.database, tmp_path)


def _client(database: Database, folder: Path, address: str = "127.0.0.1") -> TestClient:
    app = create_app(Settings(home=folder), database)
    return TestClient(app, base_url="http://127.0.0.1", client=(address, 50000))


def _pages(world: DashboardWorld) -> list[str]:
    key = world.keys()[0]
    parts = [f"{STUDY}/parts/{part}" for part in ("facts", "searches", "front", "audit", "confirmations")]
    return [
        "/",
        "/workers",
        "/jobs/1",
        STUDY,
        f"{STUDY}/trials",
        f"{STUDY}/architectures/{key}",
        "/studies/none",
        *parts,
    ]


class _Elements(HTMLParser):
    """Every start tag with its attributes, and what stands in scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def test_every_page_answers_with_a_strict_policy_and_no_inline_script(
    client: TestClient, world: DashboardWorld
) -> None:
    for path in _pages(world):
        answer = client.get(path)
        assert answer.status_code == (404 if path == "/studies/none" else 200), path
        assert answer.headers["content-type"].startswith("text/html")
        policy = answer.headers["content-security-policy"]
        assert "default-src 'self'" in policy
        assert "script-src 'self';" in policy
        elements = _Elements(answer.text)
        for script in elements.named("script"):
            assert "src" in script, path
        handlers = [name for _, attributes in elements.tags for name in attributes if name.startswith("on")]
        assert not handlers, path


def test_no_page_or_style_sheet_refers_to_another_machine(client: TestClient, world: DashboardWorld) -> None:
    texts = {path: client.get(path).text for path in _pages(world)}
    for name in ("style.css", "study.js", "live.js", "actions.js"):
        texts[name] = client.get(f"/static/{name}").text
    namespace = "http://www.w3.org/2000/svg"
    for path, text in texts.items():
        assert not re.findall(r"https?://|url\(\s*['\"]?//", text.replace(namespace, "")), path


def test_what_a_page_refers_to_is_there(client: TestClient, world: DashboardWorld) -> None:
    for path in _pages(world):
        for tag, attributes in _Elements(client.get(path).text).tags:
            for name in ("src", "href", "hx-get"):
                target = attributes.get(name)
                if target and not target.startswith("#"):
                    assert client.get(target).status_code == 200, f"{path}: <{tag} {name}={target!r}>"


def test_what_people_and_workers_wrote_is_text(client: TestClient, world: DashboardWorld) -> None:
    for path in (STUDY, f"{STUDY}/trials", "/workers"):
        text = client.get(path).text
        assert "does not fit the device" in text
        assert NASTY not in text
        assert "<img" not in text.replace('<img src="/static', ""), path


def test_the_study_page_says_what_the_study_is_and_how_figures_are_scaled(client: TestClient) -> None:
    text = re.sub(r"<[^>]+>|\s+", " ", client.get(STUDY).text)
    text = re.sub(r"\s+", " ", text)
    for part in (
        "mobile",
        "minimise Error, minimise MACs",
        "Reference point 1.1 in each",
        "Error: 0.00 % is 0, 90.00 % is 1",
    ):
        assert part in text
    assert "48 / 60" in text
    assert "20 / 20" in text
    assert "on 16 probes" in text


def test_a_running_search_can_be_paused_and_a_cancelled_one_cannot(
    client: TestClient, world: DashboardWorld, tmp_path: Path
) -> None:
    other = DashboardWorld(world.world)
    search = other.start("buttons")
    shown = client.get(f"{STUDY}/parts/searches").text
    assert f"/v1/searches/{search}:pause" in shown
    assert client.post(f"/v1/searches/{search}:pause", json={}).status_code == 200
    shown = client.get(f"{STUDY}/parts/searches").text
    assert f"/v1/searches/{search}:resume" in shown
    assert f"/v1/searches/{search}:pause" not in shown
    with world.world.database.write() as session:
        assert searches.set_state(session, search, "cancel").state is SearchState.CANCELLED
    assert f"/v1/searches/{search}:" not in client.get(f"{STUDY}/parts/searches").text


def test_trials_come_newest_first_and_page_by_page(client: TestClient) -> None:
    seen: list[str] = []
    path: str | None = f"{STUDY}/trials?size=20"
    while path:
        elements = _Elements(client.get(path).text)
        rows = [attributes["id"] for attributes in elements.named("tr") if attributes.get("id")]
        seen += [str(each) for each in rows if str(each).startswith("trial-")]
        path = next((each["hx-get"] for each in elements.named("button") if "data-older" in each), None)
    numbers = [int(each.removeprefix("trial-")) for each in seen]
    assert numbers == sorted(numbers, reverse=True)
    assert len(set(numbers)) == len(numbers) == 48 + 20 + 3


def test_an_architecture_has_a_diagram_values_with_units_and_its_measurements(
    client: TestClient, world: DashboardWorld
) -> None:
    key = world.keys()[0]
    text = client.get(f"{STUDY}/architectures/{key}").text
    elements = _Elements(text)
    assert len(elements.named("svg")) == 1
    assert len(elements.named("rect")) >= 8
    assert key in text
    assert re.search(r"\d+\.\d\d %", text)
    assert re.search(r"\d ms", text)
    assert "validation" in text
    assert "On the front" in text


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        ("/studies/none", 404, "There is no study named “none”"),
        ("/studies/NOT%20A%20NAME", 404, "cannot be the name of a study"),
        (f"{STUDY}/architectures/{'0' * 32}", 404, "There is no architecture"),
        (f"{STUDY}/architectures/xyz", 404, "cannot be the name of a key"),
        (f"{STUDY}/parts/none", 404, "cannot be the name of a part"),
        (f"{STUDY}/something/else", 404, "There is no page"),
        (f"{STUDY}?x=unknown", 422, "is not measured in this study"),
        (f"{STUDY}?metric=macs", 422, "is not predicted in this study"),
        (f"{STUDY}/trials?page_token=nonsense", 422, "page_token"),
        ("/jobs/99999", 404, "There is no job named “99999”"),
        ("/jobs/0", 404, "cannot be the name of a job"),
        ("/static/../pages.py", 404, ""),
        ("/static/none.js", 404, "There is no file"),
    ],
)
def test_errors_are_pages_that_say_what_is_wrong(client: TestClient, path: str, status: int, said: str) -> None:
    answer = client.get(path)
    assert answer.status_code == status
    assert said in answer.text
    if said:
        assert answer.headers["content-type"].startswith("text/html")
        assert "content-security-policy" in answer.headers


def test_data_of_plots_are_problems_when_wrong(client: TestClient) -> None:
    for path in ("/studies/none/data/front", f"{STUDY}/data/front?x=unknown"):
        answer = client.get(path)
        assert answer.headers["content-type"] == "application/problem+json"


def test_the_front_plot_has_all_trials_and_the_front_of_its_axes(client: TestClient, world: DashboardWorld) -> None:
    shown = client.get(f"{STUDY}/data/front").json()
    assert [len(series["x"]) for series in shown["series"][:2]] == [48, 20]
    assert set(shown["front"]["key"]) == set(world.keys())
    assert shown["front"]["x"] == sorted(shown["front"]["x"])
    assert shown["front"]["y"] == sorted(shown["front"]["y"], reverse=True)
    assert shown["step"] == "hv"
    other = client.get(f"{STUDY}/data/front", params={"x": "latency_ms", "y": "params"}).json()
    assert other["x"]["title"] == "Latency (ms)"
    assert other["series"][0]["x"] != shown["series"][0]["x"]


def test_a_large_study_is_cut_to_the_newest_trials_and_all_of_the_front(
    client: TestClient, world: DashboardWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "POINTS", 10)
    shown = client.get(f"{STUDY}/data/front").json()
    assert shown["more"]
    assert shown["shown"] == sum(len(series["x"]) for series in shown["series"]) == 10
    assert set(shown["front"]["key"]) == set(world.keys())


def test_hypervolume_grows_and_long_curves_keep_their_steps(client: TestClient) -> None:
    curves = client.get(f"{STUDY}/data/hypervolume").json()["curves"]
    assert [curve["x"][-1] for curve in curves[:2]] == [48, 20]
    assert all(curve["y"] == sorted(curve["y"]) for curve in curves)
    assert data._rises([0.0, 0.0, 1.0, 1.0, 1.0, 2.0, 2.0]) == [0, 2, 5, 6]
    assert len(data._rises([float(i) for i in range(100_000)])) <= data.CURVE_POINTS + 1


def test_predictions_keep_probes_apart(client: TestClient) -> None:
    shown = client.get(f"{STUDY}/data/predicted").json()
    assert len(shown["probes"]["key"]) == 16
    assert len(shown["chosen"]["key"]) == 32


def test_the_number_of_statements_does_not_grow_with_trials(client: TestClient, world: DashboardWorld) -> None:
    database = world.world.database
    with statements(database) as few:
        client.get(f"{STUDY}/trials?size=5")
    with statements(database) as many:
        client.get(f"{STUDY}/trials?size=60")
    assert len(many) <= len(few) + 2 * 2  # the second search, seen on the longer page only


def test_files_are_kept_by_browsers_under_their_digest_and_checked_otherwise(client: TestClient) -> None:
    answer = client.get("/static/style.css")
    assert answer.headers["cache-control"] == "no-cache"
    again = client.get("/static/style.css", headers={"if-none-match": answer.headers["etag"]})
    assert again.status_code == 304
    (link,) = (each["href"] for each in _Elements(client.get("/").text).named("link") if each["rel"] == "stylesheet")
    assert "immutable" in client.get(str(link)).headers["cache-control"]


def test_other_machines_are_refused_without_keys(world: DashboardWorld, tmp_path: Path) -> None:
    stranger = _client(world.world.database, tmp_path, address="192.0.2.7")
    assert stranger.get("/").status_code == 403
    assert stranger.get(f"{STUDY}/data/front").status_code == 403


def test_the_first_page_of_an_empty_server_tells_how_to_begin(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    database = Database(settings.database)
    client = _client(database, tmp_path)
    text = client.get("/").text
    assert "frontier demo" in text
    assert "from service.client import Client" in text
    assert "None has announced itself" in client.get("/workers").text
    database.dispose()


def test_a_study_without_trials_has_its_page(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    database = Database(settings.database)
    DashboardWorld.in_database(database)
    client = _client(database, tmp_path)
    text = client.get(STUDY).text
    for part in ("No search yet", "Nothing has been measured", "No predictions yet", "No trial yet"):
        assert part in text
    database.dispose()


def test_what_was_measured_again_stands_beside_what_was_selected(tmp_path: Path) -> None:
    database = Database(settings_in(tmp_path).database)
    made = DashboardWorld.in_database(database)
    search = made.start("first")
    made.ask(search, 12)
    made.finish()
    client = _client(database, tmp_path)
    part = f"{STUDY}/parts/confirmations"
    assert f"frontier search confirm {search}" in client.get(part).text
    with database.write() as s:
        found = confirmations.create(s, search, ConfirmIn(best=2, seeds=2))
    assert "first, by training on seeds 1, 2; 4 of 4 measurements are open" in client.get(part).text
    *leases, failing = made.world.lease(worker="cpu-1")
    made.world.complete(
        leases,
        lambda lease: {"error": made.values(lease.payload["genes"])["error"] + 0.015},
        worker="cpu-1",
    )
    made.world.fail(failing, reason=NASTY)
    text = client.get(part).text
    for each in found.architectures:
        assert f"{100 * each.selected['error']:.2f} %" in text
        assert f"{100 * (each.selected['error'] + 0.015):.2f} %" in text
    assert "1.5 percentage points higher (worse)" in text
    assert "1 failed" in text
    assert NASTY not in text
    assert text.strip() in client.get(STUDY).text
    database.dispose()


def test_training_is_shown_on_the_pages_that_wait_for_it(tmp_path: Path) -> None:
    database = Database(settings_in(tmp_path).database)
    study = DashboardWorld.in_database(database).supernet_study(trained=False)
    client = _client(database, tmp_path)
    for path in (f"/studies/{study}", "/workers"):
        text = client.get(path).text
        assert "epoch 14/54" in text
        assert "data-busy" in text
    assert "Training" in client.get("/").text
    database.dispose()


def test_axes_never_coincide_and_follow_the_objectives(world: DashboardWorld) -> None:
    with world.world.database.read() as session:
        study = studies.get(session, world.study)
    assert views.axes(study, None, None) == ("macs", "error")
    assert views.axes(study, "error", None) == ("error", "macs")
    assert views.axes(study, None, "macs")[0] != "macs"
    assert views.predictable(study) == ["error"]


def test_failures_stand_with_their_reason_and_what_can_be_done(tmp_path: Path) -> None:
    database = Database(settings_in(tmp_path).database)
    made = DashboardWorld.in_database(database)
    made.ask(made.start("first"), 5)
    client = _client(database, tmp_path)
    text = client.get("/workers").text
    for part in ("Nothing has failed for good", "No job is in the hands of a worker"):
        assert part in text
    held, *leases = made.world.lease(4, worker="cpu-1")
    for lease in leases:
        reason, trace = f"job {lease.job}: {NASTY}", f"Traceback\nKeyError: {NASTY}"
        made.world.fail(lease, failure="invalid", reason=reason, traceback=trace)
    elements = _Elements(text := client.get("/workers").text)
    assert NASTY not in text
    (group,) = [str(each["id"]) for each in elements.named("tr") if str(each.get("id")).startswith("group-")]
    buttons = {each["aria-label"]: each for each in elements.named("button") if "data-post" in each}
    (many,) = [each for label, each in buttons.items() if str(label).startswith("Retry evaluate jobs")]
    assert many["data-post"] == "/v1/jobs:retry"
    assert json.loads(str(many["data-body"])) == {"group": group.removeprefix("group-")}
    assert str(many["data-confirm"]).startswith("Try 3 evaluate jobs: job #")
    assert json.loads(str(buttons[f"Cancel job {held.job}"]["data-body"])) == {"ids": [held.job]}
    one = client.get(f"/jobs/{leases[0].job}").text
    assert "KeyError" in one
    assert NASTY not in one
    done = client.post("/v1/jobs:retry", json=json.loads(str(many["data-body"])))
    assert done.json()["retried"] == [lease.job for lease in leases]
    assert "Nothing has failed for good" in client.get("/workers").text
    assert client.post("/v1/jobs:retry", json={}).json()["errors"][0]["field"] == "filter"
    database.dispose()
