"""Processes over one database, and a seeded script that kills them, starts them again, and cuts their connections."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import psycopg
from sqlalchemy import make_url

from service.client import Client, FrontierClientError
from tests.acceptance.processes import until
from tests.documents import ROOT
from tests.forks import Forks

APIS, CONTROLLERS, WORKERS = 2, 2, 3
CONNECTIONS = "connections"
_LOCK_S = (0.5, 2.0)
"""How long a database file is kept locked from outside."""
_STARTED_S = 180.0
_LOOK_S = 0.05
_AWAKE_S = 20.0
"""A process that has said nothing for so long since it was started is struck all the same."""


@dataclass(slots=True)
class Process:
    """One process of the fleet. ``kind`` is the command of ``frontier`` that it runs, ``pid`` its present life."""

    kind: str
    name: str
    words: tuple[str, ...]
    environment: Mapping[str, str]
    pid: int = 0


@final
class Fleet:
    """API processes, controllers and workers over one database, each worker at one of the APIs.

    APIs come back on the same ports. Logs are ``folder``/NAME.log, one file over all lives of a process.
    """

    def __init__(
        self,
        folder: Path,
        database_url: str,
        *,
        lease_s: float,
        apis: int = APIS,
        controllers: int = CONTROLLERS,
        workers: int = WORKERS,
    ) -> None:
        self.folder, self.database_url = folder, database_url
        clean = {name: value for name, value in os.environ.items() if not name.startswith("FRONTIER_")}
        shared = self._environment = {
            **clean,
            "PYTHONPATH": str(ROOT),
            "FRONTIER_DATABASE_URL": database_url,
            "FRONTIER_ARTIFACTS": str(folder / "artifacts"),
            "FRONTIER_LEASE_S": str(lease_s),
            "FRONTIER_DATASETS": "",
        }
        ports = _free_ports(apis)
        self.urls = [f"http://127.0.0.1:{port}" for port in ports]
        self.processes = [Process("api", f"api{n}", ("--port", str(port)), shared) for n, port in enumerate(ports)]
        self.processes += [Process("controller", f"controller{n}", (), shared) for n in range(controllers)]
        self.processes += [self._worker(f"worker{n}", self.urls[n % apis]) for n in range(workers)]
        self.crashed: list[str] = []
        self._forks = Forks()

    def __enter__(self) -> Fleet:
        try:
            for each in self.processes:
                self.start(each)
            for url in self.urls:
                until(f"a ready API at {url}", lambda at=url: _ready(at), _STARTED_S)
            with self.client() as client:
                wanted = sum(each.kind == "worker" for each in self.processes)
                until("all workers", lambda: len(list(client.workers.list())) == wanted, _STARTED_S)
        except BaseException:
            self._forks.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """SIGTERM to all, the last started first."""
        try:
            for each in reversed(self.processes):
                self._end(each, signal.SIGTERM)
        finally:
            self._forks.close()

    def client(self, api: int = 0) -> Client:
        """A client of one of the APIs that outlasts its restarts."""
        return Client(self.urls[api], tries=12)

    def frontier(self, *words: str) -> str:
        """Runs a command at the database to its end; its standard output."""
        command = [sys.executable, "-m", "service.cli", *words]
        ended = subprocess.run(command, env=self._environment, cwd=self.folder, capture_output=True, text=True)
        assert ended.returncode == 0, f"frontier {' '.join(words)}: {ended.stdout}{ended.stderr}"
        return ended.stdout

    def worker(self, name: str, url: str) -> None:
        """One more worker, which finds the API at ``url``."""
        self.processes.append(self._worker(name, url))
        self.start(self.processes[-1])

    def _worker(self, name: str, url: str) -> Process:
        own = {**self._environment, "FRONTIER_URL": url, "FRONTIER_CACHE": str(self.folder / f"cache-{name}")}
        return Process("worker", name, ("--name", name, "--kinds", "replay,fit"), own)

    def start(self, process: Process) -> None:
        """Starts a process, for the first time or again."""
        words, log = (process.kind, *process.words), self.folder / f"{process.name}.log"
        process.pid = self._forks.start(words, process.environment, self.folder, log)

    def kill(self, process: Process) -> None:
        """SIGKILL."""
        self._end(process, signal.SIGKILL)

    def _end(self, process: Process, by: signal.Signals) -> None:
        """Ends a process by a signal; notes under `crashed` that it was over before, or ended as it should not."""
        code = self._forks.code(process.pid)
        if code is None:
            os.kill(process.pid, by)
            ended = f"the end of {process.name} after {by.name}"
            code = until(ended, lambda: _said(self._forks.code(process.pid)), 30)[0]
            # uvicorn raises the signal again when it has ended in order.
            if code == -by or (code == 0 and by is signal.SIGTERM):
                return
        text = (self.folder / f"{process.name}.log").read_text()
        self.crashed.append(f"{process.name} ended with code {code}: {text[-2000:]}")

    def length(self, kind: str, name: str = "") -> int:
        """Bytes that processes of a kind have logged, or one of them."""
        logs = [self.folder / f"{each.name}.log" for each in self.processes if each.kind == kind and name in each.name]
        return sum(log.stat().st_size for log in logs if log.exists())

    def logged(self, kind: str) -> Iterator[dict[str, Any]]:
        """What processes of a kind have logged, line by line. What is no JSON is left out: kills cut lines short."""
        for each in self.processes:
            if each.kind == kind:
                for line in (self.folder / f"{each.name}.log").read_text().splitlines():
                    with suppress(ValueError):
                        yield json.loads(line)


@final
class Chaos:
    """Strikes every process, and the connections of all to the database, once in each round, in an order and with
    pauses that ``seed`` decides. What it killed is started again at once.

    However slow the machine is, kills are to hit work: a process is struck when it has come up since the last time, as
    its log tells. Controllers say nothing before they have asked, and one of them has the search: for them that is
    progress of the search since one of them was struck.

    ``strikes`` counts by kind of process, and under `CONNECTIONS` the cuts.
    """

    def __init__(self, fleet: Fleet, *, seed: int, every_s: float) -> None:
        self._fleet, self._every_s = fleet, every_s
        self._rng = random.Random(seed)
        self._stop = threading.Event()
        self._lengths: dict[str, int] = {}
        self._thread = threading.Thread(target=self._run, name="chaos", daemon=True)
        self.strikes: Counter[str] = Counter()
        self._error: BaseException | None = None

    def __enter__(self) -> Chaos:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            while True:
                for victim in self._round():
                    if self._stop.wait(self._every_s * self._rng.uniform(0.5, 1.5)):
                        return
                    self._strike(victim)
        except BaseException as error:
            self._error = error

    def _round(self) -> list[Process | None]:
        victims: list[Process | None] = [*self._fleet.processes, None]
        self._rng.shuffle(victims)
        return victims

    def _strike(self, victim: Process | None) -> None:
        if victim is None:
            cut(self._fleet.database_url, self._rng)
            self.strikes[CONNECTIONS] += 1
            return
        name = "" if victim.kind == "controller" else victim.name
        said = self._lengths.get(victim.name if name else victim.kind, 0)
        deadline = time.monotonic() + _AWAKE_S
        while self._fleet.length(victim.kind, name) == said and time.monotonic() < deadline:
            if self._stop.wait(_LOOK_S):
                return
        self._fleet.kill(victim)
        self.strikes[victim.kind] += 1
        self._lengths[victim.name if name else victim.kind] = self._fleet.length(victim.kind, name)
        self._fleet.start(victim)


def cut(database_url: str, rng: random.Random) -> None:
    """Ends all connections to a database, or some; a database file, which has none, is locked for a moment."""
    url = make_url(database_url)
    if url.get_backend_name() == "sqlite":
        assert url.database is not None
        with closing(sqlite3.connect(url.database, isolation_level=None, timeout=30)) as connection:
            connection.execute("BEGIN EXCLUSIVE")
            time.sleep(rng.uniform(*_LOCK_S))
            connection.execute("ROLLBACK")
        return
    share = rng.choice((0.5, 1.0))
    with psycopg.connect(database_url.replace("+psycopg", ""), autocommit=True) as connection:
        others = connection.execute(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        ).fetchall()
        for (pid,) in rng.sample(others, round(share * len(others))):
            connection.execute("SELECT pg_terminate_backend(%s)", (pid,))


def _said(code: int | None) -> tuple[int] | None:
    """So that 0 is an answer to `until`."""
    return None if code is None else (code,)


def _ready(url: str) -> bool:
    try:
        with Client(url, tries=1) as client:
            client.ready()
    except FrontierClientError:
        return False
    return True


def _free_ports(count: int) -> list[int]:
    """Ports that stay free while the process that serves them is down: below those that outgoing connections get."""
    found: list[int] = []
    while len(found) < count:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with suppress(OSError):
                probe.bind(("127.0.0.1", port))
                found += [port] if port not in found else []
    return found
