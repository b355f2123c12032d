"""Real servers and workers as processes, for tests that kill them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from service.client import Client, FrontierClientError
from service.wire.spaces import DatasetOut, SpaceIn, SupernetIn, SupernetOut, Task
from service.wire.studies import ObjectiveIn, StudyIn

Found = TypeVar("Found")


def until(what: str, look: Callable[[], Found | None], seconds: float = 90.0) -> Found:
    """The first answer that is not None or False; fails with ``what`` after so many seconds."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = look()
        if found is not None and found is not False:
            return found
        time.sleep(0.02)
    raise AssertionError(f"not seen within {seconds:g} s: {what}")


class Server:
    """``frontier serve`` in a session of its own, so that all of it can be killed at once."""

    def __init__(self, home: Path, *, cpu_workers: int, lease_s: float = 2.0) -> None:
        self.home = home
        self._environment = {**os.environ, "FRONTIER_LEASE_S": str(lease_s)}
        self._environment.pop("FRONTIER_DATABASE_URL", None)
        self._workers: list[subprocess.Popen[bytes]] = []
        home.mkdir(parents=True, exist_ok=True)
        (home / "server.json").unlink(missing_ok=True)
        self._process = self._start("serve", "--port", "0", "--cpu-workers", str(cpu_workers))
        until("the server's address", self._is_up)
        self.client = Client(json.loads((home / "server.json").read_text())["url"])

    def _start(self, *arguments: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "service.cli", *arguments, "--home", str(self.home)]
        with (self.home / "test.log").open("ab") as log:
            return subprocess.Popen(
                command, stdout=log, stderr=log, env=self._environment, start_new_session=True, cwd=self.home
            )

    def _is_up(self) -> bool:
        assert self._process.poll() is None, (self.home / "test.log").read_text()
        try:
            with Client(json.loads((self.home / "server.json").read_text())["url"]) as client:
                client.health()
        except (OSError, ValueError, FrontierClientError):
            return False
        return True

    def worker(self, name: str) -> subprocess.Popen[bytes]:
        """Another worker process, on the server's address."""
        process = self._start("worker", "--name", name)
        self._workers.append(process)
        return process

    def dataset(self) -> DatasetOut:
        """The digits, once a worker has announced them."""
        return until("a worker that has the digits", lambda: next(self.client.datasets.list(), None))

    def kill(self) -> None:
        """SIGKILL to everything at once."""
        for process in (self._process, *self._workers):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def stop(self) -> None:
        """SIGTERM, then SIGKILL to what is left."""
        for process in (*self._workers, self._process):
            process.terminate()
        for process in (*self._workers, self._process):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
        self.kill()


TINY = {"epochs": 6}


def make_space(client: Client, dataset: DatasetOut) -> Task:
    """The digits' space ``mini``; returns the task."""
    from search_spaces.mobilenetv3 import scaled

    channels, height, width = dataset.shape
    client.spaces.create(
        SpaceIn(name="mini", plugin="mobilenetv3", options=scaled((channels, height, width), dataset.classes))
    )
    return Task(dataset=dataset.name, digest=dataset.digest)


def make_supernet(client: Client, task: Task) -> SupernetOut:
    """An untrained super-network ``net`` with a short recipe."""
    return client.supernets.create(SupernetIn(name="net", space="mini", task=task, recipe=TINY, seed=3))


def make_study(client: Client, task: Task, name: str = "study") -> None:
    """A study over the trained super-network, error against MACs."""
    client.studies.create(
        StudyIn(
            name=name,
            space="mini",
            task=task,
            objectives=[ObjectiveIn(metric="error"), ObjectiveIn(metric="macs")],
            supernet="net",
            seed=11,
        )
    )
