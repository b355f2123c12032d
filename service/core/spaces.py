"""From a space's definition to the space: one place, cached, with errors that name the field."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from search_spaces.plugins import UnknownPlugin, load
from search_spaces.space import InvalidSpace, SearchSpace
from service.core.errors import Invalid


def build_space(plugin: str, options: Mapping[str, Any], identity: str) -> SearchSpace:
    """The space of a plug-in with these options. Raises `Invalid` with the field (`plugin`, `options.NAME`)."""
    return _build(plugin, json.dumps(options, sort_keys=True), identity)


@lru_cache(maxsize=64)
def _build(plugin: str, options: str, identity: str) -> SearchSpace:
    try:
        cls = load("spaces", plugin)
    except UnknownPlugin as error:
        raise Invalid("plugin", str(error), allowed=error.known) from error
    try:
        space: SearchSpace = cls(**json.loads(options), identity=identity)
    except InvalidSpace as error:
        raise Invalid(f"options.{error.field}" if error.field else "options", error.message) from error
    except TypeError as error:
        raise Invalid("options", f"{plugin} does not take these options: {error}") from error
    return space
