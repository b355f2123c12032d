"""The main job, as a user starts it, with fewer evaluations; then the README's examples on its server."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.client import Client
from tests.acceptance.processes import until
from tests.documents import commands

EVALUATIONS = 30
README = Path(__file__).parents[2] / "README.md"


def test_demo_then_the_readme_example(tmp_path: Path) -> None:
    report, printed, home = tmp_path / "report.json", tmp_path / "out.txt", tmp_path / "home"
    environment = {key: value for key, value in os.environ.items() if not key.startswith("FRONTIER_")}
    command = [sys.executable, "-m", "service.cli", "demo", "--evaluations", str(EVALUATIONS), "--seed", "1"]
    with printed.open("w") as file:
        demo = subprocess.Popen(
            [*command, "--report", str(report), "--home", str(home)],
            stdout=file,
            stderr=subprocess.STDOUT,
            cwd=tmp_path,
            env=environment,
        )
    try:
        until("the dashboard's address", lambda: _said(demo, printed, "The dashboard is at"), 280)
        _check_report(json.loads(report.read_text()))
        assert "Pareto front" in printed.read_text()
        assert "proves nothing" in printed.read_text()
        url = json.loads((home / "server.json").read_text())["url"]
        _run_the_readme_example(url)
        _run_the_readme_commands(home, url)
    finally:
        demo.send_signal(signal.SIGTERM)
        demo.wait(60)
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/healthz")


def _said(demo: subprocess.Popen[bytes], printed: Path, words: str) -> bool:
    assert demo.poll() is None, printed.read_text()
    return words in printed.read_text()


def _run_the_readme_example(url: str) -> None:
    example = re.search(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert example is not None
    code = example[1].replace("http://127.0.0.1:8470", url)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("DONE ")
    assert "params" in done.stdout


def _run_the_readme_commands(home: Path, url: str) -> None:
    """Those for what a search has found; the others are long, and started by other tests."""
    wanted = [
        words
        for words in commands(README)
        if words[1:2] and words[1] in ("confirm", "extend", "clone", "verify", "create")
    ]
    assert len(wanted) == 5
    with Client(url) as client:
        (study,) = {search.study for search in client.searches.list() if search.id == 1}
    environment = {**os.environ, "FRONTIER_HOME": str(home)}
    for words in wanted:
        command = [sys.executable, "-m", "service.cli", *(study if word == "STUDY" else word for word in words)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=200, env=environment)
        assert done.returncode == 0, f"{words}: {done.stderr}"
        if words[1] == "confirm":
            assert "on average" in " ".join(done.stdout.split())


def _check_report(found: dict[str, Any]) -> None:
    assert found["evaluations"] == EVALUATIONS
    front = found["front"]
    assert front
    assert all({"key", "config", "accuracy", "test_accuracy", "macs", "params", "latency_ms"} <= set(p) for p in front)
    ordered = sorted(front, key=lambda point: point["macs"])
    accuracies = [point["accuracy"] for point in ordered]
    assert accuracies == sorted(set(accuracies)), "each larger network of a front is more accurate"
    assert all(0 < point["test_accuracy"] <= 1 and point["latency_ms"] > 0 for point in front)
    for name in ("hypervolume", "hypervolume_random"):
        assert 0 < found[name] <= 1.1**2
    predictor = found["predictor"]
    assert set(predictor) == {"kendall_tau", "ci_low", "ci_high", "macs_tau", "params_tau", "n"}
    assert predictor["ci_low"] <= predictor["kendall_tau"] <= predictor["ci_high"]
    assert EVALUATIONS // 2 < predictor["n"] <= EVALUATIONS
    assert max(found["export"].values()) < 1e-3
