"""What templates are given, read through the repositories."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from search_spaces import drawing
from service.core.errors import Invalid
from service.core.metrics import Scope
from service.core.metrics import metric as known_metric
from service.core.objectives import ANALYTIC
from service.dashboard import findings
from service.db import confirmations, front, jobs, searches, supernets, trials
from service.wire.base import Json
from service.wire.searches import SearchOut, TrialCounts
from service.wire.studies import StudyOut

CONFIRMATIONS = 5
"""Newest confirmations on a study's page."""

SEARCHES = 200
"""Searches on a study's page, at most."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a search is: ``done`` of ``budget`` evaluations; ``open`` wait or are at work, ``failed`` are lost."""

    done: int
    budget: int
    open: int
    failed: int

    @property
    def percent(self) -> int:
        return min(100, 100 * self.done // max(self.budget, 1))


def search_name(search: SearchOut) -> str:
    """A search's name; one that was left out is made by the server."""
    return search.name or f"search {search.number}"


def progress(search: SearchOut) -> Progress:
    """Counts as people want them."""
    counts: TrialCounts = search.counts
    return Progress(
        done=search.evaluated,
        budget=search.budget,
        open=counts.queued + counts.leased,
        failed=counts.infeasible + counts.failed + counts.lost - search.undefined,
    )


# ---------------------------------------------------------------------- choices of the page


def plot_metrics(study: StudyOut) -> list[str]:
    """Metrics that may be an axis: all that the study measures, and what every space counts."""
    return list(dict.fromkeys([*study.metrics, *ANALYTIC]))


def axes(study: StudyOut, x: str | None, y: str | None) -> tuple[str, str]:
    """The axes of the front's plot: first objective upwards, the second to the right. Raises `Invalid`."""
    allowed = plot_metrics(study)
    for field, given in (("x", x), ("y", y)):
        if given is not None and given not in allowed:
            raise Invalid(field, f"{given!r} is not measured in this study, there are: {', '.join(allowed)}")
    objectives = [objective.metric for objective in study.objectives]
    up = y or next(name for name in [*objectives, *allowed] if name != x)
    right = x or next(name for name in [*objectives[1:], *allowed] if name != up)
    return right, up


def predictable(study: StudyOut) -> list[str]:
    """Metrics that predictors are fitted for: objectives that cannot simply be counted."""
    return [each.metric for each in study.objectives if known_metric(each.metric).scope is not Scope.ANALYTIC]


def predicted_metric(study: StudyOut, given: str | None) -> str | None:
    """The metric of the plot of predictions; None where nothing is predicted. Raises `Invalid`."""
    allowed = predictable(study)
    if given is not None and given not in allowed:
        raise Invalid("metric", f"{given!r} is not predicted in this study, there are: {', '.join(allowed) or 'none'}")
    return given or next(iter(allowed), None)


# ---------------------------------------------------------------------- parts of pages


def study_row(s: Session, study: StudyOut) -> Mapping[str, Any]:
    """A study in the list of studies."""
    found = searches.page(s, SEARCHES, study=study.name).items
    return {
        "study": study,
        "searches": [(search, progress(search)) for search in found],
        "hypervolume": front.front(s, study.name).hypervolume,
    }


def facts_part(s: Session, study: StudyOut) -> dict[str, Any]:
    """What the study is, and how far its super-network's training is."""
    supernet = supernets.get(s, study.supernet) if study.supernet is not None else None
    job = jobs.get(s, supernet.job) if supernet is not None and supernet.job is not None else None
    return {"supernet": supernet, "job": job}


def searches_part(s: Session, study: StudyOut) -> dict[str, Any]:
    """The table of searches."""
    found = searches.page(s, SEARCHES, study=study.name)
    return {
        "searches": [(search, progress(search)) for search in found.items],
        "more_searches": found.next_page_token is not None,
    }


def front_part(s: Session, study: StudyOut) -> dict[str, Any]:
    """The table of the front."""
    found = front.front(s, study.name)
    tested = sorted({name for point in found.points for name in point.test_metrics})
    return {
        "front": found,
        "tested": tested,
        "scaling": findings.scaling(found.scaling),
    }


def audit_part(s: Session, study: StudyOut, metric: str | None) -> dict[str, Any]:
    """How well predictions ranked what was measured."""
    name = predicted_metric(study, metric)
    if name is None:
        return {"predicted": None, "verdict": None, "metric": None, "predictable": []}
    found = front.predicted(s, study.name, name)
    return {
        "predicted": found,
        "verdict": findings.verdict(found.probes),
        "metric": name,
        "predictable": predictable(study),
    }


def confirmations_part(s: Session, study: StudyOut) -> dict[str, Any]:
    """The newest confirmations, each with the name of its search."""
    found = confirmations.newest(s, study.name, CONFIRMATIONS)
    names = {each.search: search_name(searches.get(s, each.search)) for each in found}
    return {"confirmations": [(names[each.search], each) for each in found]}


def trials_part(s: Session, study: StudyOut, size: int, token: str | None) -> dict[str, Any]:
    """One page of the table of trials."""
    found = trials.page(s, size, token, study=study.name, order="newest")
    # Few searches are on a page of trials, whatever their number in the study.
    names = {number: searches.get(s, number) for number in {trial.search for trial in found.items}}
    return {
        "trials": [(trial, names[trial.search]) for trial in found.items],
        "older": found.next_page_token,
        "first": token is None,
    }


@dataclass(frozen=True, slots=True)
class Diagram:
    """A graph as an SVG element, with what is said below it. ``skips`` and ``ports``: whether it has such."""

    svg: str
    title: str
    skips: bool
    ports: bool


def drawn(graph: Json) -> Diagram | None:
    """The diagram of a graph; None of an empty one."""
    if not graph.get("nodes"):
        return None
    made = drawing.drawn(graph["nodes"], graph["edges"])
    return Diagram(drawing.svg(made, name="diagram", styled=False), made.title, bool(made.skips), bool(made.ports))
