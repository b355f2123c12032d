"""The server that the demo runs on: the one at home if it runs, else its own."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from service.cli.common import CommandError, running_url, server_file
from service.client import Client, FrontierClientError
from service.settings import Settings

START_S = 90.0
_LOOK_S = 0.1
_STOP_S = 30.0


@dataclass(frozen=True, slots=True)
class RunningServer:
    """``process`` is None for a server that was there before."""

    url: str
    process: subprocess.Popen[bytes] | None

    def wait(self) -> None:
        """Until the server ends; returns at once if it is not ours."""
        if self.process is not None:
            with suppress(KeyboardInterrupt):
                self.process.wait()


@contextmanager
def running_server(home: Path, dataset: str) -> Iterator[RunningServer]:
    """A server at home that has the data set; started for the time of the block unless one runs there already."""
    settings = Settings(home=home)
    url = running_url(server_file(settings))
    if url is not None and _answers(url):
        yield RunningServer(url, None)
        return
    port = settings.port if _is_free(settings.host, settings.port) else 0
    command = [sys.executable, "-m", "service.cli", "serve", "--home", str(home), "--port", str(port)]
    home.mkdir(parents=True, exist_ok=True)
    with (home / "serve.log").open("ab") as log:
        process = subprocess.Popen([*command, "--datasets", dataset], stdout=log, stderr=log)  # noqa: S603 - our own
    # SIGTERM ends this process as Ctrl-C does: by way of the block below, so that the server ends too.
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield RunningServer(_address(settings, process, home), process)
    finally:
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + signal.SIGTERM)


def _address(settings: Settings, process: subprocess.Popen[bytes], home: Path) -> str:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        url = running_url(server_file(settings))
        if url is not None and _answers(url):
            return url
        time.sleep(_LOOK_S)
    lines = (home / "serve.log").read_text(errors="replace").strip().splitlines()
    raise CommandError(f"the server does not start; {home / 'serve.log'} ends: {lines[-1] if lines else '(empty)'}")


def _answers(url: str) -> bool:
    try:
        with Client(url) as client:
            client.health()
    except FrontierClientError:
        return False
    return True


def _is_free(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return port != 0 and probe.connect_ex((host, port)) != 0
