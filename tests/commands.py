"""Commands as a shell runs them, in this process."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from service.cli.common import out
from service.cli.root import main


class Ran(NamedTuple):
    """What a command left: its exit code and what it printed."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Ran]


def runner(monkeypatch: pytest.MonkeyPatch, capture: pytest.CaptureFixture[bytes]) -> Run:
    """Runs `frontier` with the arguments that it is called with; ``capture`` is pytest's capsysbinary."""
    # The console looked at COLUMNS when it was made, and pytest's worker processes set it.
    monkeypatch.setattr(out, "width", 200)

    def ran(*arguments: str) -> Ran:
        monkeypatch.setattr("sys.argv", ["frontier", *arguments])
        code: object = 0
        try:
            main()
        except SystemExit as ended:
            code = ended.code or 0
        said = capture.readouterr()
        assert isinstance(code, int)
        return Ran(code, said.out.decode(), said.err.decode())

    return ran
