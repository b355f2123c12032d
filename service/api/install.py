"""Puts the interface into an application."""

from __future__ import annotations

from fastapi import APIRouter, FastAPI

from service.api import (
    artifacts,
    documents,
    events,
    health,
    jobs,
    middleware,
    problems,
    searches,
    spaces,
    studies,
    supernets,
    workers,
)
from service.api.deps import Services

MAX_BODY_BYTES = 16 * 2**20
"""Of requests other than artifacts."""

TAGS = {
    "spaces": "Sets of architectures, under names.",
    "super-networks": "Weight-sharing networks and their training.",
    "studies": "What is searched for, on what; fronts and architectures.",
    "searches": "Runs of search algorithms.",
    "trials": "Suggestions, and what became of them.",
    "predictors": "Versions of performance predictors.",
    "jobs": "The queue of work.",
    "workers": "Who does the work, and the data sets they have.",
    "artifacts": "Files by content.",
    "events": "What happens, as it happens.",
    "operation": "Health and metrics.",
}
"""Tag → description, in the order of the document."""


def install(app: FastAPI, services: Services) -> None:
    """Adds routes, error handlers, middleware and the document."""
    app.state.services = services
    for router in _routers():
        app.include_router(router)
    problems.install(app)
    documents.install(app)
    # The last one added is the outermost.
    app.add_middleware(middleware.BodyLimit, limit=MAX_BODY_BYTES, artifact_limit=artifacts.MAX_ARTIFACT_BYTES)
    app.add_middleware(middleware.OriginGuard, hosts=middleware.LOOPBACK_HOSTS | {services.settings.host})
    app.add_middleware(middleware.Observed)


def _routers() -> list[APIRouter]:
    resources = (spaces, supernets, studies, searches, jobs, workers, artifacts, events, health)
    return [resource.router for resource in resources]
