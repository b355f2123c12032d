"""Payloads, options and recipes: JSON in, checked values out, errors that name the field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from service.core.errors import Invalid
from service.wire.base import Wire

Options = TypeVar("Options", bound=Wire)


def parse(kind: type[Options], given: Mapping[str, Any], where: str) -> Options:
    """JSON as ``kind``; defaults are filled in. Raises `Invalid` with the field, ``where`` before it."""
    try:
        return kind.model_validate(dict(given))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join([where, *map(str, first["loc"])])
        message = first["msg"]
        if first["type"] == "extra_forbidden":
            message = f"there is no such field, there are {', '.join(sorted(kind.model_fields))}"
        elif first["type"] != "missing":
            message = f"{message}, got {first['input']!r:.200}"
        raise Invalid(field, message) from error
