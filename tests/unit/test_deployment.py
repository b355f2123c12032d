"""The compose file and the Dockerfile say what the program understands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from service.cli.root import app
from service.settings import Settings

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
OURS = sorted(name for name in SERVICES if name != "db")
# Read by the command line itself, besides the settings.
CLIENT_VARIABLES = {"FRONTIER_URL", "FRONTIER_HOME", "FRONTIER_DATABASE_URL"}


def parse(arguments: list[str]) -> None:
    """Raises for a command or an option that the program does not have. Runs nothing."""
    command: Any = typer.main.get_command(app)
    context = command.make_context("frontier", list(arguments))
    while hasattr(command, "resolve_command"):
        _, command, arguments = command.resolve_command(context, list(arguments))
        context = command.make_context(command.name, list(arguments), parent=context)


@pytest.mark.parametrize("name", OURS)
def test_every_command_is_one_of_the_program(name: str) -> None:
    parse(SERVICES[name]["command"])


def test_an_unknown_command_would_be_seen() -> None:
    for arguments in (["api", "--no-such-option"], ["no-such-command"]):
        with pytest.raises(Exception, match="No such"):
            parse(arguments)


@pytest.mark.parametrize("name", OURS)
def test_every_variable_is_a_setting(name: str) -> None:
    settings = {f"FRONTIER_{field.upper()}" for field in Settings.model_fields}
    assert set(SERVICES[name]["environment"]) <= settings | CLIENT_VARIABLES


def test_secrets_have_no_default_and_are_written_nowhere() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    for use in re.findall(r"\$\{(FRONTIER_DB_PASSWORD[^}]*)\}", text):
        assert use.startswith("FRONTIER_DB_PASSWORD:?"), use
    assert SERVICES["db"]["environment"]["POSTGRES_PASSWORD"].startswith("${FRONTIER_DB_PASSWORD:?")
    for name in ("worker", "worker-cpu"):
        assert SERVICES[name]["environment"]["FRONTIER_KEY"] == "${FRONTIER_KEY:-}"


def test_dependencies_volumes_and_targets_exist() -> None:
    targets = set(re.findall(r"^FROM \S+ AS (\w+)$", (ROOT / "Dockerfile").read_text(), re.M))
    for name, described in SERVICES.items():
        for needed, how in described.get("depends_on", {}).items():
            assert needed in SERVICES, (name, needed)
            if how["condition"] == "service_healthy":
                assert "healthcheck" in SERVICES[needed], (name, needed)
        for volume in described.get("volumes", []):
            assert volume.partition(":")[0] in COMPOSE["volumes"], (name, volume)
        if name != "db":
            assert described["build"]["target"] in targets, name


def test_the_worker_reserves_a_gpu_and_the_port_is_this_machines() -> None:
    (device,) = SERVICES["worker"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]
    assert SERVICES["worker"]["command"][1:] == ["--device", "cuda"]
    assert SERVICES["api"]["ports"] == ["127.0.0.1:8470:8470"]


def test_what_the_image_copies_is_there() -> None:
    ignored = (ROOT / ".dockerignore").read_text().split()
    for needed in ("pyproject.toml", "constraints.txt", "README.md", "migrations", "service"):
        assert (ROOT / needed).exists()
        assert needed not in ignored
