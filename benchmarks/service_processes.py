"""What the service's benchmark measures: real processes over a real database, and the memory that they take."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import final

import httpx
import psutil

DIALECTS = ("sqlite", "postgresql")
_START_S = 60.0
_SAMPLE_S = 0.05


@contextmanager
def databases(dialect: str, folder: Path) -> Iterator[tuple[str, str]]:
    """URLs of two empty databases of one kind: the service's, and the peer's."""
    if dialect == "sqlite":
        yield f"sqlite:///{folder / 'frontier.db'}", f"sqlite:///{folder / 'optuna.db'}"
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pgserver
    # The socket's path must be short. The server's settings are those it comes with: every commit reaches the disk.
    with tempfile.TemporaryDirectory(prefix="fr-", dir="/tmp") as place:
        server = pgserver.get_server(Path(place) / "data", cleanup_mode="stop")
        try:
            for name in ("frontier", "optuna"):
                server.psql(f"CREATE DATABASE {name}")
            url = f"postgresql+psycopg://postgres@/{{}}?host={Path(place) / 'data'}"
            yield url.format("frontier"), url.format("optuna")
        finally:
            server.cleanup()


@final
class Service:
    """``frontier api`` and ``frontier controller`` as processes. ``peak_mb`` is the most memory (RSS) of each."""

    def __init__(self, home: Path, database_url: str) -> None:
        self._home = home
        self._database_url = database_url
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._stop = threading.Event()
        self._sampler = threading.Thread(target=self._sample, daemon=True)
        self.peak_mb: dict[str, float] = {}
        self.url = ""

    def __enter__(self) -> Service:
        self._home.mkdir(parents=True, exist_ok=True)
        self._run("db", "upgrade").wait()
        self._processes["controller"] = self._run("controller")
        self._serve()
        self._sampler.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for process in self._processes.values():
            _end(process)

    def restart_api(self) -> None:
        """A fresh API process: nothing of the database is in its memory."""
        _end(self._processes["api"])
        self._serve()

    def cpu_seconds(self, name: str) -> float:
        """Processor time that ``api`` or ``controller`` has used so far, in user and system mode."""
        times = psutil.Process(self._processes[name].pid).cpu_times()
        return float(times.user + times.system)

    def _serve(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        process = self._processes["api"] = self._run("api", "--port", str(port))
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline and process.poll() is None:
            try:
                if httpx.get(f"{self.url}/healthz", trust_env=False).is_success:
                    return
            except httpx.TransportError:
                time.sleep(0.05)
        raise SystemExit(f"the API does not start: {(self._home / 'log').read_text(errors='replace')[-2000:]}")

    def _run(self, *arguments: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "service.cli", *arguments, "--home", str(self._home)]
        environment = {**os.environ, "FRONTIER_DATABASE_URL": self._database_url}
        with (self._home / "log").open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, env=environment)

    def _sample(self) -> None:
        while not self._stop.wait(_SAMPLE_S):
            for name, process in list(self._processes.items()):
                try:
                    used = psutil.Process(process.pid).memory_info().rss / 2**20
                except psutil.Error:
                    continue
                self.peak_mb[name] = max(used, self.peak_mb.get(name, 0.0))


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
