"""Trials over REST: pipelines take them, report, and send what came out."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from service.app import create_app
from service.core.states import SearchState
from service.db import queue, searches
from service.db.tables import now
from tests.serving import Served, announce, ask, make_space, served, settings_in

Json = dict[str, Any]
STUDY: Json = {
    "name": "study",
    "space": "tiny",
    "task": {"dataset": "my-images"},
    "objectives": [{"metric": "error", "bounds": [0, 1]}, {"metric": "macs"}],
    "metrics": ["f1"],
    "evaluator": {"name": "external", "options": {"epochs": 3}},
}


@pytest.fixture
def server(tmp_path: Path, database_url: str) -> Iterator[Served]:
    settings = settings_in(tmp_path, database_url=database_url)
    with served(settings, create_app(settings)) as running:
        make_space(running.http)
        yield running


def search_of(server: Served, trials: int = 3, **study: Any) -> int:
    """A search with one ask in a study that a pipeline evaluates."""
    server.http.post("/v1/studies", json={**STUDY, **study}).raise_for_status()
    body = {"designer": "random", "budget": 50}
    search: int = server.http.post("/v1/studies/study/searches", json=body).raise_for_status().json()["id"]
    if trials:
        ask(server, search, trials)
    return search


def suggest(server: Served, search: int, **body: Any) -> Json:
    answer = server.http.post(f"/v1/searches/{search}/trials:suggest", json=body)
    found: Json = answer.raise_for_status().json()
    return found


def post(server: Served, trial: Json, verb: str, **body: Any) -> tuple[int, Json]:
    answer = server.http.post(f"/v1/trials/{trial['trial']}:{verb}", json={"token": trial["token"], **body})
    return answer.status_code, answer.json()


def get(server: Served, trial: Json) -> Json:
    found: Json = server.http.get(f"/v1/trials/{trial['trial']}").raise_for_status().json()
    return found


RESULT: Json = {"error": 0.25, "f1": 0.5}


def test_from_a_suggestion_to_the_front(server: Served) -> None:
    search = search_of(server)
    answer = suggest(server, search, count=2)
    assert (answer["state"], answer["done"]) == ("RUNNING", False)
    first, second = answer["trials"]
    assert [first["number"], second["number"]] == [1, 2]
    assert first["metrics"] == ["error", "f1"]  # MACs are counted
    assert (first["fidelity"], first["seed"], first["lease_s"]) == (1.0, 0, 300.0)
    assert first["predicted"]["error"]["mean"] == 0.0
    stored = get(server, first)
    assert {name: first[name] for name in ("key", "config", "genes")} == {
        name: stored[name] for name in ("key", "config", "genes")
    }
    assert stored["state"] == "LEASED"

    status, told = post(server, first, "report", step=1, total=3, metrics={"error": 0.5}, note="epoch")
    assert (status, told["decision"], told["reason"]) == (200, "continue", "")
    assert told["expires_at"] > first["expires_at"]
    job = server.http.get(f"/v1/jobs/{first['job']}").json()
    assert {name: job["progress"][name] for name in ("done", "total", "note")} == {
        "done": 1,
        "total": 3,
        "note": "epoch",
    }
    assert [(each["step"], each["metrics"]) for each in job["progress"]["reports"]] == [(1, {"error": 0.5})]

    done = {"trial": first["trial"], "accepted": True, "state": "SUCCEEDED"}
    for _ in range(2):  # repeatable
        assert post(server, first, "complete", metrics={**RESULT, "auc": 0.9}, seconds=2.5) == (200, done)
    ended = get(server, first)
    assert (ended["state"], ended["paid_s"]) == ("SUCCEEDED", 2.5)
    assert ended["metrics"]["error"] == 0.25
    assert ended["metrics"]["macs"] > 0
    front = server.http.get("/v1/studies/study/front").json()
    assert [point["trial"] for point in front["points"]] == [first["trial"]]
    kept = server.http.get("/v1/studies/study/measurements").json()["items"]
    assert {each["metric"] for each in kept} == {"error", "f1", "macs", "auc"}
    assert {each["worker"] for each in kept if each["metric"] == "error"} == {"pipeline"}
    # Who took trials is among the workers, though it can run no jobs.
    workers = {each["name"]: each for each in server.http.get("/v1/workers").json()["items"]}
    assert (workers["pipeline"]["kinds"], workers["pipeline"]["device"]["type"]) == ([], "external")
    assert workers["pipeline"]["jobs"] == [second["job"]]


def test_workers_do_not_get_the_trials_of_a_pipeline(server: Served) -> None:
    search_of(server)
    announce(server.http)
    assert server.http.post("/v1/jobs:lease", json={"worker": "w1", "count": 9}).json()["leases"] == []


def test_a_missing_metric_can_be_sent_later(server: Served) -> None:
    (trial,) = suggest(server, search_of(server))["trials"]
    status, problem = post(server, trial, "complete", metrics={"error": 0.25}, seconds=1)
    assert status == 422
    assert problem["errors"] == [{"field": "metrics.f1", "message": "is missing: the trial is to give f1"}]
    assert get(server, trial)["state"] == "LEASED"
    assert server.http.get("/v1/studies/study/measurements").json()["items"] == []  # nothing half-written
    status, done = post(server, trial, "complete", metrics=RESULT, seconds=1)
    assert (status, done["accepted"], done["state"]) == (200, True, "SUCCEEDED")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"metrics": {}}, "metrics"),
        ({"metrics": {"not a name": 1}}, "metrics.not a name.[key]"),
        ({"metrics": {"error": "low"}}, "metrics.error"),
        ({"metrics": RESULT, "seconds": -1}, "seconds"),
        ({"metrics": RESULT, "device": "my gpu"}, "device"),
        ({"metrics": {**RESULT, "latency_ms@other": 1}, "device": "gpu"}, "metrics.latency_ms@other"),
    ],
)
def test_results_that_cannot_be(server: Served, body: Json, field: str) -> None:
    (trial,) = suggest(server, search_of(server))["trials"]
    status, problem = post(server, trial, "complete", **body)
    assert (status, problem["errors"][0]["field"]) == (422, field)
    assert get(server, trial)["state"] == "LEASED"


@pytest.mark.parametrize(
    ("metric", "given", "device"),
    [
        ("latency_ms", {}, "pipeline"),
        ("latency_ms", {"device": "jetson"}, "jetson"),
        ("latency_ms@jetson", {}, "jetson"),
    ],
)
def test_latencies_belong_to_a_device(server: Served, metric: str, given: Json, device: str) -> None:
    objectives = [{"metric": metric, "bounds": [0, 10]}, {"metric": "macs"}]
    search = search_of(server, objectives=objectives, metrics=[])
    (trial,) = suggest(server, search)["trials"]
    assert trial["metrics"] == [metric]
    status, done = post(server, trial, "complete", metrics={metric: 4.0}, **given)
    assert (status, done["state"]) == (200, "SUCCEEDED")
    kept = server.http.get("/v1/studies/study/measurements").json()["items"]
    assert [each["context"] for each in kept if each["metric"] == metric] == [{"device": device}]


def test_what_the_ledger_knows_ends_at_once(server: Served) -> None:
    search = search_of(server, trials=1)
    (trial,) = suggest(server, search)["trials"]
    post(server, trial, "complete", metrics=RESULT)
    body = {"designer": "random", "budget": 5}
    other = server.http.post("/v1/studies/study/searches", json=body).json()["id"]
    ask(server, other, 1)  # the same architecture
    assert suggest(server, other)["trials"] == []
    (reused,) = server.http.get(f"/v1/searches/{other}/trials").json()["items"]
    assert (reused["state"], reused["reused"], reused["metrics"]["error"]) == ("SUCCEEDED", True, 0.25)
    for verb in ("report", "complete", "fail"):
        bodies = {"report": {"step": 1}, "complete": {"metrics": RESULT}, "fail": {"state": "FAILED", "reason": "x"}}
        status, problem = post(server, {"trial": reused["id"], "token": 1}, verb, **bodies[verb])
        assert (status, problem["detail"]) == (409, f"trial {reused['id']} is SUCCEEDED: it was never handed out")


@pytest.mark.parametrize(
    ("body", "state", "failure"),
    [
        ({"state": "FAILED", "reason": "it broke", "traceback": "Traceback ..."}, "FAILED", "it broke"),
        ({"state": "INFEASIBLE", "reason": "too large"}, "INFEASIBLE", "too large"),
        ({"state": "CANCELLED", "reason": "stopped"}, "CANCELLED", "stopped"),
    ],
)
def test_ends_without_a_result(server: Served, body: Json, state: str, failure: str) -> None:
    (trial,) = suggest(server, search_of(server))["trials"]
    for _ in range(2):
        status, done = post(server, trial, "fail", seconds=3, **body)
        assert (status, done["accepted"], done["state"]) == (200, True, state)
    ended = get(server, trial)
    assert (ended["state"], ended["reason"], ended["paid_s"]) == (state, failure, 3.0)
    assert server.http.get(f"/v1/jobs/{trial['job']}").json()["traceback"] == body.get("traceback")


def test_a_trial_that_is_handed_back_waits_again(server: Served) -> None:
    search = search_of(server, trials=1)
    for number in range(1, 6):  # more often than a job has attempts
        (trial,) = suggest(server, search)["trials"]
        assert trial["token"] == number
        status, done = post(server, trial, "fail", state="QUEUED", reason="another time")
        assert (status, done["state"]) == (200, "QUEUED")
    assert get(server, trial)["state"] == "QUEUED"


def test_a_stale_token_changes_nothing_but_the_ledger(server: Served) -> None:
    search = search_of(server, trials=1)
    (old,) = suggest(server, search, lease_s=5)["trials"]
    with server.database.write() as s:
        assert queue.expire(s, now() + timedelta(seconds=6)) == 1
    (new,) = suggest(server, search, worker="other")["trials"]
    assert (new["trial"], new["token"]) == (old["trial"], 2)
    assert post(server, old, "report", step=3)[0] == 409
    status, problem = post(server, old, "fail", state="FAILED", reason="late")
    assert (status, problem["type"]) == (409, "urn:frontier:stale")
    status, done = post(server, old, "complete", metrics=RESULT, worker="slow")
    assert (status, done["accepted"], done["state"]) == (200, False, "LEASED")
    kept = server.http.get("/v1/studies/study/measurements").json()["items"]
    assert {(each["metric"], each["worker"]) for each in kept if each["metric"] != "macs"} == {
        ("error", "slow"),
        ("f1", "slow"),
    }
    assert post(server, new, "complete", metrics={"error": 0.75, "f1": 0.5})[1]["accepted"]
    assert get(server, new)["metrics"]["error"] == 0.75


def test_a_lease_that_never_was(server: Served) -> None:
    search = search_of(server)
    (trial,) = suggest(server, search)["trials"]
    status, problem = post(server, {**trial, "token": 7}, "complete", metrics=RESULT)
    assert (status, problem["detail"]) == (409, f"trial {trial['trial']} was handed out 1 times: there is no lease 7")
    waiting = server.http.get(f"/v1/searches/{search}/trials").json()["items"][-1]["id"]
    status, problem = post(server, {"trial": waiting, "token": 1}, "report", step=1)
    assert (status, problem["detail"]) == (409, f"trial {waiting} is QUEUED: it was never handed out")
    assert post(server, {"trial": 999, "token": 1}, "report", step=1)[0] == 404
    assert server.http.post("/v1/searches/999/trials:suggest", json={}).status_code == 404


def test_a_cancelled_search_stops_its_trials(server: Served) -> None:
    search = search_of(server)
    first, second = suggest(server, search, count=2)["trials"]
    server.http.post(f"/v1/jobs/{second['job']}:cancel").raise_for_status()
    assert post(server, second, "report", step=1)[1]["reason"] == "the trial was cancelled"
    server.http.post(f"/v1/searches/{search}:cancel").raise_for_status()
    status, told = post(server, first, "report", step=2)
    assert (status, told["decision"]) == (200, "stop")
    assert told["reason"] == "the search is CANCELLED: cancel was asked for"
    assert post(server, first, "fail", state="CANCELLED", reason="as asked")[1]["state"] == "CANCELLED"
    answer = suggest(server, search, wait_s=20)
    assert (answer["trials"], answer["state"], answer["done"]) == ([], "CANCELLED", True)


def test_a_paused_search_hands_out_nothing(server: Served) -> None:
    search = search_of(server)
    server.http.post(f"/v1/searches/{search}:pause").raise_for_status()
    assert suggest(server, search) == {"trials": [], "state": "PAUSED", "done": False}
    server.http.post(f"/v1/searches/{search}:resume").raise_for_status()
    assert len(suggest(server, search, count=64)["trials"]) == 3


def test_who_waits_is_woken_by_trials_and_by_the_end(server: Served) -> None:
    search = search_of(server, trials=0)
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(suggest, server, search, wait_s=30) for _ in range(3)]
        _until_waiting(server, 3)
        ask(server, search, 2)
        while sum(each.done() for each in waiting) < 2:
            time.sleep(0.01)
        _until_waiting(server, 1)
        with server.database.write() as s:
            claim = searches.claim(s, search, "test", 30)
            assert claim is not None
            searches.finish(s, claim, SearchState.DONE, "enough")
        answers = [each.result(timeout=60) for each in waiting]
    assert sorted(len(answer["trials"]) for answer in answers) == [0, 1, 1]
    assert [answer["done"] for answer in answers if not answer["trials"]] == [True]


def _until_waiting(server: Served, number: int) -> None:
    while f"frontier_waiting_leases {number}.0" not in server.http.get("/metrics").text:
        time.sleep(0.01)


def test_no_trial_is_handed_out_twice(server: Served) -> None:
    search = search_of(server, trials=40)
    with ThreadPoolExecutor(8) as pool:
        answers = pool.map(lambda _: suggest(server, search, count=5), range(16))
    taken = [trial["trial"] for answer in answers for trial in answer["trials"]]
    assert len(taken) == len(set(taken)) == 40


def test_trials_of_any_evaluator_can_be_taken(server: Served) -> None:
    task = {"dataset": "digits"}
    search = search_of(server, task=task, evaluator={"name": "training"}, metrics=[])
    (trial,) = suggest(server, search)["trials"]
    assert post(server, trial, "complete", metrics={"error": 0.5})[1]["state"] == "SUCCEEDED"


def test_trials_of_a_table_can_be_taken(server: Served) -> None:
    search = search_of(server, trials=1, evaluator={"name": "table"}, metrics=[])
    (trial,) = suggest(server, search)["trials"]
    assert trial["metrics"] == ["error"]
    assert post(server, trial, "complete", metrics={"error": 0.5}, seconds=9)[1]["state"] == "SUCCEEDED"
    assert get(server, trial)["paid_s"] == 9.0


def test_a_pipeline_has_no_test_split(server: Served) -> None:
    (trial,) = suggest(server, search_of(server))["trials"]
    post(server, trial, "complete", metrics=RESULT)
    refused = server.http.post("/v1/studies/study/front:test")
    assert refused.status_code == 409
    assert "import its values" in refused.json()["detail"]
    scored = server.http.post("/v1/studies/study/proxies:score", json={"proxies": ["synflow"], "sample": 1})
    assert scored.status_code == 409
    assert "no worker has announced 'my-images'" in scored.json()["detail"]
