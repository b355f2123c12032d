"""``frontier serve``: a whole server on one machine."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import httpx
import typer

from service.cli.common import CommandError, Home, server_file, settings_with
from service.cli.db import opened
from service.cli.keys import guarded, local_key
from service.cli.processes import DatabaseUrl, Host, Port
from service.core.errors import Invalid
from service.listening import bind
from service.settings import Settings
from service.supervisor import TICK_S, Part, Supervisor

START_S = 60.0
"""Seconds that the API has for its first answer."""
_BIND_S = 5.0
_NEAR = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - where this machine finds a server bound to all addresses


def serve(
    home: Home = None,
    host: Host = None,
    port: Port = None,
    database_url: DatabaseUrl = None,
    datasets: Annotated[
        str | None, typer.Option(help="Data sets of the workers, comma-separated: digits, name=npz:FILE ...")
    ] = None,
    cpu_workers: Annotated[int, typer.Option(min=0, help="Workers without a GPU.")] = 1,
    gpu_workers: Annotated[bool, typer.Option(help="One worker for each GPU that torch finds.")] = True,
) -> None:
    """Run a whole server on this machine: API, controller and workers, over SQLite unless told otherwise."""
    given = {"home": home, "host": host, "port": port, "database_url": database_url, "datasets": datasets}
    settings = settings_with(**given)
    settings = settings_with(**{**given, "home": settings.home.absolute()})
    settings.home.mkdir(parents=True, exist_ok=True)
    with _alone(settings.home), _bound(settings) as listener:
        with opened(home=settings.home, database_url=settings.database) as database:
            database.upgrade()
        with local_key(settings) as key:
            _supervise(settings, listener, cpu_workers, gpu_workers, key)


def _supervise(settings: Settings, listener: socket.socket, cpu_workers: int, gpu_workers: bool, key: str) -> None:
    url = _address(listener)
    environment = {
        "FRONTIER_HOME": str(settings.home),
        "FRONTIER_HOST": settings.host,
        "FRONTIER_PORT": str(listener.getsockname()[1]),
        "FRONTIER_URL": url,
        "FRONTIER_DATABASE_URL": settings.database,
        "FRONTIER_DATASETS": settings.datasets,
    }
    supervisor = Supervisor(settings.home / "logs", environment, _say)
    supervisor.listen()
    file = server_file(settings)
    file.unlink(missing_ok=True)  # left by a server that was killed
    try:
        # The socket stays open here: while the API restarts, connections wait instead of being refused.
        supervisor.start(Part("api", ("api", "--fd", str(listener.fileno())), (listener.fileno(),)))
        if not _answers(supervisor, url):
            return
        _write_atomically(file, {"url": url, "pid": os.getpid(), "started_at": datetime.now(UTC).isoformat()})
        supervisor.start(Part("controller", ("controller",)))
        for number in range(cpu_workers):
            supervisor.start(_worker("cpu", f"cpu{number}", key))
        for number in range(_gpus() if gpu_workers else 0):
            supervisor.start(_worker(f"cuda:{number}", f"cuda{number}", key))
        typer.echo(f"Frontier is running at {url}")
        typer.echo(f"Logs are in {settings.home / 'logs'}; Ctrl-C ends it.")
        supervisor.run()
    finally:
        file.unlink(missing_ok=True)
        supervisor.stop()


def _worker(device: str, name: str, key: str) -> Part:
    command = ("worker", "--device", device, "--name", f"local-{name}")
    return Part(f"worker-{name}", command, secrets={"FRONTIER_KEY": key})


def _answers(supervisor: Supervisor, url: str) -> bool:
    """Waits for the API's first answer. False if a signal came before it."""
    deadline = time.monotonic() + START_S
    with httpx.Client(trust_env=False) as client:
        while not supervisor.stopping:
            supervisor.tick()
            try:
                if client.get(f"{url}/healthz", timeout=1).is_success:
                    return True
            except httpx.TransportError:
                time.sleep(TICK_S)
            if time.monotonic() > deadline:
                said = " ".join(supervisor.last_lines("api", 1))
                raise CommandError(f"the API does not answer after {START_S:g} s; its log ends: {said}")
    return False


def _gpus() -> int:
    """How many GPUs torch can use. Asked in a process of its own: torch would stay in this one's memory."""
    if sys.platform == "linux" and not any(Path("/dev").glob(pattern) for pattern in ("nvidia[0-9]*", "dxg", "kfd")):
        return 0  # spares machines without a GPU the seconds that importing torch takes
    command = [sys.executable, "-c", "import torch; print(torch.cuda.device_count())"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our interpreter
    return int(answer.stdout) if answer.returncode == 0 and answer.stdout.strip().isdigit() else 0


@contextmanager
def _alone(home: Path) -> Iterator[None]:
    """One server per home: the kernel gives the lock back however this process ends."""
    with (home / "serve.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise CommandError(f"a server is running in {home} already") from error
        yield


@contextmanager
def _bound(settings: Settings) -> Iterator[socket.socket]:
    """A listening socket. The port may be held for a moment yet by a server that was killed."""
    deadline = time.monotonic() + _BIND_S
    while True:
        try:
            listener = bind(settings, lambda: guarded(settings))
            break
        except Invalid as error:
            if error.field != "port" or time.monotonic() > deadline:
                raise
            time.sleep(TICK_S)
    with listener:
        listener.listen(1024)
        yield listener


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    host = _NEAR.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _write_atomically(path: Path, content: dict[str, object]) -> None:
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
        json.dump(content, file)
    os.replace(file.name, path)


def _say(line: str) -> None:
    typer.echo(line, err=True)
