"""A server with its controller, in threads of the test, and a study of small declared networks."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from service.client import Client
from service.controller import Controller
from service.settings import Settings
from service.wire.spaces import SpaceIn, Task
from service.wire.studies import EvaluatorSpec, ObjectiveIn, StudyIn
from tests.serving import Served, served, settings_in

CHOICES = [
    {"name": "depth", "options": [1, 2, 3]},
    {"name": "width1", "options": [4, 8, 16, 32]},
    {"name": "width2", "options": [4, 8, 16, 32], "when": {"depth": [2, 3]}},
]


class Home:
    """Can be stopped, and started again on its port."""

    def __init__(self, folder: Path) -> None:
        self.settings: Settings = settings_in(folder)
        self.up()
        self.settings = self.settings.model_copy(update={"port": int(self.server.url.rpartition(":")[2])})

    def up(self) -> None:
        self._context = served(self.settings)
        self.server: Served = self._context.__enter__()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._control, daemon=True)
        self._thread.start()

    def down(self) -> None:
        self._stop.set()
        self._thread.join(timeout=30)
        self._context.__exit__(None, None, None)

    def _control(self) -> None:
        app = self.server.app.state.services
        Controller(app.database, app.artifacts, "test", lease_s=30, poll_s=0.02).run(self._stop)


def create_study(client: Client, name: str, *metrics: str, evaluator: str = "external") -> None:
    """A study of the space `nets`, which is made if it is not there; its metrics lie between 0 and 1."""
    client.spaces.create(SpaceIn(name="nets", plugin="declared", options={"choices": CHOICES}))
    objectives = [ObjectiveIn(metric=each, direction="minimise", bounds=(0, 1)) for each in metrics or ("error",)]
    client.studies.create(
        StudyIn(
            name=name,
            space="nets",
            task=Task(dataset="mine"),
            objectives=objectives,
            evaluator=EvaluatorSpec(name=evaluator, options={"epochs": 2}),
        )
    )


def error_of(config: dict[str, Any]) -> float:
    """Different for every configuration."""
    return round(1 / (1 + config["depth"] * config["width1"] + config.get("width2", 0) / 64), 6)
