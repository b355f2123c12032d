"""``frontier serve`` as a process: it starts, it heals, and nothing survives it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

PATIENCE_S = 90.0


@contextmanager
def serving(home: Path) -> Iterator[subprocess.Popen[str]]:
    """A server without workers (they load torch, which is not what is tested here)."""
    command = [sys.executable, "-m", "service.cli", "serve", "--home", str(home), "--port", "0", "--cpu-workers", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def until(condition: Callable[[], Any], what: str) -> Any:
    """Waits until the condition gives something."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError(f"{what}: not within {PATIENCE_S:g} s")


def address(home: Path) -> str:
    """The address that the server wrote."""

    def written() -> str | None:
        file = home / "server.json"
        return str(json.loads(file.read_text())["url"]) if file.exists() else None

    return str(until(written, "server.json"))


def healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/healthz", timeout=5, trust_env=False).is_success
    except httpx.TransportError:
        return False


def children(process: subprocess.Popen[str]) -> dict[str, int]:
    """The children's process ids, by the command they run."""
    found = {}
    for folder in Path("/proc").iterdir():
        try:
            status = (folder / "stat").read_text().rpartition(")")[2].split()
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except (OSError, ValueError):
            continue
        if int(status[1]) == process.pid and b"service.cli" in words:
            found[words[words.index(b"service.cli") + 1].decode()] = int(folder.name)
    return found


def complete(found: dict[str, int]) -> dict[str, int]:
    """The children if all are there, else nothing."""
    return found if found.keys() >= {"api", "controller"} else {}


def gone(pid: int) -> bool:
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes through /proc")


def test_nothing_survives_it_and_what_crashes_is_started_again(tmp_path: Path) -> None:
    """One story, because starting takes seconds: killed with its children, started again, healed, ended cleanly."""
    home = tmp_path / "home"
    with serving(home) as process:
        url = address(home)
        left = until(lambda: complete(children(process)), "children")
        process.kill()
        process.wait(PATIENCE_S)
        until(lambda: all(gone(pid) for pid in left.values()), "the end of all children")
        assert not healthy(url)

    (home / "server.json").unlink()  # left by the one that was killed
    with serving(home) as process:
        url = address(home)
        assert httpx.get(f"{url}/readyz", trust_env=False).json()["checks"]["database"] == "ok"
        first = until(lambda: complete(children(process)), "children")
        again = [sys.executable, "-m", "service.cli", "serve", "--home", str(home)]
        second = subprocess.run(again, capture_output=True, text=True)
        assert second.returncode == 1
        assert "a server is running" in second.stderr

        os.kill(first["api"], signal.SIGKILL)
        until(lambda: children(process).get("api") not in (None, first["api"]), "a new API")
        until(lambda: healthy(url), "the API at its old address")

        last = until(lambda: complete(children(process)), "children")
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=PATIENCE_S)[0]
        assert process.returncode == 0, said
        assert f"Frontier is running at {url}" in said
        assert "api was killed by signal 9, starting it again" in said
        assert "Traceback" not in said
        assert all(gone(pid) for pid in last.values())
        assert not (home / "server.json").exists()
