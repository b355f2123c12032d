"""``frontier`` as processes forked from one that has loaded all of it.

Where processes are killed every few seconds, on a slow machine, they would otherwise spend their short lives on
importing. A fork is a process like any other: it has its own memory, files and id, and SIGKILL ends it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, final

from tests.documents import ROOT


@final
class Forks:
    """Starts processes. They end with it, and it ends with the process that made it."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", __name__]
        self._parent = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, start_new_session=True
        )

    def start(self, words: Sequence[str], environment: Mapping[str, str], folder: Path, log: Path) -> int:
        """Runs ``frontier`` with these arguments in ``folder``, its output appended to ``log``; the process's id."""
        order = {"words": list(words), "environment": dict(environment), "folder": str(folder), "log": str(log)}
        return int(self._ask({"start": order}))

    def code(self, pid: int) -> int | None:
        """The exit code of a process, minus the signal that ended it; None while it runs. To be asked until it ended:
        until then its id belongs to nobody else."""
        code = self._ask({"poll": pid})
        return None if code is None else int(code)

    def close(self) -> None:
        """Kills what is left."""
        assert self._parent.stdin is not None
        self._parent.stdin.close()
        self._parent.wait()

    def _ask(self, order: Mapping[str, Any]) -> Any:
        assert self._parent.stdin is not None
        assert self._parent.stdout is not None
        self._parent.stdin.write(json.dumps(order).encode() + b"\n")
        self._parent.stdin.flush()
        return json.loads(self._parent.stdout.readline())


def _serve() -> None:
    import moocore  # noqa: F401
    import sklearn.isotonic  # noqa: F401
    import xgboost  # noqa: F401

    import service.app
    import service.controller
    import service.worker  # noqa: F401

    running: set[int] = set()
    for line in sys.stdin.buffer:
        order = json.loads(line)
        if "start" in order:
            pid = os.fork()
            if pid == 0:
                _become(**order["start"])
            running.add(pid)
            answer: int | None = pid
        else:
            pid, answer = order["poll"], None
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                running.discard(pid)
                answer = os.waitstatus_to_exitcode(status)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
    for pid in running:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _become(words: Sequence[str], environment: Mapping[str, str], folder: str, log: str) -> None:
    """The new process: what a shell would have started."""
    code = 1
    try:
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(folder)
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for stream, file in ((0, os.open(os.devnull, os.O_RDONLY)), (1, out), (2, out)):
            os.dup2(file, stream)
            os.set_inheritable(stream, True)
        sys.argv = ["frontier", *words]

        from service.cli import main

        main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    _serve()
