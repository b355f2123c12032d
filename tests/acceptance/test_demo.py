"""The main job, as a user starts it, with fewer evaluations."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

EVALUATIONS = 30


def test_demo_once_writes_its_report(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    environment = {key: value for key, value in os.environ.items() if not key.startswith("FRONTIER_")}
    command = [sys.executable, "-m", "service.cli", "demo", "--once", "--evaluations", str(EVALUATIONS), "--seed", "1"]
    done = subprocess.run(
        [*command, "--report", str(report), "--home", str(tmp_path / "home")],
        capture_output=True,
        text=True,
        timeout=280,
        cwd=tmp_path,
        env=environment,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(report.read_text())
    assert found["evaluations"] == EVALUATIONS
    _check_front(found["front"])
    for name in ("hypervolume", "hypervolume_random"):
        assert 0 < found[name] <= 1.1**2
    predictor = found["predictor"]
    assert set(predictor) == {"kendall_tau", "ci_low", "ci_high", "macs_tau", "params_tau", "n"}
    assert predictor["ci_low"] <= predictor["kendall_tau"] <= predictor["ci_high"]
    assert EVALUATIONS // 2 < predictor["n"] <= EVALUATIONS
    assert max(found["export"].values()) < 1e-3
    assert "Pareto front" in done.stdout
    assert "proves nothing" in done.stdout
    assert not (tmp_path / "home" / "server.json").exists(), "the server ended"


def _check_front(front: list[dict[str, object]]) -> None:
    assert front
    assert all({"key", "config", "accuracy", "test_accuracy", "macs", "params", "latency_ms"} <= set(p) for p in front)
    ordered = sorted(front, key=lambda point: point["macs"])
    accuracies = [point["accuracy"] for point in ordered]
    assert accuracies == sorted(set(accuracies)), "each larger network of a front is more accurate"
    assert all(0 < point["test_accuracy"] <= 1 and point["latency_ms"] > 0 for point in front)
