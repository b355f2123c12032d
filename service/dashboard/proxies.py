"""What the page of a study's zero-cost proxies is given."""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

import numpy as np
from fastapi import Query

from service.core.errors import Invalid
from service.core.metrics import Scope
from service.core.metrics import metric as known_metric
from service.core.objectives import Values
from service.dashboard.formats import axis
from service.db import scored, standing, studies
from service.db.scored import Sample, Score
from service.db.session import Database
from service.wire.base import Json, MetricName
from service.wire.population import Rows
from service.wire.studies import StudyOut

GivenProxy: TypeAlias = Annotated[MetricName | None, Query()]

_WIDE = 1000.0
"""Positive scores that differ by more than this factor are drawn on a logarithmic axis."""


def page_values(db: Database, name: str, metric: str | None, rows: Rows) -> dict[str, Any]:
    """The standings, or why there are none. Raises `NotFound`, and `Invalid` for a metric that is not the study's."""
    with db.read() as session:
        study = studies.get(session, name)
    chosen = _metric(study, metric)
    values: dict[str, Any] = {
        "study": study,
        "metrics": _metrics(study),
        "metric": chosen,
        "rows": rows,
        "most": scored.MOST,
        "refused": None,
    }
    try:
        found = standing.describe(_sample(db, name, chosen, rows))
    except Invalid as error:
        return values | {"refused": error.message}
    return values | {"found": found, "table": standing.by_tau([*found.proxies, *found.counted]), "said": _said}


def plot_values(db: Database, name: str, metric: str | None, rows: Rows, proxy: str | None) -> Json:
    """What the plot shows: one proxy against the metric. Raises `NotFound` and `Invalid`."""
    with db.read() as session:
        study = studies.get(session, name)
    found = _sample(db, name, _metric(study, metric), rows)
    score = _score(found, proxy)
    here = np.isfinite(score.values)
    x = score.values[here]
    return {
        "axis": axis(found.metric),
        "proxy": score.name,
        "title": standing.title(score.name),
        "direction": str(score.direction),
        "log": _is_wide(x),
        "x": x.tolist(),
        "y": found.values[here].tolist(),
        "best": standing.best(found)[here].tolist(),
        "key": [key for key, there in zip(found.keys, here.tolist(), strict=True) if there],
    }


def _sample(db: Database, name: str, metric: str, rows: Rows) -> Sample:
    with db.read() as session:
        return scored.sample(session, name, metric, rows)


def _score(found: Sample, proxy: str | None) -> Score:
    known = {each.name: each for each in found.scores}
    if proxy is not None and proxy not in known:
        raise Invalid("proxy", f"{proxy!r} was not scored in this study, there are: {', '.join(known)}")
    return known[proxy or next(iter(known))]


def _metrics(study: StudyOut) -> list[str]:
    """Metrics that scores can be compared with: what is measured, and neither counted nor a score itself."""
    return [name for name in study.metrics if known_metric(name).scope in (Scope.TASK, Scope.DEVICE)]


def _metric(study: StudyOut, given: str | None) -> str:
    allowed = _metrics(study)
    if not allowed or (given is not None and given not in allowed):
        there = ", ".join(allowed) or "none"
        raise Invalid("metric", f"{given or 'nothing'!r} is not measured in this study, there are: {there}")
    return given or allowed[0]


def _said(context: Json) -> list[tuple[str, Any]]:
    """What a context says, its options among the rest."""
    flat = {**context, **context.get("options", {})}
    return [(key, item) for key, item in flat.items() if item is not None and not isinstance(item, dict)]


def _is_wide(values: Values) -> bool:
    return bool(len(values) and values.min() > 0 and values.max() > _WIDE * values.min())
