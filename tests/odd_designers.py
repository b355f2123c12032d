"""Designers that misbehave, as a distribution of their own that is put on the path of a test and its processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from search_spaces import plugins

_MODULE = '''
import multiprocessing, os, signal, sys, time
from pathlib import Path
from typing import Any

import numpy as np

from service.search.designer import Designer, Suggestions
from service.search.random import Random

WATCHING = []


class Odd(Designer):
    """Like the random one, but for what its option ``does`` says. Leaves a file named after each ask."""

    def __init__(self, space, objectives, constraints, predictors, does="fine", notes="", **options: Any) -> None:
        super().__init__(space, objectives, constraints, predictors)
        self.does, self.notes = does, Path(notes)
        self.random = Random(space, objectives, constraints, predictors)

    def wants(self, history):
        self.watch()
        return ()

    def suggest(self, history, count, rng):
        self.watch()
        parent = multiprocessing.parent_process()
        with (self.notes / self.does).open("a") as notes:
            notes.write(f"{len(history)} {parent.pid if parent else 0} {os.getpid()}\\n")
        match self.does:
            case "raises":
                raise ValueError("an odd mistake")
            case "leaves":
                sys.exit(3)
            case "exits":
                os._exit(7)
            case "crashes":
                os.kill(os.getpid(), signal.SIGSEGV)
            case "computes":
                while True:
                    pass
            case "sleeps":
                time.sleep(3600)
            case "slow":
                time.sleep(0.3)
            case "waits":
                while not (self.notes / "go").exists():
                    time.sleep(0.01)
        return self.random.suggest(history, count, rng)

    def watch(self):
        for look in WATCHING:
            look()
'''


def install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Makes the designer `odd` known to this process and to those that it starts; returns the folder of its notes."""
    about = folder / "odd_designers-1.0.dist-info"
    about.mkdir(parents=True)
    (folder / "odd_designers_plugin.py").write_text(_MODULE)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: odd-designers\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[frontier.designers]\nodd = odd_designers_plugin:Odd\n")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", str(folder), prepend=":")
    plugins._table.cache_clear()
    notes = folder / "notes"
    notes.mkdir()
    return notes
