"""The command line against a real server: what people and scripts see."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from service.cli.root import app
from tests.commands import Run, runner
from tests.serving import (
    WEIGHTS,
    Served,
    complete,
    evaluate,
    lease,
    make_search,
    make_space,
    make_study,
    served,
    settings_in,
    sha256,
)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes], tmp_path: Path) -> Run:
    monkeypatch.setenv("FRONTIER_HOME", str(tmp_path / "home"))
    return runner(monkeypatch, capsysbinary)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    with served(settings_in(tmp_path)) as running:
        monkeypatch.setenv("FRONTIER_URL", running.url)
        yield running


def test_spaces_are_created_listed_shown_and_sampled(server: Served, run: Run, tmp_path: Path) -> None:
    options = tmp_path / "options.json"
    options.write_text('{"classes": 10, "in_channels": 1}')
    made = run("spaces", "create", "mine", "--plugin", "mobilenetv3", "--options", f"@{options}", "--json")
    assert (made.code, made.json["name"]) == (0, "mine")
    assert [each["name"] for each in run("spaces", "list", "--json").json] == ["mine"]
    assert "mobilenetv3" in run("spaces", "list").out
    assert "resolution" in run("spaces", "show", "mine").out
    drawn = run("spaces", "sample", "mine", "--count", "3", "--json").json
    assert len({each["key"] for each in drawn}) == 3
    assert drawn == run("spaces", "sample", "mine", "--count", "3", "--json").json
    assert all(each["macs"] > 0 for each in drawn)


def test_spaces_with_a_notation_and_without_costs(server: Served, run: Run) -> None:
    made = run("spaces", "create", "cells", "--plugin", "nasbench201", "--options", '{"cells": 1}', "--identity", "row")
    assert made.code == 0
    assert "architectures 15,625" in run("spaces", "show", "cells").out
    drawn = run("spaces", "sample", "cells", "--count", "2", "--json").json
    assert list(drawn[0]) == ["key", "macs", "params", "notation", "config", "genes"]
    assert all(each["notation"].startswith(f"|{each['config']['e01']}~0|+|") for each in drawn)
    assert "MACs" in run("spaces", "sample", "cells").out
    choices = [{"name": "depth", "options": [1, 2]}, {"name": "kernel", "options": [3, 5], "when": {"depth": [2]}}]
    options = json.dumps({"choices": choices})
    assert run("spaces", "create", "mine", "--plugin", "declared", "--options", options).code == 0
    assert "architectures 3" in run("spaces", "show", "mine").out
    drawn = run("spaces", "sample", "mine", "--count", "9", "--json").json
    assert [sorted(each) for each in drawn] == [["config", "genes", "key"]] * 3
    assert {json.dumps(each["config"]) for each in drawn} == {
        '{"depth": 1}',
        '{"depth": 2, "kernel": 3}',
        '{"depth": 2, "kernel": 5}',
    }
    shown = run("spaces", "sample", "mine").out
    assert "MACs" not in shown
    assert "depth" in shown
    wrong = options.replace('"when": {"depth": [2]}', '"when": {"depth": [4]}')
    refused = run("spaces", "create", "bad", "--plugin", "declared", "--options", wrong)
    assert refused.code == 1
    assert "options.choices.1.when.depth" in refused.err


def test_a_supernet_is_created_and_its_training_is_queued(server: Served, run: Run) -> None:
    make_space(server.http)
    made = run(
        "supernets", "create", "net", "--space", "tiny", "--dataset", "digits", "--recipe", '{"epochs": 1}', "--json"
    )
    assert made.json["state"] == "CREATED"
    assert run("supernets", "train", "net", "--detach", "--json").json["kind"] == "train_supernet"
    (job,) = lease(server.http)
    server.http.put(f"/v1/artifacts/{sha256(WEIGHTS)}", content=WEIGHTS)
    complete(server.http, job, {"weights": sha256(WEIGHTS), "summary": {}})
    trained = run("supernets", "train", "net", "--json")
    assert trained.json["state"] == "READY"
    assert "training net" in trained.err
    assert "READY" in run("supernets", "list").out
    assert run("supernets", "show", "net", "--json").json["weights"] == sha256(WEIGHTS)


def test_a_study_is_created_searched_and_shown(server: Served, run: Run) -> None:
    make_study(server.http)
    made = run(
        *("studies", "create", "other", "--space", "tiny", "--dataset", "digits", "--supernet", "net"),
        *("--objective", "error", "--objective", "min:macs[0,1000000]", "--constraint", "params<=50000"),
        *("--metric", "latency_ms", "--json"),
    )
    assert made.code == 0, made.err
    assert made.json["objectives"][1] == {"metric": "macs", "direction": "minimise", "bounds": [0, 1000000]}
    assert made.json["constraints"] == [{"metric": "params", "lower": None, "upper": 50000}]
    assert made.json["metrics"] == ["error", "macs", "params", "latency_ms"]

    search = make_search(server)
    evaluate(server.http)
    assert "study" in run("studies", "list").out
    front = run("studies", "front", "study")
    assert re.search(r"hypervolume 0\.\d+, scaled by \(ideal, nadir\): error \[0, 0\.9\]", front.out)
    key = run("studies", "front", "study", "--json").json["points"][0]["key"]
    assert key in front.out
    assert run("studies", "show", "study", "--json").json["searches"] == 1

    assert run("search", "list", "--study", "study", "--json").json[0]["counts"]["succeeded"] == 4
    assert "RUNNING" in run("search", "show", str(search)).out
    for verb, state in (("pause", "PAUSED"), ("resume", "RUNNING"), ("cancel", "CANCELLED")):
        assert run("search", verb, str(search), "--json").json["state"] == state
    watched = run("search", "watch", str(search), "--json")
    assert watched.json["state"] == "CANCELLED"
    assert "search first" in watched.err
    started = run("search", "start", "study", "--designer", "random", "--budget", "2", "--json")
    assert started.json["budget"] == 2
    assert run("predictors", "list", "--study", "study", "--json").json == []


def test_an_architecture_is_exported_to_files(server: Served, run: Run, tmp_path: Path) -> None:
    make_study(server.http)
    make_search(server)
    evaluate(server.http)
    key = run("studies", "front", "study", "--json").json["points"][0]["key"]
    server.http.post(f"/v1/studies/study/architectures/{key}:export", json={"formats": ["onnx"]})
    (job,) = lease(server.http)
    result = {"files": {"onnx": sha256(WEIGHTS)}, "max_abs_diff": {"onnx": 1e-6}, "input_shape": [1, 8, 8]}
    complete(server.http, job, result)
    exported = run("export", "study", key, "--format", "onnx", "--out", str(tmp_path / "out"), "--json")
    assert exported.code == 0, exported.err
    assert Path(exported.json["files"]["onnx"]).read_bytes() == WEIGHTS


def test_proxies_and_jobs(server: Served, run: Run) -> None:
    make_study(server.http)
    assert "synflow" in run("proxies", "list").out.split()
    scored = run("proxies", "score", "study", "--proxy", "synflow", "--sample", "2", "--detach", "--json")
    (job,) = scored.json["jobs"]
    assert run("jobs", "show", str(job), "--json").json["kind"] == "score"
    assert [each["id"] for each in run("jobs", "list", "--state", "queued", "--json").json] == [job]
    assert run("jobs", "cancel", str(job), "--json").json["cancelled"] == [job]
    assert "CANCELLED" in run("jobs", "list", "--kind", "score").out
    assert re.search(r"w1 +yes +test-cpu +cpu +1000", run("workers", "list").out)
    assert run("workers", "show", "w1", "--json").json["alive"]


def test_dead_letters_are_shown_tried_again_and_cancelled(server: Served, run: Run) -> None:
    make_study(server.http)
    search = make_search(server, trials=4)
    leases = lease(server.http, 3)
    trace = "Traceback (most recent call last):\n  File [x]\nValueError: [bold] no such layer"
    for each in leases:
        failure = {"token": each["token"], "state": "FAILED", "failure": "invalid", "traceback": trace}
        failure["reason"] = f"job {each['job']} asks for layer {each['job']}"
        server.http.post(f"/v1/jobs/{each['job']}:fail", json=failure).raise_for_status()
    ids = [each["job"] for each in leases]

    assert [each["id"] for each in run("jobs", "list", "--dead", "--json").json] == ids[::-1]
    assert run("jobs", "list", "--search", str(search), "--failure", "bug", "--json").json == []
    assert "ValueError: [bold] no such layer" in run("jobs", "show", str(ids[0])).out
    shown = run("jobs", "failures", "--study", "study")
    assert re.search(r"evaluate +\S+ +3 +0 .* job # asks for layer # +ValueError: \[bold\]", shown.out), shown.out
    (group,) = run("jobs", "failures", "--json").json["groups"]
    assert run("jobs", "failures", "--since", "2999-01-01", "--json").json["groups"] == []

    refused = run("jobs", "retry", "--group", group["group"])
    assert (refused.code, "Try 3 jobs again? Nobody is there to ask" in refused.err) == (1, True)
    assert "3 jobs would wait again" in run("jobs", "retry", "--search", str(search), "--dry-run").out
    assert run("jobs", "retry", str(ids[0]), "--json").json["retried"] == ids[:1]
    done = run("jobs", "retry", "--group", group["group"], "--yes")
    assert "2 jobs wait again" in done.out
    left = run("jobs", "retry", str(ids[0]))
    assert (left.code, "it is QUEUED" in left.out) == (0, True)

    lease(server.http, 1)
    done = run("jobs", "cancel", "--search", str(search), "--yes")
    assert "3 jobs cancelled" in done.out
    assert "at work: their workers hear of it" in done.out
    assert "would be cancelled" in run("jobs", "cancel", "--kind", "evaluate", "--dry-run").out


def test_scores_and_test_values_are_waited_for(server: Served, run: Run) -> None:
    make_study(server.http)
    make_search(server)
    evaluate(server.http)

    def work() -> None:
        while not done.is_set():
            for job in lease(server.http, 8, wait_s=1):
                if job["kind"] == "score":
                    rows = len(job["payload"]["genes"])
                    scores = [{"synflow": float(row)} for row in range(rows)]
                    complete(server.http, job, {"scores": scores, "undefined": [{}] * rows, "seconds": [0.1] * rows})
                else:
                    complete(server.http, job, {"metrics": {"error": 0.5}, "device": "test-cpu"})

    done = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(work)
        scored = run("proxies", "score", "study", "--proxy", "synflow", "--sample", "3", "--seed", "1")
        tested = run("studies", "test", "study", "--json")
        done.set()
        working.result(60)
    assert re.search(r"synflow +3 +0 +0 +2", scored.out), scored.out + scored.err
    assert {point["test_metrics"]["error"] for point in tested.json["points"]} == {0.5}


def test_a_job_that_fails_is_one_line(server: Served, run: Run) -> None:
    make_space(server.http)
    run("supernets", "create", "net", "--space", "tiny", "--dataset", "digits")
    run("supernets", "train", "net", "--detach")
    (job,) = lease(server.http)
    failure = {"token": job["token"], "state": "FAILED", "failure": "bug", "reason": "the recipe is wrong"}
    server.http.post(f"/v1/jobs/{job['job']}:fail", json=failure)
    study = run("jobs", "show", str(job["job"]), "--json")
    assert study.json["reason"] == "the recipe is wrong"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["studies", "show", "nope"], 1, "there is no study 'nope'"),
        (["spaces", "create", "x", "--plugin", "nope"], 1, "plugin: no space named 'nope'"),
        (["spaces", "create", "Big", "--plugin", "mobilenetv3"], 2, "name: "),
        (["spaces", "create", "x", "--plugin", "mobilenetv3", "--options", "[1]"], 2, "must be a JSON object"),
        (["spaces", "create", "x", "--plugin", "mobilenetv3", "--options", "{"], 2, "is not JSON"),
        (["spaces", "create", "x", "--plugin", "mobilenetv3", "--options", "@/nope"], 2, "is not JSON"),
        (["jobs", "show", "0"], 2, "greater than or equal to 1"),
        (["jobs", "list", "--kind", "nope"], 2, "nope"),
        (["jobs", "retry"], 2, "at least one of the filters"),
        (["jobs", "cancel", "--yes"], 2, "at least one of the filters"),
        (["jobs", "retry", "--group", "nope"], 2, "group: "),
        (["jobs", "retry", "--study", "nope"], 1, "there is no study 'nope'"),
        (["worker", "--kinds", "nope"], 2, "allowed: evaluate"),
        (["search", "start", "study", "--budget", "0"], 2, "greater than or equal to 1"),
        (["studies", "create", "x", "--space", "s", "--dataset", "d", "--objective", "="], 2, "--objective"),
        (["nope"], 2, "nope"),
        (["serve", "--host", "0.0.0.0"], 1, "without keys"),
        (["api", "--host", "192.0.2.1"], 1, "without keys"),
    ],
)
def test_errors_are_one_clear_line(server: Served, run: Run, arguments: list[str], code: int, said: str) -> None:
    ran = run(*arguments)
    assert ran.code == code
    assert said in " ".join(ran.err.split())
    assert ran.out == ""
    assert "Traceback" not in ran.err
    if code == 1:
        assert len(ran.err.strip().splitlines()) == 1
        assert ran.err.startswith("frontier: ")


def test_a_server_that_is_not_there_is_one_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = run("studies", "list", "--url", "http://127.0.0.1:9")
    assert ran.code == 1
    assert "start a server with `frontier serve`" in ran.err
    assert run("studies", "list", "--url", "nonsense").code == 1
    monkeypatch.setenv("FRONTIER_PORT", "many")
    wrong = run("studies", "list")
    assert (wrong.code, "FRONTIER_PORT" in wrong.err) == (2, True)


def test_the_database_is_upgraded_and_checked(run: Run, tmp_path: Path) -> None:
    fresh = run("db", "check")
    assert fresh.code == 1
    assert "frontier db upgrade" in fresh.err
    assert run("db", "upgrade").code == 0
    assert run("db", "check").code == 0
    assert (tmp_path / "home" / "frontier.db").exists()
    broken = run("db", "check", "--database-url", "sqlite:////nope/nope/x.db")
    assert broken.code == 1
    assert "Traceback" not in broken.err
    assert run("db", "check", "--database-url", "oracle://x").code == 1


def test_the_server_at_home_is_found(server: Served, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("FRONTIER_URL")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "server.json").write_text(json.dumps({"url": server.url}))
    assert run("spaces", "list", "--json").json == []


def test_every_command_has_help(run: Run) -> None:
    assert run("--version").out.strip()
    groups = [group.name for group in app.registered_groups]
    assert {"spaces", "supernets", "studies", "search", "predictors", "proxies", "jobs", "db"} <= set(groups)
    for group in app.registered_groups:
        assert group.typer_instance is not None
        for command in group.typer_instance.registered_commands:
            assert command.callback is not None
            assert command.callback.__doc__, command.name
            assert run(str(group.name), str(command.name), "--help").code == 0
