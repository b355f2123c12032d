"""What all wire types share: strict bodies, finite numbers, names, pages, problems."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Generic, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, StringConstraints

Item = TypeVar("Item")

Name: TypeAlias = Annotated[
    str,
    StringConstraints(pattern=r"^[a-z0-9][a-z0-9_.\-]{0,62}$"),
    Field(description="Unique name: lower-case letters, digits, '_', '.', '-'; at most 63 characters."),
]
Digest: TypeAlias = Annotated[
    str, StringConstraints(pattern=r"^[0-9a-f]{64}$"), Field(description="SHA-256 of a file, 64 hex digits.")
]
DeviceName: TypeAlias = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.:\-]{1,80}$")]
MetricName: TypeAlias = Annotated[
    str,
    StringConstraints(pattern=r"^[a-zA-Z][a-zA-Z0-9_]{0,62}(@[A-Za-z0-9_.:\-]{1,80})?$"),
    Field(description="A metric: `name` or `name@device`."),
]
Metrics: TypeAlias = dict[MetricName, FiniteFloat]
Json: TypeAlias = dict[str, Any]
Time: TypeAlias = Annotated[datetime, Field(description="UTC.")]


class Wire(BaseModel):
    """Bodies are refused when they hold fields that nobody reads."""

    model_config = ConfigDict(extra="forbid", from_attributes=True, frozen=True)


class Page(Wire, Generic[Item]):
    """One page of a list. Pass `next_page_token` as `page_token` for the next; absent at the end."""

    items: list[Item]
    next_page_token: str | None = Field(default=None, description="Opaque; null on the last page.")


class FieldProblem(Wire):
    """One thing that is wrong with a request."""

    field: str = Field(description="Dotted path into the request, for example `objectives.0.metric`.")
    message: str = Field(description="What is wrong and what would be right.")


class Problem(Wire):
    """An error, as application/problem+json (RFC 9457)."""

    type: str = Field(default="about:blank", description="Kind of error.")
    title: str = Field(description="The HTTP status in words.")
    status: int = Field(description="The HTTP status code.")
    detail: str = Field(description="What went wrong, in one sentence.")
    errors: list[FieldProblem] = Field(default_factory=list, description="The fields at fault, if any.")
