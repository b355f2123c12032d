"""Runs the parts of a server as child processes on one machine, restarts what crashes, ends them in order."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import final

TICK_S = 0.1
DRAIN_S = 20.0
"""Seconds that a child has to end after SIGTERM; workers hand back their jobs in that time."""
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
STEADY_S = 60.0
"""A child that ran so long is taken as well: its next crash is a first one again."""
LARGEST_LOG = 20 * 2**20


@dataclass(frozen=True, slots=True)
class Part:
    """One child: its name, the arguments of ``frontier``, file descriptors it inherits, and secrets for it alone.

    ``secrets`` are environment variables: arguments can be read by everybody on the machine.
    """

    name: str
    arguments: tuple[str, ...]
    descriptors: tuple[int, ...] = ()
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(slots=True)
class _Running:
    part: Part
    process: subprocess.Popen[bytes] | None = None
    began: float = 0.0
    failures: int = 0
    due: float = field(default=0.0)


@final
class Supervisor:
    """Children write to ``logs``/NAME.log. ``say`` gets a line for people when something happens.

    Children are told this process's id in FRONTIER_PARENT and end with it; they get sessions of their own, so that
    Ctrl-C reaches this process alone and the order of ending is kept: last started, first ended.
    """

    def __init__(self, logs: Path, environment: Mapping[str, str], say: Callable[[str], None]) -> None:
        self._logs = logs
        self._environment = {**os.environ, **environment, "FRONTIER_PARENT": str(os.getpid())}
        self._say = say
        self._running: list[_Running] = []
        self._signals = 0
        logs.mkdir(parents=True, exist_ok=True)

    @property
    def stopping(self) -> bool:
        """Whether a signal asked for the end."""
        return self._signals > 0

    def listen(self) -> None:
        """From now on SIGINT, SIGTERM and SIGHUP ask for the end; a second one for an end at once."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._signalled)

    def _signalled(self, _number: int, _frame: FrameType | None) -> None:
        self._signals += 1

    def start(self, part: Part) -> None:
        """Starts a child and keeps it running."""
        child = _Running(part)
        self._running.append(child)
        self._spawn(child)

    def tick(self) -> None:
        """One look at the children: what crashed is started again when its pause is over."""
        now = time.monotonic()
        for child in self._running:
            if child.process is not None and child.process.poll() is not None:
                self._ended(child, child.process.returncode, now)
            elif child.process is None and now >= child.due:
                self._spawn(child)
        time.sleep(TICK_S)

    def run(self) -> None:
        """Keeps everything running until a signal asks for the end."""
        while not self.stopping:
            self.tick()

    def stop(self) -> None:
        """Ends all children, the last started first, each with time to finish unless a second signal comes."""
        for group in self._groups():
            for child in group:
                _signal(child, signal.SIGTERM)
            deadline = time.monotonic() + DRAIN_S
            while any(_alive(child) for child in group) and time.monotonic() < deadline and self._signals < 2:
                time.sleep(TICK_S / 2)
            for child in group:
                if _alive(child):
                    self._say(f"{child.part.name} does not end, killing it")
                    _signal(child, signal.SIGKILL)
        for child in self._running:
            if child.process is not None:
                child.process.wait()
        self._running.clear()

    def _groups(self) -> list[list[_Running]]:
        """Children whose names begin alike (worker-...) end together, the others one after the other."""
        groups: dict[str, list[_Running]] = {}
        for child in reversed(self._running):
            groups.setdefault(child.part.name.partition("-")[0], []).append(child)
        return list(groups.values())

    def _spawn(self, child: _Running) -> None:
        log = self._logs / f"{child.part.name}.log"
        if log.exists() and log.stat().st_size > LARGEST_LOG:
            log.replace(log.with_suffix(".log.1"))
        with log.open("ab") as output:
            child.process = subprocess.Popen(  # noqa: S603 - our interpreter, our arguments
                [sys.executable, "-m", "service.cli", *child.part.arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**self._environment, **child.part.secrets},
                pass_fds=child.part.descriptors,
                start_new_session=True,
            )
        child.began = time.monotonic()

    def _ended(self, child: _Running, code: int, now: float) -> None:
        child.failures = 1 if now - child.began > STEADY_S else child.failures + 1
        pause = min(FIRST_PAUSE_S * 2.0 ** (child.failures - 1), LONGEST_PAUSE_S)
        child.process, child.due = None, now + pause
        how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
        self._say(f"{child.part.name} {how}, starting it again in {pause:g} s; its log ends:")
        for line in self.last_lines(child.part.name):
            self._say(f"    {line}")

    def last_lines(self, name: str, count: int = 3) -> Sequence[str]:
        """The end of a child's log."""
        try:
            with (self._logs / f"{name}.log").open("rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - 4096))
                text = log.read().decode(errors="replace")
        except OSError:
            return []
        return [line[:300] for line in text.splitlines()[-count:]]


def _alive(child: _Running) -> bool:
    return child.process is not None and child.process.poll() is None


def _signal(child: _Running, number: int) -> None:
    if child.process is not None and child.process.poll() is None:
        child.process.send_signal(number)
