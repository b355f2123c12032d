"""Measurements in and out over HTTP, on both databases."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select

from service.app import create_app
from service.core.spaces import build_space
from service.core.states import State
from service.db import imports, jobs, queue
from service.db.artifacts import ArtifactStore
from service.db.tables import Architecture, Event, Measurement
from service.importer import Importer, Plan, import_file
from service.settings import Settings
from tests.serving import SPACE, STUDY, Served, lease, make_space, served
from tests.shared import SHARED, needs_shared
from tests.tables import EXPORTS, FORMATS, encode, exported, held, imported, send

TINY = build_space("mobilenetv3", SPACE["options"], "function")  # type: ignore[arg-type]
OWN = {**STUDY, "supernet": None, "evaluator": {"name": "training"}}


@pytest.fixture
def server(database_url: str, tmp_path: Path) -> Iterator[Served]:
    """A study that evaluates by training, over either database."""
    with served(Settings(home=tmp_path, port=0, poll_s=0.02, database_url=database_url)) as running:
        make_space(running.http)
        running.http.post("/v1/studies", json=OWN).raise_for_status()
        yield running


def importer(server: Served, tmp_path: Path) -> Importer:
    store = ArtifactStore(tmp_path / "artifacts")
    return Importer(server.database, store, tmp_path / "artifacts", "importer", 30.0)


def rows_of(count: int, seed: int = 0) -> list[dict[str, Any]]:
    genes = TINY.sample(count, np.random.default_rng(seed))
    return [
        {"config": config, "metric": "error", "value": 0.1 + index / 1000}
        for index, config in enumerate(TINY.to_configs(genes))
    ]


def stored(server: Served) -> int:
    with server.database.read() as s:
        return s.scalar(select(func.count()).select_from(Measurement)) or 0


def kinds(server: Served) -> list[str]:
    with server.database.read() as s:
        return list(s.scalars(select(Event.kind).order_by(Event.number)))


@pytest.mark.parametrize("kind", FORMATS)
def test_a_table_is_imported_once(server: Served, kind: str) -> None:
    rows = rows_of(20)
    first = imported(server.http, encode(kind, rows), kind)
    assert first == {"rows": 20, "new": 20, "unchanged": 0, "skipped": 0, "errors": [], "errors_total": 0}
    assert imported(server.http, encode(kind, rows), kind)["new"] == 0
    assert stored(server) == 20
    found = {(json.dumps(each["config"], sort_keys=True), each["value"]) for each in held(server.http)}
    assert found == {(json.dumps(row["config"], sort_keys=True), row["value"]) for row in rows}
    # The study reads them as if it had measured them itself.
    front = server.http.get("/v1/studies/study/front", params={"metrics": "error"}).json()
    assert [point["metrics"] for point in front["points"]] == [{"error": 0.1}]
    assert kinds(server).count("measurements.imported") == 2


def test_every_way_to_name_an_architecture_and_its_values(server: Served) -> None:
    genes = TINY.sample(3, np.random.default_rng(1))
    configs, keys, costs = TINY.to_configs(genes), TINY.keys(genes), TINY.cost(genes)
    rows: list[dict[str, Any]] = [
        {"config": configs[0], "key": keys[0], "metrics": {"error": 0.5, "loss": 1, "macs": int(costs["macs"][0])}},
        {"genes": genes[1].tolist(), "metrics.error": 0.25, "metrics.latency_ms@cpu-a": 3.5, "seconds": 4},
        {f"config.{name}": option for name, option in configs[2].items()}
        | {"metric": "error", "value": 0.75, "split": "test", "seed": 7, "worker": "somebody"},
    ]
    for kind in FORMATS:
        out = imported(server.http, encode(kind, rows), kind)
        assert (out["rows"], out["new"] + out["unchanged"]) == (3, 6)
    by_place = {(each["key"], each["metric"]): each for each in held(server.http)}
    assert len(by_place) == 6
    assert by_place[keys[0], "macs"]["context"] == {}
    assert by_place[keys[1], "latency_ms@cpu-a"]["context"] == {"device": "cpu-a"}
    assert by_place[keys[1], "error"]["seconds"] == 2.0
    tested = by_place[keys[2], "error"]
    assert (tested["context"]["split"], tested["context"]["seed"], tested["worker"]) == ("test", 7, "somebody")


def test_columns_of_a_foreign_table_are_mapped(server: Served) -> None:
    genes = TINY.sample(5, np.random.default_rng(2))
    rows = [{"code": row.tolist(), "acc": 0.5 + i, "key": "theirs", "note": "x"} for i, row in enumerate(genes)]
    unknown = send(server.http, encode("csv", rows), "csv")
    assert (unknown.status_code, unknown.json()["errors"][0]["field"]) == (422, "columns.code")
    mapping = {"column": ["genes:code", "key:"], "metric": ["top1:acc"]}
    assert imported(server.http, encode("csv", rows), "csv", **mapping)["new"] == 5
    assert {each["metric"] for each in held(server.http)} == {"top1"}
    missing = send(server.http, encode("csv", rows), "csv", metric="top1:nowhere")
    assert missing.json()["errors"][0]["field"] == "columns.nowhere"
    nonsense = send(server.http, b"", "csv", column="colour:code")
    assert (nonsense.status_code, nonsense.json()["errors"][0]["field"]) == (422, "column")


def test_attempts_and_values_tell_replicates_apart(server: Served) -> None:
    config = rows_of(1)[0]["config"]
    row = {"config": config, "metric": "error"}
    assert imported(server.http, encode("json", [{**row, "value": v} for v in (0.5, 0.25, 0.5)]), "json")["new"] == 2
    assert [(each["attempt"], each["value"]) for each in held(server.http)] == [(0, 0.5), (1, 0.25)]
    more = [{**row, "value": 0.125, "attempt": 7}, {**row, "value": 0.5, "attempt": 0}, {**row, "value": 0.0625}]
    assert imported(server.http, encode("json", more), "json")["new"] == 2
    assert [each["attempt"] for each in held(server.http)] == [0, 1, 7, 8]
    taken = send(server.http, encode("json", [{**row, "value": 0.3}, {**row, "value": 0.9, "attempt": 1}]), "json")
    assert (taken.status_code, taken.json()["errors"][0]["field"]) == (422, "rows.2.attempt")
    twice = [{**row, "value": v, "attempt": 11} for v in (0.1, 0.2)]
    assert send(server.http, encode("json", twice), "json").json()["errors"][0]["field"] == "rows.2.attempt"
    assert stored(server) == 4


def test_what_is_new_and_what_is_stored_come_together(server: Served) -> None:
    first, second, *others = rows_of(8)
    assert imported(server.http, encode("ndjson", [first, second]))["new"] == 2
    replicates = [{**others[0], "value": value} for value in (0.25, 0.5, 0.25)]
    changed = {**second, "value": 2.0}
    rows = [*others[1:], first, *replicates, changed, {**others[1], "metric": "loss"}]
    out = imported(server.http, encode("ndjson", rows))
    assert (out["new"], out["unchanged"]) == (5 + 2 + 1 + 1, 2)
    found = {(json.dumps(each["config"]), each["metric"], each["attempt"]): each["value"] for each in held(server.http)}
    asked = {json.dumps(row["config"]): [row["value"]] for row in [first, *others[1:]]}
    asked[json.dumps(second["config"])] = [second["value"], 2.0]
    asked[json.dumps(others[0]["config"])] = [0.25, 0.5]
    wanted = {(config, "error", i): value for config, values in asked.items() for i, value in enumerate(values)}
    assert found == {**wanted, (json.dumps(others[1]["config"]), "loss", 0): others[1]["value"]}
    assert imported(server.http, encode("ndjson", rows))["new"] == 0


def test_an_architecture_is_written_by_one_transaction(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two that wrote the same one would wait for each other; only what is too much for one is divided."""
    monkeypatch.setattr("service.db.imports.CHUNK", 4)
    rows = [{**row, "metric": name} for row in rows_of(5) for name in ("error", "loss", "top1")]
    assert imported(server.http, encode("ndjson", rows))["new"] == 15
    rows = [{**rows_of(6)[5], "value": value} for value in range(6)]
    assert imported(server.http, encode("ndjson", rows))["new"] == 6
    with server.database.read() as s:
        written = select(Event.body).where(Event.kind == "measurements.imported").order_by(Event.number)
        assert sorted(body["rows"] for body in s.scalars(written)) == [2, 3, 3, 3, 3, 3, 4]


def test_counted_metrics_must_be_what_they_are(server: Served) -> None:
    row = rows_of(1)[0]
    wrong = send(server.http, encode("ndjson", [{**row, "metric": "params", "value": 5}]))
    error = wrong.json()["errors"][0]
    right = int(TINY.cost(TINY.from_configs([row["config"]]))["params"][0])
    assert error["field"] == "rows.1.value"
    assert str(right) in error["message"]
    assert "5" in error["message"]


BAD_ROWS: list[tuple[dict[str, Any], str]] = [
    ({"value": "much"}, "value"),
    ({"value": True}, "value"),
    ({"value": float("nan")}, "value"),
    ({"value": 10**400}, "value"),
    ({"value": None}, "value"),
    ({"metric": "no metric"}, "metric"),
    ({"metric": 5}, "metric"),
    ({"metric": "latency_ms"}, "device"),
    ({"config": {"resolution": 8}}, "config.stage1.depth"),
    ({"config": [1, 2]}, "config"),
    ({"config": None}, "config"),
    ({"genes": [1, 2]}, "genes"),
    ({"genes": [1.5] * 11}, "genes"),
    ({"genes": [10**30] * 11}, "genes"),
    ({"arch": "|none~0|"}, "arch"),
    ({"key": "0" * 32}, "key"),
    ({"split": "train"}, "split"),
    ({"seed": -1}, "seed"),
    ({"fidelity": 0}, "fidelity"),
    ({"seconds": -1}, "seconds"),
    ({"attempt": 1.5}, "attempt"),
    ({"worker": "x" * 64}, "worker"),
    ({"worker": "a\0b"}, "worker"),
    ({"created_at": "yesterday"}, "created_at"),
    ({"context": {"device": "x"}}, "context"),
    ({"context": {}, "seed": 3}, "context"),
    ({"colour": "red"}, "colour"),
    ({"metrics": {"loss": "x"}}, "metrics.loss"),
]


@pytest.mark.parametrize(("change", "field"), BAD_ROWS, ids=lambda given: str(given)[:40])
def test_a_bad_row_is_named_and_nothing_is_written(server: Served, change: dict[str, Any], field: str) -> None:
    rows = rows_of(3)
    rows[1] = {**rows[1], **change}
    refused = send(server.http, encode("ndjson", rows))
    assert refused.status_code == 422, refused.text
    assert f"rows.2.{field}" in [each["field"] for each in refused.json()["errors"]]
    assert {each["field"].split(".")[1] for each in refused.json()["errors"]} == {"2"}
    assert stored(server) == 0
    kept = imported(server.http, encode("ndjson", rows), skip_bad=True)
    assert (kept["new"], kept["skipped"]) == (2, 1)
    assert {each["row"] for each in kept["errors"]} == {2}
    assert stored(server) == 2


CONFIG = json.dumps(rows_of(1)[0]["config"]).replace('"', '""')
GOOD = f'"{CONFIG}",error,0.5\n'
HEAD = "config,metric,value\n"
FILES: list[tuple[str, bytes, str]] = [
    ("csv", b"", "file"),
    ("csv", b"config,,value\n", "columns"),
    ("csv", b"config,metric,metric,value\n", "columns.metric"),
    ("csv", b"config,metric,value,colour\n", "columns.colour"),
    ("csv", b"metric,value\nerror,1\n", "columns"),
    ("csv", b"config\n{}\n", "columns"),
    ("csv", b"\xff\xfe\n", "columns"),
    ("csv", (HEAD + GOOD + "a,b\n").encode(), "rows.2"),
    ("csv", (HEAD + GOOD + GOOD.strip() + ",1\n").encode(), "rows.2"),
    ("csv", (HEAD + GOOD + '"open,error,1\n').encode(), "rows.2"),
    ("csv", (HEAD + GOOD + f'"{CONFIG}",err\0or,1\n').encode(), "rows.2.metric"),
    ("csv", (HEAD + GOOD).encode() + f'"{CONFIG}",err'.encode() + b"\xff,1\n", "rows.2.metric"),
    ("csv", (HEAD + GOOD + f'"{CONFIG}",error,1_0\n').encode(), "rows.2.value"),
    ("ndjson", b'{"value": 1}\n{', "rows.2"),
    ("ndjson", b"[1]\n", "rows.1"),
    ("ndjson", b"\xff\xff\n", "rows.1"),
    ("ndjson", b"[" * 100_000, "rows.1"),
    ("json", b"", "file"),
    ("json", b'{"rows": []}', "file"),
    ("json", b"[1, 2", "file"),
    ("json", b"[{}, {}", "file"),
    ("json", b"[{},]", "file"),
    ("json", b"[]]", "file"),
    ("json", b"[null]", "rows.1"),
    ("parquet", b"PAR1 but not much of it", "file"),
    ("parquet", encode("parquet", rows_of(50))[:-40], "file"),
    ("parquet", encode("parquet", [{"a": 1}]), "columns.a"),
]


@pytest.mark.parametrize(("kind", "content", "field"), FILES, ids=lambda given: str(given)[:40])
def test_a_bad_file_is_refused_as_a_whole(server: Served, kind: str, content: bytes, field: str) -> None:
    refused = send(server.http, content, kind)
    assert refused.status_code == 422, refused.text
    assert field in [each["field"] for each in refused.json()["errors"]]
    assert stored(server) == 0


def test_empty_tables_and_byte_order_marks_are_fine(server: Served) -> None:
    assert imported(server.http, HEAD.encode(), "csv")["rows"] == 0
    assert imported(server.http, b"", "ndjson")["rows"] == 0
    assert imported(server.http, b" [ ] ", "json")["rows"] == 0
    assert imported(server.http, b"\xef\xbb\xbf" + (HEAD + "\n" + GOOD + "\n").encode(), "csv")["new"] == 1
    assert imported(server.http, b"\xef\xbb\xbf" + encode("json", rows_of(1)), "json")["rows"] == 1


def test_a_csv_error_names_its_line(server: Served) -> None:
    many_lines = CONFIG.replace(",", ",\n")
    content = f'{HEAD}"{many_lines}",error,0.5\n\n{GOOD}"{CONFIG}",error,x\n'
    (error,) = send(server.http, content.encode(), "csv").json()["errors"]
    assert error["field"] == "rows.3.value"
    line = content[: content.index(",error,x")].count("\n") + 1
    assert f"(line {line})" in error["message"]


def test_ten_thousand_columns(server: Served) -> None:
    names = [f"m{index}" for index in range(10_000)]
    config = f'"{CONFIG}"'
    wide = ",".join(["config", *(f"metrics.{name}" for name in names)]) + "\n"
    wide += ",".join([config, *map(str, range(10_000))]) + "\n"
    assert imported(server.http, wide.encode(), "csv")["new"] == 10_000
    unknown = ",".join(["config", *names]) + "\n" + ",".join([config, *map(str, range(10_000))]) + "\n"
    refused = send(server.http, unknown.encode(), "csv")
    assert refused.json()["errors"][0]["field"] == "columns.m0"
    assert len(refused.content) < 5000
    assert imported(server.http, unknown.encode(), "csv", metric="m7:m7")["unchanged"] == 1


@pytest.mark.parametrize("kind", EXPORTS)
def test_what_was_exported_changes_nothing_anywhere(server: Served, kind: str, tmp_path: Path) -> None:
    rows = [{**row, "seconds": 0.1 * i, "seed": i % 3} for i, row in enumerate(rows_of(40))]
    rows += [{**row, "value": row["value"] + 1} for row in rows[:7]]
    rows += [
        {**row, "metric": name, "device": "cpu (4 threads)"} for row in rows[:5] for name in ("latency_ms", "loss")
    ]
    imported(server.http, encode("ndjson", rows))
    once = exported(server.http, kind)
    again = imported(server.http, once, kind)
    assert (again["new"], again["unchanged"], again["rows"]) == (0, 57, 57)
    assert exported(server.http, kind) == once
    other = {**OWN, "name": "other"}
    server.http.post("/v1/studies", json=other).raise_for_status()
    assert imported(server.http, once, kind, "other")["new"] == 0
    assert exported(server.http, kind, "other") == once
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    settings = Settings(home=elsewhere, port=0, database_url=f"sqlite:///{elsewhere / 'fresh.db'}")
    app = create_app(settings)
    app.state.database.upgrade()
    with served(settings, app) as fresh:
        make_space(fresh.http)
        fresh.http.post("/v1/studies", json=OWN).raise_for_status()
        assert imported(fresh.http, once, kind)["new"] == 57
        for each in EXPORTS:
            assert exported(fresh.http, each) == exported(server.http, each)


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(data=st.data())
def test_any_measurements_survive_the_round_trip(server: Served, data: st.DataObject) -> None:
    pool = rows_of(6)
    made = st.fixed_dictionaries(
        {
            "config": st.sampled_from([row["config"] for row in pool]),
            "metric": st.sampled_from(["error", "loss", "Top1_5", "latency_ms@a:b-c.d"]),
            "value": st.floats(allow_nan=False, allow_infinity=False),
        },
        optional={
            "seed": st.integers(0, 2**63 - 1),
            "fidelity": st.floats(0, 1, exclude_min=True),
            "seconds": st.floats(0, 1e12),
            "worker": st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1, max_size=63),
            "created_at": st.datetimes(datetime(1971, 1, 1), datetime(8999, 1, 1)).map(str),
        },
    )
    rows = data.draw(st.lists(made, max_size=12))
    source = data.draw(st.sampled_from(["ndjson", "json", "csv"]))
    if source == "csv" and not rows:
        return
    answer = send(server.http, encode(source, rows), source)
    assert answer.status_code == 200, answer.text
    for kind in EXPORTS:
        once = exported(server.http, kind)
        assert imported(server.http, once, kind)["new"] == 0
        assert exported(server.http, kind) == once


# ---------------------------------------------------------------------- large files


def large(count: int = 400, seeds: int = 50) -> list[dict[str, Any]]:
    return [{**row, "seed": seed} for seed in range(seeds) for row in rows_of(count)]


def test_a_large_file_is_a_job_of_the_importer(server: Served, tmp_path: Path) -> None:
    rows = large()
    content = encode("ndjson", rows)
    assert len(content) > 2**20
    answer = send(server.http, content)
    assert answer.status_code == 202, answer.text
    job = answer.json()
    assert (job["kind"], job["state"], job["study"]) == ("import", "QUEUED", "study")
    assert send(server.http, content).json()["id"] == job["id"]
    # Workers announce whatever they like: they never get it.
    assert lease(server.http, 8) == []
    assert importer(server, tmp_path).pass_once()
    ended = server.http.get(f"/v1/jobs/{job['id']}").json()
    assert ended["state"] == "SUCCEEDED", ended
    assert ended["result"]["new"] == len(rows) == stored(server)
    assert ended["progress"]["done"] == ended["progress"]["total"] == len(rows)
    assert not importer(server, tmp_path).pass_once()
    again = send(server.http, content).json()
    importer(server, tmp_path).pass_once()
    result = server.http.get(f"/v1/jobs/{again['id']}").json()["result"]
    assert (result["new"], result["unchanged"]) == (0, len(rows))


def test_a_large_bad_file_fails_and_says_why(server: Served, tmp_path: Path) -> None:
    rows = large()
    rows[777] = {**rows[777], "value": "x"}
    rows[9000] = {**rows[9000], "config": {}}
    job = send(server.http, encode("csv", rows), "csv").json()["id"]
    importer(server, tmp_path).pass_once()
    ended = server.http.get(f"/v1/jobs/{job}").json()
    assert ended["state"] == "FAILED"
    assert ended["reason"].startswith("row 778, value: must be a finite number, is 'x'")
    assert [(each["row"], each["field"]) for each in ended["result"]["errors"]] == [
        (778, "value"),
        (9001, "config.resolution"),
    ]
    assert stored(server) == 0
    job = send(server.http, encode("csv", rows), "csv", skip_bad=True).json()["id"]
    importer(server, tmp_path).pass_once()
    result = server.http.get(f"/v1/jobs/{job}").json()["result"]
    assert (result["new"], result["skipped"], result["errors_total"]) == (len(rows) - 2, 2, 2)


class Killed(BaseException):
    """What no handler catches."""


def test_an_import_that_was_killed_half_way_is_completed(
    server: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = large()
    job = send(server.http, encode("ndjson", rows)).json()["id"]
    whole, calls = imports.write, []

    def dying(*given: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise Killed
        return whole(*given)

    monkeypatch.setattr(imports, "write", dying)
    with pytest.raises(Killed):
        importer(server, tmp_path).pass_once()
    monkeypatch.undo()
    assert 0 < stored(server) < len(rows)
    with server.database.write() as s:
        leased_until = jobs.row(s, job).leased_until
        assert leased_until is not None
        assert queue.expire(s, leased_until.replace(year=leased_until.year + 1)) == 1
    assert importer(server, tmp_path).pass_once()
    ended = server.http.get(f"/v1/jobs/{job}").json()
    assert ended["state"] == "SUCCEEDED"
    # What the first run wrote counts as new too.
    assert (ended["result"]["new"], ended["result"]["unchanged"], stored(server)) == (len(rows), 0, len(rows))


def clock_that_sleeps_by(act: Callable[[float], None]) -> SimpleNamespace:
    """The importer's clock alone: other threads of the process sleep as they did."""
    return SimpleNamespace(monotonic=time.monotonic, sleep=act)


def test_a_cancelled_import_stops_between_transactions(
    server: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = large()
    job = send(server.http, encode("ndjson", rows)).json()["id"]

    def cancel(_seconds: float) -> None:
        with server.database.write() as s:
            queue.cancel(s, job)

    monkeypatch.setattr("service.importer.time", clock_that_sleeps_by(cancel))
    importer(server, tmp_path).pass_once()
    ended = server.http.get(f"/v1/jobs/{job}").json()
    assert ended["state"] == "CANCELLED"
    written = stored(server)
    assert 0 < written < len(rows)
    assert f"{written} new measurements" in ended["reason"]


def test_a_lost_lease_writes_nothing_more(server: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = large()
    job = send(server.http, encode("ndjson", rows)).json()["id"]

    def lose(_seconds: float) -> None:
        with server.database.write() as s:
            jobs.row(s, job).token += 1

    monkeypatch.setattr("service.importer.time", clock_that_sleeps_by(lose))
    importer(server, tmp_path).pass_once()
    assert 0 < stored(server) < len(rows)
    assert server.http.get(f"/v1/jobs/{job}").json()["state"] == State.LEASED


def test_two_at_once_store_everything_once(server: Served, tmp_path: Path) -> None:
    content = encode("ndjson", rows_of(300) + [{**row, "value": 2.0} for row in rows_of(300)])
    with ThreadPoolExecutor(4) as pool:
        outs = list(pool.map(lambda _: imported(server.http, content), range(4)))
    assert sum(out["new"] for out in outs) == 600 == stored(server)


def test_an_unknown_study_and_format_are_said(server: Served) -> None:
    assert send(server.http, b"", study="nowhere").status_code == 404
    assert server.http.get("/v1/studies/nowhere/measurements:export").status_code == 404
    plain = server.http.post("/v1/studies/study/measurements:import", content=b"", headers={"Content-Type": "text/x"})
    assert (plain.status_code, plain.json()["errors"][0]["field"]) == (422, "format")
    named = server.http.post(
        "/v1/studies/study/measurements:import",
        content=encode("json", rows_of(2)),
        headers={"Content-Type": "application/json"},
    )
    assert named.json()["new"] == 2


@needs_shared
def test_a_published_table_goes_in_as_it_is(database_url: str, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from service.db.session import Database
    from service.wire.spaces import SpaceIn
    from service.wire.studies import ObjectiveIn
    from tests.world import World

    world = World(Database(database_url))
    world.worker("w")
    from service.db import spaces

    with world.database.write() as s:
        spaces.create(s, SpaceIn(name="cells", plugin="nasbench201", identity="row"))
    world.study(space="cells", objectives=[ObjectiveIn(metric="accuracy", direction="maximise", bounds=(100, 10))])
    folder = SHARED / "data" / "nb201"
    table = pq.read_table(folder / "archs.parquet", columns=["idx", "arch_str"])
    for name in ("cifar10_acc", "cifar10_hw"):
        table = table.join(pq.read_table(folder / f"{name}.parquet"), "idx")
    file = tmp_path / "table.parquet"
    pq.write_table(table, file)
    assert isinstance(table, pa.Table)
    metrics = {
        "accuracy": "test_acc_200",
        "latency_ms@edgegpu": "edgegpu_latency_ms",
        "latency_ms@fpga": "fpga_latency_ms",
    }
    plan = Plan("study", "parquet", False, {"arch": "arch_str"}, metrics)
    for new in (3 * 15_625, 0):
        with file.open("rb") as opened:
            outcome = import_file(world.database, plan, opened, tmp_path)
        assert not outcome.refused, outcome.out.errors[:3]
        assert (outcome.out.rows, outcome.out.new) == (15_625, new)
    with world.database.read() as s:
        assert s.scalar(select(func.count()).select_from(Architecture)) == 15_625
    world.database.dispose()
