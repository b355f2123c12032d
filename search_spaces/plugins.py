"""Plug-ins are entry points: the tables in ``pyproject.toml``, and those of any installed distribution."""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal, TypeAlias

Group: TypeAlias = Literal["spaces", "predictors", "proxies", "designers", "evaluators", "datasets", "samplers"]


class UnknownPlugin(ValueError):
    """No plug-in of this name in the group; the message lists those that are there."""

    def __init__(self, group: Group, name: str) -> None:
        self.group, self.name, self.known = group, name, names(group)
        super().__init__(f"no {group[:-1]} named {name!r}, there are: {', '.join(self.known) or 'none'}")


def names(group: Group) -> list[str]:
    """The names of all plug-ins of a group, sorted; none is imported."""
    return sorted(_table(group))


def load(group: Group, name: str) -> Any:
    """Imports and returns one plug-in. Raises `UnknownPlugin`."""
    entry = _table(group).get(name)
    if entry is None:
        raise UnknownPlugin(group, name)
    return entry.load()


@cache
def _table(group: Group) -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=f"frontier.{group}")}
