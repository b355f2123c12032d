"""What the page of a study's population is given."""

from __future__ import annotations

import json
from typing import Annotated, Any, TypeAlias

from fastapi import Query

from service.core.errors import Invalid
from service.core.metrics import Scope
from service.core.metrics import metric as known_metric
from service.dashboard import views
from service.dashboard.formats import axis
from service.db import population, spaces, studies
from service.db.session import Database
from service.wire.base import Json
from service.wire.population import PopulationOut, Rows

CHOICES = 30
"""Choices in the table, those that shift it the most."""

GivenRows: TypeAlias = Annotated[Rows, Query()]
GivenRules: TypeAlias = Annotated[str | None, Query(max_length=4_000)]


def page_values(db: Database, name: str, metric: str | None, rows: Rows, rules: str | None) -> dict[str, Any]:
    """A population, or why there is none. Raises `NotFound`, and `Invalid` for a metric that is not the study's."""
    with db.read() as session:
        study = studies.get(session, name)
        space = spaces.load(spaces.row(session, studies.row(session, name).space_id))
    choice = next((each for each in space.choices if len(each.options) > 1), space.choices[0])
    values: dict[str, Any] = {
        "study": study,
        "metrics": views.plot_metrics(study),
        "metric": _metric(views.plot_metrics(study), metric),
        "rows": rows,
        "rules": rules,
        "example": json.dumps({choice.name: choice.options[:1]}, ensure_ascii=False),
        "most": CHOICES,
        "refused": None,
    }
    try:
        found = described(db, name, metric, rows, rules)
    except Invalid as error:
        return values | {"refused": f"{error.field}: {error.message}"}
    parts = [("All", found.whole)]
    if found.restricted is not None:
        parts.append(("Left by the rules", found.restricted))
    return values | {"found": found, "parts": parts}


def plot_values(db: Database, name: str, metric: str | None, rows: Rows, rules: str | None) -> Json:
    """What the plot shows. Raises `NotFound` and `Invalid`."""
    found = described(db, name, metric, rows, rules)
    return {
        "axis": axis(found.metric),
        "whole": {"curve": found.whole.curve.model_dump()},
        "restricted": {"curve": found.restricted.curve.model_dump()} if found.restricted is not None else None,
    }


def described(db: Database, name: str, metric: str | None, rows: Rows, rules: str | None) -> PopulationOut:
    """The population of one metric, by default of the first that is measured and not merely counted."""
    kept = population.rules_of(rules)
    with db.read() as session:
        study = studies.get(session, name)
        found = population.sample(session, name, _metric(views.plot_metrics(study), metric), rows)
    return population.describe(found, kept)


def _metric(allowed: list[str], given: str | None) -> str:
    if given is not None and given not in allowed:
        raise Invalid("metric", f"{given!r} is not measured in this study, there are: {', '.join(allowed)}")
    measured = [name for name in allowed if known_metric(name).scope is not Scope.ANALYTIC]
    return given or (measured or allowed)[0]
