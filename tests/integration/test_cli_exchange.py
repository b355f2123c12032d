"""`frontier import` and `frontier export` against a real server, and the same through the client."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.client import Client, Invalid, JobFailed
from service.core.spaces import build_space
from service.db.artifacts import ArtifactStore
from service.importer import Importer
from tests.commands import Run, runner
from tests.serving import SPACE, STUDY, Served, make_space, served, settings_in
from tests.tables import EXPORTS, encode

TINY = build_space("mobilenetv3", SPACE["options"], "function")  # type: ignore[arg-type]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes], tmp_path: Path) -> Run:
    monkeypatch.setenv("FRONTIER_HOME", str(tmp_path / "home"))
    return runner(monkeypatch, capsysbinary)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    """A study, and an importer at work beside the server."""
    with served(settings_in(tmp_path)) as running:
        make_space(running.http)
        study = {**STUDY, "supernet": None, "evaluator": {"name": "training"}}
        running.http.post("/v1/studies", json=study).raise_for_status()
        monkeypatch.setenv("FRONTIER_URL", running.url)
        folder = tmp_path / "artifacts"
        stop = threading.Event()
        importer = Importer(running.database, ArtifactStore(folder), folder, "importer", 30.0)
        thread = threading.Thread(target=importer.run, args=(stop,))
        thread.start()
        yield running
        stop.set()
        thread.join()


def rows_of(count: int) -> list[dict[str, Any]]:
    genes = TINY.sample(count, np.random.default_rng(0))
    return [{"genes": row.tolist(), "metric": "error", "value": i / 1000} for i, row in enumerate(genes)]


def test_a_file_goes_in_and_comes_out(server: Served, run: Run, tmp_path: Path) -> None:
    file = tmp_path / "table.csv"
    file.write_bytes(encode("csv", rows_of(30)))
    first = run("import", "study", str(file))
    assert (first.code, first.out.strip()) == (0, "30 rows: 30 new measurements, 0 unchanged")
    assert json.loads(run("import", "study", str(file), "--json").out)["unchanged"] == 30
    printed = run("export", "study").out
    assert len(printed.splitlines()) == 30
    for kind in EXPORTS:
        out = tmp_path / f"out.{kind}"
        assert run("export", "study", "--out", str(out)).code == 0
        assert run("import", "study", str(out)).out.startswith("30 rows: 0 new")
    assert (tmp_path / "out.ndjson").read_text() == printed
    assert run("export", "study", "--format", "csv").out == (tmp_path / "out.csv").read_bytes().decode()


def test_standard_input_and_foreign_columns(
    server: Served, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"code": row["genes"], "top1": 0.5, "junk": 1} for row in rows_of(4)]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(encode("csv", rows))))
    options = ("--format", "csv", "--column", "genes=code", "--metric", "accuracy=top1")
    assert run("import", "study", "-", *options).out.startswith("4 rows: 4 new")
    assert run("import", "study", "-").code == 2


def test_errors_are_listed_and_fail_the_command(server: Served, run: Run, tmp_path: Path) -> None:
    rows = rows_of(30)
    rows[3] = {**rows[3], "value": "x"}
    file = tmp_path / "table.ndjson"
    file.write_bytes(encode("ndjson", rows))
    refused = run("import", "study", str(file))
    assert refused.code == 1
    assert "rows.4.value: must be a finite number, is 'x'" in refused.err
    assert run("export", "study").out == ""
    kept = run("import", "study", str(file), "--skip-bad")
    assert (kept.code, kept.out.strip()) == (0, "30 rows: 29 new measurements, 0 unchanged, 1 skipped")
    assert "row 4, value" in kept.err
    assert run("import", "study", str(tmp_path / "nowhere.csv")).code == 1
    assert run("import", "nowhere", str(file)).code == 1
    assert run("export", "study", "--format", "onnx").code == 2
    assert run("export", "nowhere", "--out", str(tmp_path / "x.csv")).code == 1
    assert not (tmp_path / "x.csv").exists()


def test_large_files_are_waited_for(server: Served, run: Run, tmp_path: Path) -> None:
    rows = [{**row, "seed": seed} for seed in range(40) for row in rows_of(400)]
    file = tmp_path / "table.ndjson"
    file.write_bytes(encode("ndjson", rows))
    assert file.stat().st_size > 2**20
    done = run("import", "study", str(file))
    assert done.out.strip() == "16000 rows: 16000 new measurements, 0 unchanged"
    with Client(server.url) as client:
        seen: list[str] = []
        out = client.studies.import_measurements("study", file, on_progress=lambda job: seen.append(job.state))
        assert (out.new, out.unchanged, seen[-1]) == (0, 16_000, "SUCCEEDED")
        rows[9] = {**rows[9], "value": None}
        broken = io.BytesIO(encode("ndjson", rows))
        with pytest.raises(JobFailed, match="row 10, value"):
            client.studies.import_measurements("study", broken, format="ndjson")
        with pytest.raises(Invalid):
            client.studies.import_measurements("study", io.BytesIO(b"[}"), format="json")
        whole = io.BytesIO()
        client.studies.export_measurements("study", whole, "csv")
        assert whole.getvalue().count(b"\n") == 16_001
    file.write_bytes(encode("ndjson", rows))
    failed = run("import", "study", str(file))
    assert failed.code == 1
    assert "row 10, value: is missing: the row names a metric" in failed.err
